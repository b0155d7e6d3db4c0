"""A Comparison for the terminal and as Markdown."""

from __future__ import annotations

from rich import box
from rich.table import Table as TerminalTable
from rich.text import Text

from compress.report.compare.data import Column, Comparison, ComparisonRow, shown
from compress.report.render.markdown import escape_markdown, table_markdown
from compress.report.tables import Table
from compress.report.words import MB_NOTE, accuracy_words, interval_text, percent, points

__all__ = [
    "column_names",
    "comparison_markdown",
    "differs_table",
    "flags",
    "interval_of_difference",
    "interval_of_perplexity",
    "interval_of_speedup",
    "legend",
    "marked",
    "pairs_table",
    "terminal_table",
]

_NAMES: dict[Column, str] = {
    "accuracy": "accuracy",
    "perplexity": "perplexity",
    "p50_ms": "p50 ms",
    "speedup": "speed-up",
    "file_bytes": "file MB",
    "gzip_bytes": "gzip MB",
    "smaller": "smaller by",
    "peak_memory_bytes": "peak memory MB",
}


def column_names(comparison: Comparison) -> tuple[str, ...]:
    """Heads of the whole table; the difference is that of accuracy."""
    first, *others = (_NAMES[column] for column in comparison.columns)
    return "run", "stages", first, "difference", *others


def marked(row: ComparisonRow, column: Column) -> str:
    """A figure with its mark: best in the column, or not comparable."""
    mark = "*" if column in row.best else "†" if column in row.not_comparable else ""
    return shown(row, column) + mark


def interval_of_difference(row: ComparisonRow) -> tuple[str, str]:
    """The difference in points and its interval, or two empty texts."""
    each = row.difference
    return ("", "") if each is None else points(each.value, each.low, each.high)


def interval_of_speedup(row: ComparisonRow) -> str:
    """The speed-up's interval, or nothing."""
    each = row.speedup
    return "" if each is None or row.is_baseline else interval_text(each.value, each.low, each.high)


def interval_of_perplexity(row: ComparisonRow) -> str:
    """The ratio of perplexity to the baseline's with its interval, or nothing."""
    each = row.perplexity_ratio
    return "" if each is None else f"{each.value:.3f}x ({each.low:.3f} to {each.high:.3f})"


def legend(comparison: Comparison) -> list[str]:
    """What the columns and the marks mean."""
    what = f"Accuracy on {comparison.test_rows:,} test rows"
    if comparison.test_tokens is not None:
        what = (
            f"Perplexity, by which language models are ranked, and accuracy of the next token on "
            f"{comparison.test_tokens:,} tokens of {comparison.test_rows:,} test rows"
        )
    lines = [
        f"{what}; latency p50 at {comparison.setting}. Speed-up, "
        "difference (of accuracy, in points) and their 95 % intervals are against the run's own baseline. "
        f"{MB_NOTE}",
        "* is best in its column, as shown; ties share it. A difference whose interval holds 0, or a "
        "speed-up whose interval holds 1, is not a measurable one.",
    ]
    if any(row.not_comparable for row in comparison.rows):
        lines.append("† does not compare with the other rows, and is not ranked.")
    return lines


def flags(comparison: Comparison) -> list[str]:
    """What doesn't compare, and why, a sentence each."""
    return [f"{row.name}: {flag}." for row in comparison.rows for flag in row.flags] + list(comparison.notes)


def terminal_table(comparison: Comparison) -> TerminalTable:
    """Intervals stand below their values, so that 80 columns are enough."""
    table = TerminalTable(
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
            _stack(row, "perplexity", *interval_of_perplexity(row).split(" ", 1))
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


def _table(comparison: Comparison) -> Table:
    rows = []
    for row in comparison.rows:
        difference, interval = interval_of_difference(row)
        first, *others = (_cell(row, column) for column in comparison.columns)
        rows.append((row.name, row.stages, first, f"{difference} ({interval})" if interval else "", *others))
    return Table(column_names(comparison), tuple(rows), "ll" + "r" * (1 + len(comparison.columns)))


def _cell(row: ComparisonRow, column: Column) -> str:
    interval = {"speedup": interval_of_speedup, "perplexity": interval_of_perplexity}.get(column)
    below = "" if interval is None else interval(row)
    more = below if column == "perplexity" else f"({below})"
    return f"{marked(row, column)} {more}" if below else marked(row, column)


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
    parts += map(escape_markdown, legend(comparison))
    doubts = flags(comparison)
    if doubts:
        parts += ["## Before comparing", "\n".join(f"- {escape_markdown(doubt)}" for doubt in doubts)]
    if comparison.pairs:
        parts += ["## Against each other", table_markdown(pairs_table(comparison))]
    if comparison.differs:
        parts += ["## What differs in the recipes", table_markdown(differs_table(comparison))]
    runs = (row for row in comparison.rows if not row.is_baseline)
    verdicts = (f"- **{escape_markdown(row.name)}**: {escape_markdown(row.verdict)}" for row in runs)
    return "\n\n".join([*parts, "## Verdicts", "\n".join(verdicts)]) + "\n"
