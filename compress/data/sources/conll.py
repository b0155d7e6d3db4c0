"""Sentences of words from CoNLL and CoNLL-U files: a line per word, a blank line between sentences.

Columns are separated by tabs, or else by white space. Of a CoNLL file, columns are numbered from 1; the first
one has the words and the last one the labels unless a recipe says otherwise. CoNLL-U has named columns
(universaldependencies.org/format.html): words are those of FORM, labels those of UPOS; the lines of ranges
(1-2) and of empty nodes (1.1) are skipped, since their words have lines of their own or are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from compress.data.table import listed
from compress.errors import DataError

__all__ = ["sentences_of"]

_TEXT, _LABEL = "text", "label"  # the defaults of data.text and data.label
_START = "-DOCSTART-"
_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_NOTHING = "_"  # an empty field of CoNLL-U


def sentences_of(
    path: Path, lines: Iterable[str], columns: Sequence[str], *, universal: bool
) -> tuple[list[list[list[str]]], tuple[int, ...]]:
    """Sentences of a file as lists of words or labels, for each column, and the first line of each sentence.

    Args:
        lines: of the file, in order.
        columns: numbers or, of CoNLL-U, names; `text` and `label` are the default ones.
        universal: whether the file is CoNLL-U.

    Raises:
        DataError: a column doesn't exist, or a line has another number of columns than the first one.
    """
    starts: list[int] = []
    sentences: list[list[list[str]]] = []
    width, places, inside = 0, [0] * len(columns), False
    for number, line in enumerate(lines, start=1):
        fields = _fields(line)
        if not fields or fields[0] == _START or (universal and line.startswith("#")):
            inside = inside and bool(fields) and fields[0] != _START
            continue
        if not width:
            width = len(_COLUMNS) if universal else len(fields)
            places = [_place(path, name, width, universal) for name in columns]
            if len(set(places)) < len(places):
                raise DataError(
                    f"{path}:{number}: words and labels are in the same column, {places[0] + 1} of {width}; "
                    "each line needs a word and its label, and data.text and data.label different columns"
                )
        if len(fields) != width:
            raise DataError(_of_other_width(path, number, len(fields), width, universal))
        if universal and not fields[0].isdigit():
            continue
        if not inside:
            starts.append(number)
            sentences.append([[] for _ in columns])
            inside = True
        for name, place, found in zip(columns, places, sentences[-1], strict=True):
            if universal and fields[place] == _NOTHING and name != columns[0]:
                raise DataError(f"{path}:{number}: the word '{fields[1]}' has no {_COLUMNS[place]}")
            found.append(fields[place])
    return [[each[at] for each in sentences] for at in range(len(columns))], tuple(starts)


def _fields(line: str) -> list[str]:
    if not line.strip():
        return []
    return [field.strip() for field in line.rstrip("\r\n").split("\t")] if "\t" in line else line.split()


def _place(path: Path, name: str, width: int, universal: bool) -> int:
    """Index of a column."""
    if universal:
        name = {_TEXT: "FORM", _LABEL: "UPOS"}.get(name, name)
        if name.upper() in _COLUMNS:
            return _COLUMNS.index(name.upper())
    name = {_TEXT: "1", _LABEL: str(width)}.get(name, name)
    if not name.isdecimal() or not 1 <= int(name) <= width:
        names = f"{listed(_COLUMNS, width)}, or " if universal else ""
        raise DataError(
            f"{path}: no column '{name}'; allowed for data.text and data.label: {names}1 to {width}"
        )
    return int(name) - 1


def _of_other_width(path: Path, number: int, found: int, width: int, universal: bool) -> str:
    whose = "CoNLL-U has" if universal else "the first word's line has"
    return (
        f"{path}:{number}: {found} column{'s' if found != 1 else ''}, but {whose} {width}; give each word "
        "one line of as many columns, separated by tabs or else by spaces, and a blank line between sentences"
    )
