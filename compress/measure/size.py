"""Size of an ONNX file with its external data, on disk and after gzip.

External data files are found by searching for the bytes of the key that ONNX stores their names under, so
this module does not need the onnx package and loads no weights into memory.
"""

from __future__ import annotations

import mmap
import re
import zlib
from pathlib import Path

from compress.errors import MeasureError
from compress.measure.results import Size

__all__ = ["model_files", "model_size"]

_CHUNK_BYTES = 1 << 20
_GZIP_LEVEL = 6
_GZIP_FORMAT = 31  # zlib's wbits for a gzip header and trailer with the largest window
# onnx.proto, StringStringEntryProto: field 1, the key "location"; field 2, the value, preceded by its length.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")


def model_files(path: Path) -> tuple[Path, ...]:
    """List an ONNX file and the external data files that it names, each once, the file itself first.

    Names of 128 bytes or more are not found; no exporter writes them. A chance match within the weights is
    harmless: it counts only if a file of that name exists.

    Raises:
        MeasureError: if the file is empty, or names a file outside its folder.
    """
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        raise MeasureError(f"{path} is empty")
    folder = path.parent
    found: dict[Path, None] = {path: None}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in _LOCATION.finditer(data):
            name = data[match.end() : match.end() + match.group(1)[0]]
            try:
                text = name.decode("utf-8")
                beside = folder / text
                there = beside.is_file()
            except (UnicodeDecodeError, ValueError):  # a chance match: not text, or with a NUL
                continue
            # Check the path as written, because downloaded files are often symlinks to another place.
            if there and (Path(text).is_absolute() or ".." in Path(text).parts):
                raise MeasureError(f"{path}: its external data {text} must be in the same folder")
            if there:
                found[beside] = None
    return tuple(found)


def model_size(path: Path) -> Size:
    """Measure an ONNX file with its external data; each file is compressed separately."""
    files = model_files(path)
    return Size(
        file_bytes=sum(file.stat().st_size for file in files),
        gzip_bytes=sum(_gzip_bytes(file) for file in files),
    )


def _gzip_bytes(path: Path) -> int:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
    count = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            count += len(packer.compress(chunk))
    return count + len(packer.flush())
