"""Rows of one source before splitting: identity of rows, and their location for errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Label", "Note", "NoteKind", "Table", "Text", "Words", "counted", "listed", "loose_key", "shown"]

_LISTED = 5
_SHOWN_CHARACTERS = 60

Label = str | tuple[str, ...] | float | tuple[float, str]
"""The class name of a row; those of a task with several labels a row, sorted, each once; that of each word;
a number; or the relevance of a candidate and the name of its group."""


Text = str | tuple[str, str]
"""The text of a row; or its two texts, such as premise and hypothesis, in the order the model reads them."""

NoteKind = Literal["cut", "dropped", "guessed-labels", "limit", "other"]


class Note(str):
    """One line on what was done to the data.

    Attributes:
        kind: cut: texts were truncated. dropped: rows or documents were left out. guessed-labels: the order
            of the labels is an assumption. limit: fewer rows were requested. other: anything else, such as
            how a file was read.
    """

    kind: NoteKind

    def __new__(cls, text: str, kind: NoteKind = "other") -> Note:
        note = super().__new__(cls, text)
        note.kind = kind
        return note


class Words(str):
    """A text that was given as words, joined by spaces.

    Attributes:
        words: the words, which may contain spaces themselves.
    """

    words: tuple[str, ...]

    def __new__(cls, words: Sequence[str]) -> Words:
        made = super().__new__(cls, " ".join(words))
        made.words = tuple(words)
        return made

    def __getnewargs__(self) -> tuple[tuple[str, ...]]:  # type: ignore[override]
        """For copies and pickles."""
        return (self.words,)


@dataclass(frozen=True)
class Table:
    """Rows as read, each with the name of its label.

    Attributes:
        name: for people: the file's name without its folders.
        where: for errors: the path as the user can find it.
        items: the text or texts of each row, or the bytes of an input that is not text.
        labels: the label of each row.
        declared: class names in the order declared by the source, else empty.
        unit: what `numbers` counts: the lines of a file, or rows.
        numbers: line or row number of each row, from 1; empty if rows are in order.
        places: names of rows to use instead, such as image files.
        notes: how the source was read, if that is not obvious.
    """

    name: str
    where: str
    items: tuple[Text | bytes, ...]
    labels: tuple[Label, ...]
    declared: tuple[str, ...] = ()
    unit: Literal["line", "row"] = "row"
    numbers: tuple[int, ...] = ()
    places: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def place(self, index: int) -> str:
        """Location of a row: `line 7`, `cats/1.png`."""
        if self.places:
            return self.places[index]
        return f"{self.unit} {self.numbers[index] if self.numbers else index + 1}"


def loose_key(item: Text | bytes) -> Text | bytes:
    """Key for duplicate detection; ignores case and white space of texts, but not the order of a pair."""
    if isinstance(item, tuple):
        return _loose(item[0]), _loose(item[1])
    return _loose(item) if isinstance(item, str) else item


def _loose(text: str) -> str:
    return " ".join(text.split()).casefold()


def shown(item: Text | bytes) -> str:
    """Quote the start of a text, or of both, for an error; empty for bytes."""
    if isinstance(item, bytes):
        return ""
    if isinstance(item, tuple):
        return " and ".join(map(shown, item))
    return repr(item if len(item) <= _SHOWN_CHARACTERS else item[: _SHOWN_CHARACTERS - 3] + "...")


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: `1 row`, `2 rows`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(values: Sequence[object], limit: int = _LISTED) -> str:
    """Join the first few values with commas."""
    rest = len(values) - limit
    return ", ".join(str(value) for value in values[:limit]) + (f" and {rest} more" if rest > 0 else "")
