"""A Comparison for the terminal, as Markdown and as HTML."""

from __future__ import annotations

from rich import box
from rich.table import Table as TerminalTable
from rich.text import Text

from compress.report.comparison import Column, Comparison, ComparisonRow, shown
from compress.report.html import render
from compress.report.markdown import escape_markdown, table_markdown
from compress.report.svg import Dot, scatter
from compress.report.tables import Table
from compress.report.words import MB_NOTE, accuracy_words, interval_text, percent, points

__all__ = ["comparison_html", "comparison_markdown", "terminal_table"]

_MOST_NAMES = 8
_COLUMNS = (
    "run",
    "stages",
    "accuracy",
    "difference",
    "p50 ms",
    "speed-up",
    "file MB",
    "gzip MB",
    "smaller by",
    "peak memory MB",
)


def _marked(row: ComparisonRow, column: Column) -> str:
    mark = "*" if column in row.best else "†" if column in row.not_comparable else ""
    return shown(row, column) + mark


def _difference(row: ComparisonRow) -> tuple[str, str]:
    """The difference in points and its interval, or two empty texts."""
    each = row.difference
    return ("", "") if each is None else points(each.value, each.low, each.high)


def _speedup_interval(row: ComparisonRow) -> str:
    each = row.speedup
    return "" if each is None or row.is_baseline else interval_text(each.value, each.low, each.high)


def _legend(comparison: Comparison) -> list[str]:
    lines = [
        f"Accuracy on {comparison.test_rows:,} test rows; latency p50 at {comparison.setting}. Speed-up, "
        f"difference (in points) and their 95 % intervals are against the run's own baseline. {MB_NOTE}",
        "* is best in its column, as shown; ties share it. A difference whose interval holds 0, or a "
        "speed-up whose interval holds 1, is not a measurable one.",
    ]
    if any(row.not_comparable for row in comparison.rows):
        lines.append("† does not compare with the other rows, and is not ranked.")
    return lines


def _flags(comparison: Comparison) -> list[str]:
    return [f"{row.name}: {flag}." for row in comparison.rows for flag in row.flags] + list(comparison.notes)


def terminal_table(comparison: Comparison) -> TerminalTable:
    """Intervals stand below their values, so that 80 columns are enough."""
    table = TerminalTable(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        show_lines=False,
        caption=Text("\n".join(_legend(comparison) + _flags(comparison))),
        caption_justify="left",
    )
    table.add_column("run", overflow="fold", min_width=10, max_width=26)
    heads = ("accuracy\npoints", "p50 ms", "speed-up", "file MB\ngzip MB", "smaller\nby", "memory\nMB")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    last = len(comparison.rows) - 1
    for place, row in enumerate(comparison.rows):
        difference, interval = _difference(row)
        # Text, not str: rich would read [brackets] in a name as its own markup.
        table.add_row(
            Text.assemble((row.name, "bold"), "\n", (row.stages, "dim")),
            _stack(row, "accuracy", difference, interval),
            _stack(row, "p50_ms"),
            _stack(row, "speedup", _speedup_interval(row)),
            Text("\n").join([_stack(row, "file_bytes"), _stack(row, "gzip_bytes")]),
            _stack(row, "smaller"),
            _stack(row, "peak_memory_bytes"),
            end_section=place == 0 and place != last,
        )
    return table


def _stack(row: ComparisonRow, column: Column, *below: str) -> Text:
    style = "bold" if column in row.best else "dim" if column in row.not_comparable else ""
    return Text("\n").join([Text(_marked(row, column), style), *(Text(x, "dim") for x in below if x)])


def _table(comparison: Comparison) -> Table:
    rows = []
    for row in comparison.rows:
        difference, interval = _difference(row)
        speedup = _speedup_interval(row)
        rows.append(
            (
                row.name,
                row.stages,
                _marked(row, "accuracy"),
                f"{difference} ({interval})" if interval else "",
                _marked(row, "p50_ms"),
                _marked(row, "speedup") + (f" ({speedup})" if speedup else ""),
                _marked(row, "file_bytes"),
                _marked(row, "gzip_bytes"),
                _marked(row, "smaller"),
                _marked(row, "peak_memory_bytes"),
            )
        )
    return Table(_COLUMNS, tuple(rows), "llrrrrrrrr")


def pairs_table(comparison: Comparison) -> Table:
    """Each pair of runs: whether one is measurably more accurate, and how often they agree."""
    rows = tuple(
        (x.one, x.other, accuracy_words(x.difference), percent(x.difference.agreement))
        for x in comparison.pairs
    )
    columns = ("run", "against", "its accuracy on the same test rows", "same answers")
    return Table(columns, rows, "lllr")


def differs_table(comparison: Comparison) -> Table:
    """Settings that the recipes don't share, a column for each run."""
    names = list(comparison.differs[0].values)
    rows = tuple((each.key, *(each.values[name] for name in names)) for each in comparison.differs)
    return Table(("setting", *names), rows, "l" * (1 + len(names)))


def comparison_markdown(comparison: Comparison) -> str:
    """Table, legend, what doesn't compare, and each run's verdict."""
    parts = ["# Comparison", table_markdown(_table(comparison))]
    parts += map(escape_markdown, _legend(comparison))
    flags = _flags(comparison)
    if flags:
        parts += ["## Before comparing", "\n".join(f"- {escape_markdown(flag)}" for flag in flags)]
    if comparison.pairs:
        parts += ["## Against each other", table_markdown(pairs_table(comparison))]
    if comparison.differs:
        parts += ["## What differs in the recipes", table_markdown(differs_table(comparison))]
    runs = (row for row in comparison.rows if not row.is_baseline)
    verdicts = (f"- **{escape_markdown(row.name)}**: {escape_markdown(row.verdict)}" for row in runs)
    return "\n\n".join([*parts, "## Verdicts", "\n".join(verdicts)]) + "\n"


def comparison_html(comparison: Comparison) -> str:
    """One self-contained page."""
    drawn = [row for row in comparison.rows if _drawable(row)]
    # Many names would cover each other: numbers stand for them.
    numbered = len(drawn) > _MOST_NAMES
    labels = [str(i) for i in range(len(drawn))] if numbered else [row.name for row in drawn]
    dots = [_dot(row, label) for row, label in zip(drawn, labels, strict=True)]
    left_out = [row.name for row in comparison.rows if not _drawable(row)]
    return render(
        "compare.html.j2",
        {
            "comparison": comparison,
            "columns": _COLUMNS,
            "cells": {row.name: _cells(row) for row in comparison.rows},
            "legend": _legend(comparison),
            "flags": _flags(comparison),
            "picture": scatter(dots),
            "names": list(zip(labels, drawn, strict=True)) if numbered else [],
            "left_out": left_out,
            "pairs": pairs_table(comparison) if comparison.pairs else None,
            "differs": differs_table(comparison) if comparison.differs else None,
            "front": [row.name for row in comparison.rows if row.on_front],
        },
    )


def _cells(row: ComparisonRow) -> list[tuple[str, str, bool]]:
    """Each cell after the first two: text, text below it, whether it is best."""
    difference, interval = _difference(row)
    below = {"speedup": _speedup_interval(row)}
    columns: tuple[Column, ...] = (
        "p50_ms",
        "speedup",
        "file_bytes",
        "gzip_bytes",
        "smaller",
        "peak_memory_bytes",
    )
    cells = [(_marked(row, "accuracy"), "", "accuracy" in row.best), (difference, interval, False)]
    return cells + [(_marked(row, x), below.get(x, ""), x in row.best) for x in columns]


def _drawable(row: ComparisonRow) -> bool:
    return row.p50_ms is not None and not {"accuracy", "p50_ms"} & set(row.not_comparable)


def _dot(row: ComparisonRow, label: str) -> Dot:
    # The paired interval around the baseline's accuracy: it crosses that line where nothing is measurable.
    base = row.accuracy - (row.difference.value if row.difference else 0)
    low, high = (base + row.difference.low, base + row.difference.high) if row.difference else (base, base)
    return Dot(label, row.p50_ms or 0.0, row.accuracy, low, high, row.is_baseline)
