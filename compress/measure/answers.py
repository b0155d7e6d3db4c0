"""Answers to many rows as compact text, so that two reports can be compared row by row."""

from __future__ import annotations

import base64
import re
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack_answers", "unpack_answers"]

_MOST_BYTES = 1 << 28  # unpacked bytes; keeps a short, malicious text from filling the memory
_FLOATS = re.compile(r"float64(?:\[(\d{1,4})\])?:")


def pack_answers(answers: NDArray[Any]) -> str:
    """Encode as base64 of deflated little-endian numbers.

    Args:
        answers: indices of 0 or more, [n], stored in 32 bits; or floats, [n] or [n, k], which the text names
            first: `float64:`, `float64[2]:`.
    """
    start, kind = "", "<u4"
    if answers.dtype.kind == "f":
        start = "".join(("float64", *(f"[{size}]" for size in answers.shape[1:]), ":"))
        kind = "<f8"
    return start + base64.b64encode(zlib.compress(answers.astype(kind).tobytes(), 9)).decode("ascii")


def unpack_answers(text: str) -> NDArray[Any]:
    """Decode what `pack_answers` wrote; returns int64 [n], or float64 [n] or [n, k].

    Raises:
        ValueError: if the text was not written by `pack_answers`.
    """
    found = _FLOATS.match(text)
    kind, start = ("<u4", 0) if found is None else ("<f8", found.end())
    width = 1 if found is None or found[1] is None else int(found[1])
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(base64.b64decode(text[start:], validate=True), _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"invalid packed answers: {error}") from error
    if not unpacker.eof or not width or len(raw) % (np.dtype(kind).itemsize * width):
        raise ValueError("invalid packed answers: truncated, or too many")
    values = np.frombuffer(raw, dtype=kind)
    if found is None:
        return values.astype(np.int64)
    return values.astype(np.float64).reshape(-1, *([width] if found[1] else []))
