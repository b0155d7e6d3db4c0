"""Text columns from CSV, TSV, JSONL, Parquet and CoNLL files, lines of .txt files, and whole documents.

Nothing is repaired silently: unreadable input is an error that gives its location.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from compress.data.paths import format_of, what_is_there
from compress.data.sources.conll import sentences_of
from compress.data.sources.text_columns import check_columns
from compress.data.table import Note
from compress.errors import DataError
from compress.system.files import parse_json

__all__ = ["Columns", "column_names_of", "read_columns", "read_document"]

_INSTALL_HF = "pip install 'modelpress[hf]'"
# The csv module's default limit is 128 KiB per field; the new one must fit any system's C long.
_CSV_FIELD_LIMIT = 2**31 - 1
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "';'", "|": "'|'"}
_OWN_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_LOOKED_AT_BYTES = 4096
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@dataclass(frozen=True)
class Columns:
    """Selected columns of a file, the line of each row (empty if the format has no lines), and notes."""

    values: Sequence[Sequence[Any]]
    lines: tuple[int, ...] = ()
    notes: tuple[Note, ...] = ()


def read_columns(path: Path, columns: Sequence[str], *, lines: bool = False) -> Columns:
    """Read columns of a file; its extension determines the format.

    Args:
        lines: also accept .txt, whose non-blank lines are the only column.

    Raises:
        DataError: if the file or a column is missing, or it has an unsupported extension, encoding or syntax.
    """
    readers = {**_READERS, ".txt": _read_lines} if lines else _READERS
    wrong = what_is_there(path)
    if wrong:
        raise DataError(f"{path} {wrong}")
    reader = readers.get(format_of(path))
    if reader is None:
        raise DataError(
            f"{path}: cannot read '{path.suffix}' files; allowed: {', '.join(readers)}, all but .parquet "
            "also compressed as .gz"
        )
    with _explained(path):
        return reader(path, columns)


def read_document(path: Path) -> str:
    """Read the whole text of a file, which may be compressed (.gz).

    Raises:
        DataError: if it is not UTF-8 text, or cannot be read.
    """
    with _explained(path), _open_text(path) as file:
        return file.read()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Convert errors while reading a file to a DataError that says what to do."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _open_text(path: Path, *, newline: str | None = None) -> IO[str]:
    """Open a text file, which may be compressed (.gz).

    Raises:
        DataError: if its first bytes show an encoding other than UTF-8.
    """
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        beginning: bytes = file.read(_LOOKED_AT_BYTES)
    marks = (name for mark, name in _BYTE_ORDER_MARKS.items() if beginning.startswith(mark))
    encoding = next(marks, "UTF-16 or binary (it contains NUL bytes)" if b"\0" in beginning else "")
    if encoding:
        raise DataError(
            f"{path}: is {encoding}; save it as UTF-8 (iconv -f UTF-16 -t UTF-8 FILE > NEW, or in a "
            "spreadsheet: export as CSV with the encoding UTF-8)"
        )
    made: IO[str] = opened(path, "rt", encoding="utf-8-sig", newline=newline)
    return made


def _read_lines(path: Path, columns: Sequence[str]) -> Columns:
    with _open_text(path) as file:
        kept = [(number, line.strip()) for number, line in enumerate(file, start=1) if line.strip()]
    return Columns([[line for _, line in kept]], tuple(number for number, _ in kept))


def _read_csv(path: Path, columns: Sequence[str]) -> Columns:
    own = _OWN_SEPARATORS[format_of(path)]
    rows, numbers = [], []
    reader: Any = None
    previous_limit = csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        separator = _separator(path, columns, own)
        with _open_text(path, newline="") as file:
            # strict: otherwise an unclosed quote silently swallows the rest of the file.
            reader = csv.reader(file, strict=True, delimiter=separator)
            header = next(reader, None)
            if header is None:
                raise DataError(f"{path}: is empty")
            check_columns(str(path), header, columns)
            places = [header.index(name) for name in columns]
            start = reader.line_num + 1
            for fields in reader:
                if fields and len(fields) != len(header):
                    raise DataError(
                        f"{path}:{start}: {len(fields)} fields, but the header has {len(header)} (separated "
                        f"by {_SEPARATORS[separator]}); quote texts that contain a separator, a quote or a "
                        "line break"
                    )
                if fields:
                    rows.append([fields[at] for at in places])
                    numbers.append(start)
                start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num if reader else 1}: not valid CSV: {error}") from error
    finally:
        csv.field_size_limit(previous_limit)
    line = f"{path.name}: columns are separated by {_SEPARATORS[separator]}"
    notes = () if separator == own else (Note(line),)
    return Columns([[row[at] for row in rows] for at in range(len(columns))], tuple(numbers), notes)


def _separator(path: Path, columns: Sequence[str], own: str) -> str:
    """Separator that gives the header the wanted columns, or else the most columns."""
    with _open_text(path, newline="") as file:
        first = file.readline()
    headers = {each: next(csv.reader([first], delimiter=each), []) for each in (own, *_SEPARATORS)}
    for each, header in headers.items():
        if set(columns) <= set(header):
            return each
    return max(headers, key=lambda each: len(headers[each]))


def _read_jsonl(path: Path, columns: Sequence[str]) -> Columns:
    numbered = list(_json_objects(path))
    names = list(dict.fromkeys(name for _, row in numbered for name in row))
    if numbered:
        check_columns(str(path), names, columns)
    numbers = tuple(number for number, _ in numbered)
    return Columns([[row.get(name) for _, row in numbered] for name in columns], numbers)


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}:{number}: not valid JSON: {error.msg} at column {error.colno}"
                ) from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: each line must be a JSON object, not {type(row).__name__}")
            yield number, row


def _read_parquet(path: Path, columns: Sequence[str]) -> Columns:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow: {_INSTALL_HF}") from error
    try:
        # ParquetFile, not read_table, which makes columns out of folder names such as `label=1`.
        with pq.ParquetFile(path) as file:
            check_columns(str(path), file.schema_arrow.names, columns)
            table = file.read(columns=list(columns))
    except pa.ArrowException as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error
    return Columns([table.column(name).to_pylist() for name in columns])


def _read_conll(path: Path, columns: Sequence[str]) -> Columns:
    with _open_text(path) as file:
        return Columns(*sentences_of(path, file, columns, universal=format_of(path) == ".conllu"))


_ReadFile = Callable[[Path, Sequence[str]], Columns]
_READERS: dict[str, _ReadFile] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".conll": _read_conll,
    ".bio": _read_conll,
    ".conllu": _read_conll,
}


def column_names_of(path: Path, text: Sequence[str]) -> tuple[str, ...]:
    """Columns of a file; of JSONL those of its first line, of CoNLL none.

    Args:
        text: names of the text columns, used to detect the separator.
    """
    kind = format_of(path)
    if _READERS.get(kind) is _read_conll:
        return ()
    if kind == ".parquet":
        import pyarrow.parquet as pq

        return tuple(pq.read_schema(path).names)
    with _open_text(path, newline="") as file:
        first = file.readline()
    if kind == ".jsonl":
        return tuple(parse_json(first))
    separator = _separator(path, text, _OWN_SEPARATORS[kind])
    return tuple(next(csv.reader([first], delimiter=separator), []))
