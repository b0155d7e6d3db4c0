"""Texts, with or without labels, from CSV, TSV, JSONL and Parquet files and from Hugging Face `datasets`.

Nothing is repaired silently: a row without text or label is an error that says where it stands.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from compress.data.config import DatasetsData
from compress.data.table import Note, Table, listed
from compress.errors import DataError, did_you_mean, shortened
from compress.system.files import parse_json

__all__ = [
    "format_of",
    "read_datasets",
    "read_document",
    "read_text_file",
    "read_unlabelled_dataset",
    "read_unlabelled_file",
    "what_is_there",
]

_INSTALL_HF = "pip install 'modelpress[hf]'"
# The csv module refuses fields above 128 KiB unless told otherwise; the limit must fit any system's C long.
_CSV_FIELD_LIMIT = 2**31 - 1
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "';'", "|": "'|'"}
_OWN_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_WHOLE = re.compile(r"([-+]?\d+)\.0*")
_LOOKED_AT_BYTES = 4096
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def read_text_file(path: Path, *, text: str, label: str) -> Table:
    """Read the text and label columns of a file; its ending says which format it has.

    Raises:
        DataError: no such file, column, text or label; an ending, encoding or syntax that cannot be read.
    """
    read = _read(path, (text, label), _READERS)
    texts, labels = read.values
    unit: Literal["line", "row"] = "line" if read.lines else "row"
    return _checked(
        path.name,
        str(path),
        texts,
        labels,
        unit=unit,
        numbers=read.lines,
        columns=(text, label),
        notes=read.notes,
    )


def read_unlabelled_file(path: Path, *, text: str) -> Table:
    """Read the text column of a file, or the lines of a .txt that aren't blank; the table has no labels.

    Raises:
        DataError: no such file, column or text; an ending, encoding or syntax that cannot be read.
    """
    read = _read(path, (text,), {**_READERS, ".txt": _read_lines})
    (texts,) = read.values
    unit: Literal["line", "row"] = "line" if read.lines else "row"
    _check_texts(str(path), texts, text, unit, read.lines)
    return Table(path.name, str(path), tuple(texts), (), unit=unit, numbers=read.lines, notes=read.notes)


def read_document(path: Path) -> str:
    """Read the whole text of a file, which may be compressed (.gz).

    Raises:
        DataError: it is not UTF-8 text, or cannot be read.
    """
    with _explained(path), _open_text(path) as file:
        return file.read()


def format_of(path: Path) -> str:
    """The ending that says how a file is read, in small letters: `.csv` for `a.CSV` and `a.csv.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def what_is_there(path: Path) -> str:
    """Say why a path is not a file that can be read, for an error; empty if it is one."""
    if path.is_file():
        return ""
    if path.is_dir():
        inside = sorted(
            each.name
            for each in path.iterdir()
            if format_of(each) in _READERS and not each.name.startswith(".")
        )
        return "is a directory" + (f"; it holds {listed(inside)}" if inside else "")
    return "is not a regular file" if path.exists() else "does not exist"


@dataclass(frozen=True)
class _Read:
    """The wanted columns of a file, the line of each row (none for rows without lines), and notes."""

    values: Sequence[Sequence[Any]]
    lines: tuple[int, ...] = ()
    notes: tuple[Note, ...] = ()


def _read(path: Path, columns: Sequence[str], readers: Mapping[str, Reader]) -> _Read:
    wrong = what_is_there(path)
    if wrong:
        raise DataError(f"{path} {wrong}")
    reader = readers.get(format_of(path))
    if reader is None:
        raise DataError(
            f"{path}: cannot read files ending in '{path.suffix}'; allowed: {', '.join(readers)}, and all "
            "but .parquet compressed as .gz"
        )
    with _explained(path):
        return reader(path, columns)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what reading a file can raise into a DataError that says what to do."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}): save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _open_text(path: Path, *, newline: str | None = None) -> IO[str]:
    """Open a text file, which may be compressed (.gz).

    Raises:
        DataError: its first bytes show another encoding than UTF-8.
    """
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        beginning: bytes = file.read(_LOOKED_AT_BYTES)
    marks = (name for mark, name in _BYTE_ORDER_MARKS.items() if beginning.startswith(mark))
    encoding = next(marks, "UTF-16 or no text: it has NUL bytes" if b"\0" in beginning else "")
    if encoding:
        raise DataError(
            f"{path}: is {encoding}; save it as UTF-8 (iconv -f UTF-16 -t UTF-8 FILE > NEW, or in a "
            "spreadsheet: export as CSV with the encoding UTF-8)"
        )
    made: IO[str] = opened(path, "rt", encoding="utf-8-sig", newline=newline)
    return made


def read_datasets(config: DatasetsData) -> dict[str, Table]:
    """Read the splits that a `datasets` source names: train, and validation and test where they are given.

    Raises:
        DataError: no such directory, hub name, split, column, text or label.
    """
    wanted = {"train": config.train, "validation": config.validation, "test": config.test}
    return {
        part: _read_dataset(split, name, where, (config.text, config.label))
        for part, (split, name, where) in _named_splits(config, wanted).items()
    }


def read_unlabelled_dataset(config: DatasetsData) -> Table:
    """Read the texts of the split that a `datasets` source names `unlabelled`; the table has no labels.

    Raises:
        DataError: no such directory, hub name, split, column or text.
    """
    dataset, name, where = _named_splits(config, {"unlabelled": config.unlabelled})["unlabelled"]
    _check_columns(where, dataset.column_names, (config.text,))
    texts = dataset.select_columns([config.text]).with_format(None)[:][config.text]
    _check_texts(where, texts, config.text)
    return Table(name, where, tuple(texts), ())


def _named_splits(config: DatasetsData, wanted: Mapping[str, str | None]) -> dict[str, tuple[Any, str, str]]:
    """Of each wanted split that has a name: its rows, its name for people and for errors."""
    dataset = _open_datasets(config)
    # A lone Dataset has no split names: it is the pool from which the others are drawn.
    splits = dict(dataset) if isinstance(dataset, dict) else {config.train: dataset}
    short = Path(config.name).name if Path(config.name).is_dir() else config.name
    found = {}
    for part, name in wanted.items():
        if name is None:
            continue
        if name not in splits:
            raise DataError(f"{config.name}: no split '{name}' for {part}{did_you_mean(name, splits)}")
        found[part] = (splits[name], f"{short}[{name}]", f"{config.name}[{name}]")
    return found


def _read_lines(path: Path, columns: Sequence[str]) -> _Read:
    with _open_text(path) as file:
        kept = [(number, line.strip()) for number, line in enumerate(file, start=1) if line.strip()]
    return _Read([[line for _, line in kept]], tuple(number for number, _ in kept))


def _read_csv(path: Path, columns: Sequence[str]) -> _Read:
    own = _OWN_SEPARATORS[format_of(path)]
    rows, numbers = [], []
    reader: Any = None
    previous_limit = csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        separator = _separator(path, columns, own)
        with _open_text(path, newline="") as file:
            # strict: else a quote that is never closed swallows the rest of the file without a word.
            reader = csv.reader(file, strict=True, delimiter=separator)
            header = next(reader, None)
            if header is None:
                raise DataError(f"{path}: is empty")
            _check_columns(str(path), header, columns)
            places = [header.index(name) for name in columns]
            start = reader.line_num + 1
            for fields in reader:
                if fields and len(fields) != len(header):
                    raise DataError(
                        f"{path}:{start}: {len(fields)} fields where the header has {len(header)} (separated "
                        f"by {_SEPARATORS[separator]}): a text with a separator, a quote or a line break "
                        "must be quoted"
                    )
                if fields:
                    rows.append([fields[at] for at in places])
                    numbers.append(start)
                start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num if reader else 1}: not CSV: {error}") from error
    finally:
        csv.field_size_limit(previous_limit)
    line = f"{path.name}: its columns are separated by {_SEPARATORS[separator]}"
    notes = () if separator == own else (Note(line),)
    return _Read([[row[at] for row in rows] for at in range(len(columns))], tuple(numbers), notes)


def _separator(path: Path, columns: Sequence[str], own: str) -> str:
    """The separator under which the header has the wanted columns, or else the most columns."""
    with _open_text(path, newline="") as file:
        first = file.readline()
    headers = {each: next(csv.reader([first], delimiter=each), []) for each in (own, *_SEPARATORS)}
    for each, header in headers.items():
        if set(columns) <= set(header):
            return each
    return max(headers, key=lambda each: len(headers[each]))


def _read_jsonl(path: Path, columns: Sequence[str]) -> _Read:
    numbered = list(_json_objects(path))
    names = list(dict.fromkeys(name for _, row in numbered for name in row))
    if numbered:
        _check_columns(str(path), names, columns)
    numbers = tuple(number for number, _ in numbered)
    return _Read([[row.get(name) for _, row in numbered] for name in columns], numbers)


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: a line must be a JSON object, not {type(row).__name__}")
            yield number, row


def _read_parquet(path: Path, columns: Sequence[str]) -> _Read:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow: {_INSTALL_HF}") from error
    try:
        # ParquetFile, not read_table: that one makes columns out of folder names such as `label=1`.
        with pq.ParquetFile(path) as file:
            _check_columns(str(path), file.schema_arrow.names, columns)
            table = file.read(columns=list(columns))
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
    return _Read([table.column(name).to_pylist() for name in columns])


Reader = Callable[[Path, Sequence[str]], _Read]
_READERS: dict[str, Reader] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _open_datasets(config: DatasetsData) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"data source 'datasets' needs the datasets library: {_INSTALL_HF}") from error
    path = Path(config.name).expanduser()
    if path.is_dir():
        try:
            return datasets.load_from_disk(str(path))
        except Exception as error:  # the library raises many kinds; each means that it is no saved data set
            raise DataError(
                f"{path}: not a directory that datasets' save_to_disk wrote ({error}); "
                "for CSV, JSONL or Parquet files use `source: file`"
            ) from error
    if path.exists():
        raise DataError(f"{path}: is a file; for CSV, JSONL or Parquet files use `source: file`")
    if path.is_absolute() or config.name.startswith(".") or config.name.count("/") > 1:
        raise DataError(f"{config.name}: no such directory")
    try:
        return datasets.load_dataset(config.name, config.config)
    except Exception as error:  # network, hub, cache and builder errors share no base class
        raise DataError(
            f"data set '{config.name}' is no directory here and could not be loaded from the Hugging Face "
            f"Hub ({type(error).__name__}: {error}); check its name and the network, or save it elsewhere "
            "with save_to_disk and give that directory as name"
        ) from error


def _read_dataset(dataset: Any, name: str, where: str, columns: tuple[str, str]) -> Table:
    text, label = columns
    _check_columns(where, dataset.column_names, columns)
    values = dataset.select_columns(list(dict.fromkeys(columns))).with_format(None)[:]
    labels, declared = values[label], tuple(getattr(dataset.features[label], "names", None) or ())
    if declared:
        # -1 is how the Hub marks the labels of a test split that are kept secret.
        labels = [None if value is None or value < 0 else declared[value] for value in labels]
    return _checked(name, where, values[text], labels, declared=declared, columns=columns)


def _check_columns(where: str, present: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in present:
            near = did_you_mean(name, present)
            near = "" if near.startswith("; allowed") else near
            raise DataError(f"{where}: no column '{name}'{near} (columns: {listed(present, 20)})")
        if present.count(name) > 1:
            raise DataError(f"{where}: column '{name}' stands there {present.count(name)} times")


def _checked(
    name: str,
    where: str,
    texts: Sequence[Any],
    labels: Sequence[Any],
    *,
    columns: tuple[str, str],
    declared: tuple[str, ...] = (),
    unit: Literal["line", "row"] = "row",
    numbers: tuple[int, ...] = (),
    notes: tuple[Note, ...] = (),
) -> Table:
    """Make a table of raw columns, or say which rows lack a text or a label."""
    _check_texts(where, texts, columns[0], unit, numbers)
    at = numbers or tuple(range(1, len(texts) + 1))
    names = tuple(_label_name(value, f"{where}: {unit} {n}") for n, value in zip(at, labels, strict=True))
    _refuse_gaps(where, "label", columns[1], unit, [n for n, v in zip(at, names, strict=True) if not v])
    names = _class_names(names, where, columns[1])
    return Table(name, where, tuple(texts), names, declared, unit, numbers, notes=notes)


def _check_texts(
    where: str,
    texts: Sequence[Any],
    column: str,
    unit: Literal["line", "row"] = "row",
    numbers: tuple[int, ...] = (),
) -> None:
    """See that there are rows, and that each has a text."""
    if not texts:
        raise DataError(f"{where}: has no rows")
    at = numbers or tuple(range(1, len(texts) + 1))
    for number, value in zip(at, texts, strict=True):
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            raise DataError(f"{where}: column '{column}' holds {kind}, not text ({unit} {number})")
    lacking = [n for n, value in zip(at, texts, strict=True) if value is None or not value.strip()]
    _refuse_gaps(where, "text", column, unit, lacking)


def _refuse_gaps(where: str, word: str, column: str, unit: str, lacking: Sequence[int]) -> None:
    if lacking:
        many = "s" if len(lacking) > 1 else ""
        raise DataError(
            f"{where}: no {word} in column '{column}' at {unit}{many} {listed(lacking)}; "
            f"fill or remove {'them' if many else 'it'}"
        )


def _label_name(value: Any, where: str) -> str:
    """Name of a class; 1 and 1.0 are one, None, NaN and blanks are the empty name."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict):
        raise DataError(
            f"{where}: a label is {shortened(repr(value))}: several labels a row (multi-label "
            "classification) are not supported; give one class a row"
        )
    if not isinstance(value, str | int | float):
        raise DataError(
            f"{where}: a label must be text, a whole number or true/false, not {type(value).__name__}"
        )
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else _refuse_amount(where, value)
    return str(value).strip()


def _class_names(names: tuple[str, ...], where: str, column: str) -> tuple[str, ...]:
    """Names of classes as a model knows them: where all are numbers, `1.0` is the class 1."""
    distinct = set(names)
    if not all(_NUMBER.fullmatch(name) for name in distinct):
        return names
    fractions = {name for name in distinct if not float(name).is_integer()}
    if fractions:
        first = next(name for name in names if name in fractions)
        _refuse_amount(f"{where}: column '{column}'", first)
    return tuple(found[1] if (found := _WHOLE.fullmatch(name)) else name for name in names)


def _refuse_amount(where: str, value: object) -> NoReturn:
    raise DataError(
        f"{where}: the label {value} is a number with a fraction: to predict an amount is regression, which "
        "is not supported; for a classification give each class a name or a whole number"
    )
