"""The rows of one source before they are split: when two are the same, and how an error names one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Label", "Note", "NoteKind", "Table", "counted", "listed", "loose_key", "shown"]

_LISTED = 5
_SHOWN_CHARACTERS = 60

Label = str | tuple[str, ...]
"""The class name of a row; or those of a task with several labels a row, sorted, each once."""

NoteKind = Literal["cut", "dropped", "guessed-labels", "limit", "other"]


class Note(str):
    """One line on what was done to the data.

    Attributes:
        kind: cut: texts are longer than what is kept of them. dropped: rows or documents are left out.
            guessed-labels: the order of the labels is an assumption. limit: fewer rows were asked for. other:
            all else, such as how a file was read.
    """

    kind: NoteKind

    def __new__(cls, text: str, kind: NoteKind = "other") -> Note:
        note = super().__new__(cls, text)
        note.kind = kind
        return note


@dataclass(frozen=True)
class Table:
    """Rows as they were read, each with its label's name.

    Attributes:
        name: for people: the file's name without the machine's folders.
        where: for errors: the path as the user can find it.
        items: the text of each row, or the bytes of an input that is no text.
        labels: of each row.
        declared: class names in the order that the source itself states, else empty.
        unit: what `numbers` counts: the lines of a file, or rows.
        numbers: the place of each row, from 1; empty: rows in order.
        places: what each row is called instead, as the file of a picture.
        notes: how the source was read, where that is not obvious.
    """

    name: str
    where: str
    items: tuple[str | bytes, ...]
    labels: tuple[Label, ...]
    declared: tuple[str, ...] = ()
    unit: Literal["line", "row"] = "row"
    numbers: tuple[int, ...] = ()
    places: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def place(self, index: int) -> str:
        """The place of a row: `line 7`, `cats/1.png`."""
        if self.places:
            return self.places[index]
        return f"{self.unit} {self.numbers[index] if self.numbers else index + 1}"


def loose_key(item: str | bytes) -> str | bytes:
    """Key by which two rows are the same to a reader: case and white space of a text do not count."""
    return " ".join(item.split()).casefold() if isinstance(item, str) else item


def shown(item: str | bytes) -> str:
    """Quote the beginning of a text for an error; nothing for bytes."""
    if isinstance(item, bytes):
        return ""
    return repr(item if len(item) <= _SHOWN_CHARACTERS else item[: _SHOWN_CHARACTERS - 3] + "...")


def counted(count: int, noun: str) -> str:
    """Count a thing: `1 row`, `2 rows`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(values: Sequence[object], limit: int = _LISTED) -> str:
    """Join values by commas, the first few only."""
    rest = len(values) - limit
    return ", ".join(str(value) for value in values[:limit]) + (f" and {rest} more" if rest > 0 else "")
