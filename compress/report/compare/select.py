"""Select among compared runs: sort, filter by conditions, and pick the best within an accuracy drop.

A condition is parsed, never evaluated as code: a column, one of > >= < <= = !=, and a number; conditions are
joined by `and`.
"""

from __future__ import annotations

import csv
import io
import operator
import re
from collections.abc import Callable
from typing import Literal

from compress.errors import NotReachedError, RecipeError, did_you_mean
from compress.report.compare.comparison import Comparison
from compress.report.compare.data import ComparisonRow
from compress.safe_text import csv_cell

__all__ = ["SELECT_COLUMNS", "best_run", "comparison_csv", "condition_of", "known_column", "sorted_by"]

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "==": operator.eq,
}
_CONDITION = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|!=|==|=|>|<)\s*(\S+)\s*")

SELECT_COLUMNS: dict[str, Callable[[ComparisonRow], float | None]] = {
    "accuracy": lambda row: row.accuracy,
    "drop": lambda row: None if row.difference is None else -row.difference.value,
    "worst_drop": lambda row: None if row.difference is None else -row.difference.low,
    "perplexity": lambda row: row.perplexity,
    "perplexity_ratio": lambda row: None if row.perplexity_ratio is None else row.perplexity_ratio.value,
    "worst_perplexity_ratio": lambda row: None if row.perplexity_ratio is None else row.perplexity_ratio.high,
    "p50_ms": lambda row: row.p50_ms,
    "speedup": lambda row: None if row.speedup is None else row.speedup.value,
    "least_speedup": lambda row: None if row.speedup is None else row.speedup.low,
    "size_mb": lambda row: row.file_bytes / 1e6,
    "gzip_mb": lambda row: row.gzip_bytes / 1e6,
    "smaller": lambda row: row.smaller,
    "memory_mb": lambda row: row.peak_memory_bytes / 1e6,
}
"""Columns to sort and filter by: shares in [0, 1], ratios, ms, MB; worst and least are ends of intervals."""

_MORE_IS_BETTER = ("accuracy", "speedup", "least_speedup", "smaller")
# The column that each figure depends on: where that one is not comparable, neither is the figure.
_RELIES_ON = {
    "drop": "accuracy",
    "worst_drop": "accuracy",
    "perplexity_ratio": "perplexity",
    "worst_perplexity_ratio": "perplexity",
    "least_speedup": "speedup",
}


def _value(row: ComparisonRow, column: str) -> float | None:
    if _RELIES_ON.get(column, column) in row.not_comparable:
        return None
    return SELECT_COLUMNS[column](row)


def known_column(column: str, option: str) -> str:
    """Return the name if it is a column.

    Args:
        option: command-line option, for the message.

    Raises:
        RecipeError: there is no such column.
    """
    if column not in SELECT_COLUMNS:
        raise RecipeError(f"{option}: unknown column '{column}'{did_you_mean(column, SELECT_COLUMNS)}")
    return column


def condition_of(where: str) -> Callable[[ComparisonRow], bool]:
    """Parse conditions into a predicate: whether a run meets all of them, by comparable figures.

    Raises:
        RecipeError: invalid condition or unknown column.
    """
    conditions = []
    for part in re.split(r"\band\b", where):
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise RecipeError(
                f"--where: {part.strip()!r} is not a condition; example: 'speedup > 2 and drop <= 0.01'"
            )
        column, sign, number = match.groups()
        try:
            limit = float(number)
        except ValueError as error:
            raise RecipeError(f"--where: {number!r} in {part.strip()!r} is not a number") from error
        conditions.append((known_column(column, "--where"), _OPERATORS[sign], limit))

    def meets(row: ComparisonRow) -> bool:
        values = [(_value(row, column), holds, limit) for column, holds, limit in conditions]
        return all(value is not None and holds(value, limit) for value, holds, limit in values)

    return meets


def sorted_by(comparison: Comparison, column: str) -> Comparison:
    """The baseline, then the runs from best to worst in a column; runs without a figure come last.

    Raises:
        RecipeError: unknown column.
    """
    sign = -1 if known_column(column, "--sort") in _MORE_IS_BETTER else 1

    def place(row: ComparisonRow) -> tuple[bool, bool, float]:
        value = _value(row, column)
        return not row.is_baseline, value is None, 0.0 if value is None else sign * value

    return comparison.model_copy(update={"rows": tuple(sorted(comparison.rows, key=place))})


def best_run(
    comparison: Comparison, what: Literal["size", "speed", "accuracy"], max_drop: float | None = None
) -> ComparisonRow:
    """The smallest, fastest or most accurate run (for language models, the one with the lowest perplexity).

    Args:
        max_drop: largest accuracy drop allowed, in [0, 1], at the worse end of the 95 % interval. None: no
            limit.

    Raises:
        NotReachedError: no run is within the drop, or none has a comparable figure.
    """
    language = comparison.test_tokens is not None
    quality = "perplexity" if language else "accuracy"
    column = {"size": "size_mb", "speed": "speedup", "accuracy": quality}[what]
    runs = [row for row in sorted_by(comparison, column).rows if not row.is_baseline]
    within = [row for row in runs if max_drop is None or _within(row, max_drop)]
    if not within:
        drops = [drop for row in runs if (drop := _value(row, "worst_drop")) is not None]
        least = f"; the smallest drop that a run proves is {min(drops):.4f}" if drops else ""
        raise NotReachedError(
            f"--max-drop {max_drop:g}: no run is proven to lose no more than that{least}",
            see="explanation/intervals",
        )
    if _value(within[0], column) is None:
        raise NotReachedError(f"--best {what}: no run has a comparable figure")
    return within[0]


def _within(row: ComparisonRow, max_drop: float) -> bool:
    worst = _value(row, "worst_drop")
    return worst is not None and worst <= max_drop


def comparison_csv(comparison: Comparison) -> str:
    """One line per row with raw figures; columns that are not comparable are named in the last column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "stages", *SELECT_COLUMNS, "not_comparable"])
    for row in comparison.rows:
        values = [of(row) for of in SELECT_COLUMNS.values()]
        shown = ["" if value is None else f"{value + 0.0:.6g}" for value in values]  # 0, not -0
        texts = csv_cell(row.name), csv_cell(row.stages)
        writer.writerow([*texts, *shown, " ".join(row.not_comparable)])
    return text.getvalue()
