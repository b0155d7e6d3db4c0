"""Sections and tables for the terminal. Text is shown verbatim: rich does not interpret `[...]` in names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text as RichText

from compress.page import Bullets, Code, Pairs, Part, Row, Section, Table, Text, Tiles
from compress.page.format import capital

__all__ = ["terminal_parts", "terminal_section", "terminal_table"]


def terminal_section(section: Section) -> Group:
    """A section with its title."""
    return Group(RichText(section.title, "bold"), "", terminal_parts(section.parts))


def terminal_parts(parts: Iterable[Part]) -> Group:
    """Parts separated by empty lines; charts are omitted."""
    shown = [each for part in parts for each in _shown(part)]
    return Group(*(line for each in shown for line in (each, ""))) if shown else Group()


def _shown(part: Part) -> Iterator[RenderableType]:
    match part:
        case Text():
            yield RichText(part.text, "bold" if part.style == "strong" else "")
        case Bullets():
            yield RichText("\n".join(f"- {line}" for line in part.lines))
        case Table():
            yield terminal_table(part)
        case Pairs():
            yield terminal_table(Table((part.folded, ""), part.rows, "ll"))
        case Code():
            yield RichText(part.text)
        case Tiles():
            lines = (f"{x.name}: {x.words}, {x.before} → {x.after} ({x.note})" for x in part.tiles)
            yield RichText("\n".join(lines))
        case Row():
            for each in part.parts:
                yield from _shown(each)
        case Section():
            yield terminal_section(part)


def terminal_table(table: Table) -> RichTable:
    """A table with its title."""
    title = RichText(capital(table.title)) if table.title else None
    drawn = RichTable(title=title, title_justify="left", box=None, pad_edge=False)
    for column, letter in zip(table.columns, table.align, strict=True):
        drawn.add_column(RichText(column), justify="right" if letter == "r" else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(RichText(str(cell)) for cell in row))
    return drawn
