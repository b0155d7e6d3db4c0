"""A page as GitHub-flavoured Markdown. Charts and heat maps are omitted; tables have their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from compress.page import Bullets, Code, Page, Pairs, Part, Row, Section, Table, Text, Tiles
from compress.page.format import capital
from compress.safe_text import visible

__all__ = ["escape_markdown", "fenced", "page_markdown", "section_markdown", "table_markdown"]

_MOST_ROWS = 200


def page_markdown(page: Page) -> str:
    """Render the page."""
    parts = [f"# {escape_markdown(page.name)}"]
    parts += [f"**{escape_markdown(page.lead)}**"] if page.lead else []
    parts += map(escape_markdown, page.notes)
    parts += filter(None, map(section_markdown, page.sections))
    return "\n\n".join(parts) + "\n"


def section_markdown(section: Section, level: int = 2) -> str:
    """A section under a heading of this level; empty if it contains only charts."""
    parts = list(_parts(section.parts, level + 1))
    return "\n\n".join([f"{'#' * level} {escape_markdown(section.title)}", *parts]) if parts else ""


def _parts(parts: Iterable[Part], level: int) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Row):
            yield from _parts(part.parts, level)
        elif text := _part(part, level):
            yield text


def _part(part: Part, level: int) -> str:
    match part:
        case Text():
            text = escape_markdown(part.text)
            return f"**{text}**" if part.style == "strong" and text else text
        case Bullets():
            return "\n".join(f"- {escape_markdown(str(line))}" for line in part.lines)
        case Table():
            return table_markdown(part)
        case Pairs():
            pairs = [(escape_markdown(name), escape_markdown(value)) for name, value in part.rows]
            if part.folded:
                return f"{escape_markdown(part.folded)}: " + "; ".join(f"{k} = {v}" for k, v in pairs)
            return "\n".join(f"- {name}: {value}" for name, value in pairs)
        case Code():
            code = fenced(part.text, part.language)
            return f"{escape_markdown(part.folded)}:\n\n{code}" if part.folded else code
        case Tiles():
            lines = [
                f"{x.name}: {x.words[:1].lower()}{x.words[1:]}, {x.before} → {x.after} ({x.note})"
                for x in part.tiles
            ]
            return "\n".join(f"- {escape_markdown(line)}" for line in lines)
        case Section():
            return section_markdown(part, level)
    return ""


def escape_markdown(text: str) -> str:
    """Text that Markdown shows verbatim, on one line, with hidden characters made visible."""
    text = visible(re.sub(r"\s*[\r\n]+\s*", " ", text))
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    # Underscores inside words are not escaped, so that names stay readable in the source.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text).rstrip()}\n{fence}"


def table_markdown(table: Table) -> str:
    """A table with its title above; rows past the 200th are only in the JSON file."""
    rule = ["---:" if letter == "r" else ":---" for letter in table.align]
    lines = [_line(map(escape_markdown, table.columns)), _line(rule)]
    lines += [_line(escape_markdown(str(cell)) for cell in row) for row in table.rows[:_MOST_ROWS]]
    text = "\n".join(lines)
    if table.title:
        text = f"**{escape_markdown(capital(table.title))}**\n\n{text}"
    left = len(table.rows) - _MOST_ROWS
    return text if left <= 0 else f"{text}\n\n{left:,} more rows are in the JSON file."


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
