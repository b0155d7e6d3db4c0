"""A comparison for an 80-column terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from compress.report.compare.data import Column, ComparedRuns, ComparisonRow
from compress.report.compare.sections import (
    difference_of,
    flags,
    interval_of,
    legend,
    marked,
)

__all__ = ["comparison_table"]


def comparison_table(comparison: ComparedRuns) -> Table:
    """Table with intervals below their values, to fit 80 columns."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        show_lines=False,
        caption=Text("\n".join(legend(comparison) + flags(comparison))),
        caption_justify="left",
    )
    table.add_column("run", overflow="fold", min_width=10, max_width=26)
    quality: Column = "accuracy" if comparison.test_tokens is None else "perplexity"  # no room for both
    first = (
        f"{comparison.score}\n{comparison.written.change_unit.strip() or 'change'}"
        if quality == "accuracy"
        else "perplexity\nratio"
    )
    for head in (first, "p50 ms", "speed-up", "file MB\ngzip MB", "smaller\nby", "memory\nMB"):
        table.add_column(head, justify="right", no_wrap=True)
    last = len(comparison.rows) - 1
    for at, row in enumerate(comparison.rows):
        # Text, not str: rich would interpret [brackets] in a name as markup.
        table.add_row(
            Text.assemble((row.name, "bold"), "\n", (row.stages, "dim")),
            _stack(row, quality, *(difference_of(row) if quality == "accuracy" else ())),
            _stack(row, "p50_ms"),
            _stack(row, "speedup"),
            Text("\n").join([_stack(row, "file_bytes"), _stack(row, "gzip_bytes")]),
            _stack(row, "smaller"),
            _stack(row, "peak_memory_bytes"),
            end_section=at == 0 and at != last,
        )
    return table


def _stack(row: ComparisonRow, column: Column, *below: str) -> Text:
    style = "bold" if column in row.best else "dim" if column in row.not_comparable else ""
    lines = (*interval_of(row, column), *below)
    return Text("\n").join([Text(marked(row, column), style), *(Text(x, "dim") for x in lines if x)])
