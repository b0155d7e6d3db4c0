"""A comparison for a terminal of 80 columns."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from compress.report.compare.data import Column, ComparedRuns, ComparisonRow
from compress.report.compare.sections import (
    flags,
    interval_of_difference,
    interval_of_perplexity,
    interval_of_speedup,
    legend,
    marked,
)

__all__ = ["comparison_table"]


def comparison_table(comparison: ComparedRuns) -> Table:
    """Intervals are below their values, so that 80 columns are enough."""
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
    language = comparison.test_tokens is not None  # 80 columns have no room for accuracy, too
    quality = "perplexity\nratio" if language else "accuracy\npoints"
    heads = (quality, "p50 ms", "speed-up", "file MB\ngzip MB", "smaller\nby", "memory\nMB")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    last = len(comparison.rows) - 1
    for place, row in enumerate(comparison.rows):
        difference, interval = interval_of_difference(row)
        # Text, not str: rich would read [brackets] in a name as its own markup.
        table.add_row(
            Text.assemble((row.name, "bold"), "\n", (row.stages, "dim")),
            _stack(row, "perplexity", *interval_of_perplexity(row).split(", "))
            if language
            else _stack(row, "accuracy", difference, interval),
            _stack(row, "p50_ms"),
            _stack(row, "speedup", interval_of_speedup(row)),
            Text("\n").join([_stack(row, "file_bytes"), _stack(row, "gzip_bytes")]),
            _stack(row, "smaller"),
            _stack(row, "peak_memory_bytes"),
            end_section=place == 0 and place != last,
        )
    return table


def _stack(row: ComparisonRow, column: Column, *below: str) -> Text:
    style = "bold" if column in row.best else "dim" if column in row.not_comparable else ""
    return Text("\n").join([Text(marked(row, column), style), *(Text(x, "dim") for x in below if x)])
