"""A Comparison as one HTML page: a table that sorts, and points that lead to the runs' reports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from compress.report.compare.data import Column, Comparison, ComparisonRow
from compress.report.compare.text import (
    column_names,
    differs_table,
    flags,
    interval_of_difference,
    interval_of_perplexity,
    interval_of_speedup,
    legend,
    marked,
    pairs_table,
)
from compress.report.render.charts import Dot, scatter
from compress.report.render.html import render
from compress.report.words import milliseconds, percent, size

__all__ = ["comparison_html"]

_MOST_NAMES = 8  # beside the points; more would cover each other, and numbers stand for them
_MOST_NUMBERS = 40  # of more, those on the fronts alone are numbered, if they are not too many either
_MOST_VERDICTS = 100

_Over = Literal["p50_ms", "file_bytes"]


@dataclass(frozen=True)
class _Cell:
    """A figure in the table, and what the column is sorted by; none: last."""

    text: str
    below: str = ""
    is_best: bool = False
    value: float | None = None


def comparison_html(comparison: Comparison, folder: Path | None = None) -> str:
    """One self-contained page.

    Args:
        folder: where it will be; None: links to reports are absolute.
    """
    links = {row.name: _link(row, folder) for row in comparison.rows}
    shown = [row for row in comparison.rows if _drawable(row, "p50_ms") or _drawable(row, "file_bytes")]
    labels = _labels(shown)
    numbered = len(shown) > _MOST_NAMES
    fronts: tuple[tuple[_Over, str, list[str]], ...] = (
        ("p50_ms", "faster", [row.name for row in comparison.rows if row.on_front]),
        ("file_bytes", "smaller", [row.name for row in comparison.rows if row.on_size_front]),
    )
    runs = [row for row in comparison.rows if not row.is_baseline]
    return render(
        "compare.html.j2",
        {
            "comparison": comparison,
            "columns": column_names(comparison),
            "cells": {row.name: _cells(row, comparison.columns) for row in comparison.rows},
            "quality": "Accuracy" if comparison.test_tokens is None else "Perplexity",
            "links": links,
            "legend": legend(comparison),
            "flags": flags(comparison),
            "pictures": [
                {
                    "picture": _picture(comparison, over, labels, links),
                    "left_out": [row.name for row in comparison.rows if not _drawable(row, over)],
                    "front": names,
                    "better": better,
                }
                for over, better, names in fronts
            ],
            "names": [(labels[row.name], row.name) for row in shown if labels[row.name]] if numbered else [],
            "numbered_all": len(shown) <= _MOST_NUMBERS,
            "pairs": pairs_table(comparison) if comparison.pairs else None,
            "differs": differs_table(comparison) if comparison.differs else None,
            "verdicts": runs[:_MOST_VERDICTS],
            "more_verdicts": len(runs[_MOST_VERDICTS:]),
        },
    )


def _link(row: ComparisonRow, folder: Path | None) -> str:
    """Where the run's own report is, as a link; empty without one."""
    if row.page is None:
        return ""
    page = Path(row.page)
    if folder is not None:
        try:
            return quote(Path(os.path.relpath(page, folder)).as_posix())
        except ValueError:
            pass  # another drive
    return page.absolute().as_uri()


def _labels(rows: Sequence[ComparisonRow]) -> dict[str, str]:
    """What stands beside each point: a name, a number, or nothing."""
    if len(rows) <= _MOST_NAMES:
        return {row.name: row.name for row in rows}
    numbered = {row.name for row in rows}
    if len(rows) > _MOST_NUMBERS:
        fronts = {row.name for row in rows if row.on_front or row.on_size_front}
        numbered = {row.name for row in rows if row.is_baseline}
        numbered |= fronts if len(fronts) <= _MOST_NUMBERS else set()
    return {row.name: str(place) if row.name in numbered else "" for place, row in enumerate(rows)}


def _picture(comparison: Comparison, over: _Over, labels: dict[str, str], links: dict[str, str]) -> str:
    drawn = [row for row in comparison.rows if _drawable(row, over)]
    dots = [_dot(row, over, labels[row.name], links[row.name]) for row in drawn]
    what = "latency p50, ms (left is faster)" if over == "p50_ms" else "file, MB (left is smaller)"
    return scatter(dots, what, perplexity=comparison.test_tokens is not None)


def _drawable(row: ComparisonRow, over: _Over) -> bool:
    return getattr(row, over) is not None and not {"accuracy", over} & set(row.not_comparable)


def _dot(row: ComparisonRow, over: _Over, label: str, link: str) -> Dot:
    # The paired interval around the baseline's figure: it crosses that line where nothing is measurable.
    value = row.accuracy if row.perplexity is None else row.perplexity
    low = high = value
    if row.perplexity_ratio is not None:
        base = value / row.perplexity_ratio.value
        low, high = base * row.perplexity_ratio.low, base * row.perplexity_ratio.high
    elif row.perplexity is None and row.difference is not None:
        base = value - row.difference.value
        low, high = base + row.difference.low, base + row.difference.high
    on_front = row.on_front if over == "p50_ms" else row.on_size_front
    x = (row.p50_ms or 0.0) if over == "p50_ms" else row.file_bytes / 1e6
    return Dot(label, x, value, low, high, row.is_baseline, _words(row), link, on_front)


def _words(row: ComparisonRow) -> str:
    quality = percent(row.accuracy) if row.perplexity is None else f"perplexity {row.perplexity:.3f}"
    figures = [quality, size(row.file_bytes)]
    if row.p50_ms is not None:
        figures.insert(1, milliseconds(row.p50_ms))
    return f"{row.name}: {row.stages}\n{', '.join(figures)}"


def _cells(row: ComparisonRow, columns: Sequence[Column]) -> list[_Cell]:
    """Each cell after the first two."""
    difference, interval = interval_of_difference(row)
    change = row.difference.value if row.difference else None
    cells = [_cell(row, column) for column in columns]
    return [cells[0], _Cell(difference, interval, value=change), *cells[1:]]


def _cell(row: ComparisonRow, column: Column) -> _Cell:
    raw = getattr(row, column)
    value = None if raw is None else float(getattr(raw, "value", raw))
    below = interval_of_speedup(row) if column == "speedup" else ""
    below = interval_of_perplexity(row) if column == "perplexity" else below
    return _Cell(marked(row, column), below, column in row.best, value)
