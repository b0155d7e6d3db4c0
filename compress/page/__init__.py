"""Sections and their parts. A section is written once and rendered as Markdown, HTML and terminal output.

Charts and heat maps are shown in HTML only: their numbers are in a table or sentence of the same section.
`folded` is the summary of a part that HTML collapses; empty: it is not collapsed.
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
    "Line",
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
    """A paragraph: `strong` for the key message, `note` for explanations of figures."""

    kind: ClassVar[str] = "text"
    text: str
    style: Literal["", "strong", "note"] = ""


@dataclass(frozen=True)
class Line:
    """A short sentence of a list, and details that HTML collapses."""

    text: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".rstrip()


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    lines: tuple[str | Line, ...]


@dataclass(frozen=True)
class Cell:
    """A table cell with more than plain text.

    Attributes:
        below: shown smaller below the text, or in brackets after it.
        value: sort key.
        best: shown in bold.
        link: link target; empty for none.
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
    """A table of text.

    Attributes:
        align: one letter per column: l(eft) or r(ight).
        sorts: whether readers may sort the rows.
        pinned: whether the first row stays first when sorted.
        stacks: whether narrow screens show each row as a block, instead of scrolling sideways.
    """

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    align: str
    title: str = ""
    sorts: bool = True
    folded: str = ""
    pinned: bool = False
    stacks: bool = False


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
    """A drawing; the renderer that shows it calls `draw`, which returns SVG or other markup."""

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
        first: header of the column of row names.
    """

    kind: ClassVar[str] = "heat"
    title: str
    first: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


def heat_cells(values: Sequence[float], largest: float, marked: Sequence[int] = ()) -> tuple[HeatCell, ...]:
    """Return each value with two decimals, with its share of `largest` as a step."""
    scale = largest if largest > 0 else 1.0
    return tuple(
        HeatCell(f"{value:.2f}", min(6, max(0, int(7 * value / scale))), index in marked)
        for index, value in enumerate(values)
    )


@dataclass(frozen=True)
class Tile:
    """A key figure: the outcome in words, its value before and after, and a note."""

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
    """Parts side by side if there is room; `dense` for many small ones."""

    kind: ClassVar[str] = "row"
    parts: tuple[Part, ...]
    dense: bool = False


@dataclass(frozen=True)
class Section:
    """A title and the parts below it, in order.

    Attributes:
        key: anchor of a top-level section; empty for a nested one.
        nav: text of links to it; empty: the title.
        style: `warnings` highlights it; `bare` shows the parts alone, without title and frame.
    """

    kind: ClassVar[str] = "section"
    title: str
    parts: tuple[Part, ...]
    key: str = ""
    nav: str = ""
    style: Literal["", "warnings", "bare"] = ""
    folded: bool = False
    open: bool = False


Part: TypeAlias = Text | Bullets | Table | Pairs | Code | Chart | Heat | Tiles | Row | Section


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        name: the subject, used as the first heading.
        lead: the key sentence.
        notes: shown in small type below it.
    """

    name: str
    title: str
    lead: str
    notes: tuple[str, ...]
    sections: tuple[Section, ...]


def parts_of(*given: Part | None | Iterable[Part]) -> tuple[Part, ...]:
    """Return the parts in order, with lists flattened and None dropped."""
    found: list[Part] = []
    for each in given:
        if each is None:
            continue
        found += [each] if hasattr(each, "kind") else each  # type: ignore[list-item]
    return tuple(found)
