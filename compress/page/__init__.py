"""Sections, and what they hold. A section is written once; Markdown, HTML and the terminal each render it.

Charts and heat maps are shown in HTML alone: their numbers are in a table or a sentence of the same section.
`folded` is the summary of a part that HTML folds away; empty: it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

__all__ = [
    "Bullets",
    "Cell",
    "Chart",
    "Code",
    "Heat",
    "HeatCell",
    "Page",
    "Pairs",
    "Part",
    "Row",
    "Section",
    "Table",
    "Text",
    "Tile",
    "Tiles",
    "heat_cells",
    "parts_of",
]


@dataclass(frozen=True)
class Text:
    """A paragraph: `strong` is what to read first, `note` explains figures."""

    kind: ClassVar[str] = "text"
    text: str
    style: Literal["", "strong", "note"] = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A table's cell that holds more than a text.

    Attributes:
        below: shown smaller, below the text or in brackets after it.
        value: what the column is sorted by.
        best: shown bold.
        link: where the text leads; empty: nowhere.
    """

    text: str
    below: str = ""
    value: float | None = None
    best: bool = False
    link: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.below})" if self.below else self.text


@dataclass(frozen=True)
class Table:
    """Texts in rows.

    Attributes:
        align: one letter a column: l(eft) or r(ight).
        sorts: its rows are of one kind, so that a reader may order them.
        pinned: the first row stays first however the rows are ordered.
    """

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    align: str
    title: str = ""
    sorts: bool = True
    folded: str = ""
    pinned: bool = False


@dataclass(frozen=True)
class Pairs:
    """Names and their values."""

    kind: ClassVar[str] = "pairs"
    rows: tuple[tuple[str, str], ...]
    folded: str = ""


@dataclass(frozen=True)
class Code:
    """A command, program or file to copy."""

    kind: ClassVar[str] = "code"
    text: str
    language: str = ""
    folded: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing; `draw` is called by the renderer that shows it, and gives SVG or other markup."""

    kind: ClassVar[str] = "chart"
    draw: Callable[[], str]
    caption: str = ""
    title: str = ""


@dataclass(frozen=True)
class HeatCell:
    """One value of a heat map: `step` is 0 to 6, and a marked cell is outlined."""

    text: str
    step: int
    marked: bool = False


@dataclass(frozen=True)
class Heat:
    """Values by row and column in seven shades.

    Attributes:
        first: head of the column of names.
    """

    kind: ClassVar[str] = "heat"
    title: str
    first: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


def heat_cells(values: Sequence[float], largest: float, marked: Sequence[int] = ()) -> tuple[HeatCell, ...]:
    """Return each value with two decimals, and its share of `largest` as a step."""
    scale = largest if largest > 0 else 1.0
    return tuple(
        HeatCell(f"{value:.2f}", min(6, max(0, int(7 * value / scale))), index in marked)
        for index, value in enumerate(values)
    )


@dataclass(frozen=True)
class Tile:
    """A key figure: what became of it in words, its value before and after, and a note."""

    name: str
    words: str
    before: str
    after: str
    note: str


@dataclass(frozen=True)
class Tiles:
    """Key figures side by side."""

    kind: ClassVar[str] = "tiles"
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Row:
    """Parts side by side, where there is room; `dense` for many small ones."""

    kind: ClassVar[str] = "row"
    parts: tuple[Part, ...]
    dense: bool = False


@dataclass(frozen=True)
class Section:
    """A title and what is below it, in order.

    Attributes:
        key: names a section of a page, in links; empty for a section within a section.
        nav: what a link to it says; empty: the title.
        style: `warnings` is shown as such.
    """

    kind: ClassVar[str] = "section"
    title: str
    parts: tuple[Part, ...]
    key: str = ""
    nav: str = ""
    style: Literal["", "warnings"] = ""
    folded: bool = False
    open: bool = False


Part: TypeAlias = Text | Bullets | Table | Pairs | Code | Chart | Heat | Tiles | Row | Section


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        name: what it is about, the first heading.
        lead: the one sentence to read.
        notes: shown small below it.
    """

    name: str
    title: str
    lead: str
    notes: tuple[str, ...]
    sections: tuple[Section, ...]


def parts_of(*given: Part | None | Iterable[Part]) -> tuple[Part, ...]:
    """Return the parts in order, without None; of a list of parts, each."""
    found: list[Part] = []
    for each in given:
        if each is None:
            continue
        found += [each] if hasattr(each, "kind") else each  # type: ignore[list-item]
    return tuple(found)
