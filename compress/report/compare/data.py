"""Compared runs as data; formatting of each figure, and ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from compress.facts import Record
from compress.measure.results import AccuracyDifference, Interval
from compress.page.format import PERCENT, SCALES, Scale, milliseconds, ratio_text, size

__all__ = [
    "COLUMNS",
    "Column",
    "ComparedRuns",
    "ComparisonRow",
    "PairDifference",
    "RecipeDifference",
    "ranked",
    "shown",
]

Column = Literal[
    "accuracy",
    "perplexity",
    "p50_ms",
    "speedup",
    "file_bytes",
    "gzip_bytes",
    "smaller",
    "peak_memory_bytes",
]
COLUMNS: tuple[Column, ...] = get_args(Column)
_MORE_IS_BETTER = ("accuracy", "speedup", "smaller")


class ComparisonRow(Record):
    """One model.

    Attributes:
        accuracy: the main metric: the share of correct test rows, or tokens of a language model, or another.
        scale: how it is written; a key of `page.format.SCALES`.
        difference: accuracy minus that of the run's own baseline, in [-1, 1]; None for the baseline.
        perplexity: of a language model, which is ranked by it instead of accuracy; None for other tasks.
        perplexity_ratio: relative to the run's own baseline; None for the baseline and for other tasks.
        p50_ms: at the comparison's setting; None if the run did not measure it.
        speedup: relative to the run's own baseline, timed in alternation with it.
        smaller: baseline file bytes / this model's file bytes.
        flags: why some figures are not comparable, one sentence each.
        not_comparable: the columns that the flags concern.
        best: the columns in which it is best or tied for best, as displayed.
        on_front: no comparable model is both faster and better (more accurate, or of lower perplexity).
        on_size_front: the same with smaller instead of faster.
        page: the run's HTML report; None if there is no such file, and for the baseline.
    """

    name: str
    is_baseline: bool
    stages: str
    accuracy: float
    scale: str = PERCENT.name
    difference: Interval | None
    perplexity: float | None = None
    perplexity_ratio: Interval | None = None
    p50_ms: float | None
    speedup: Interval | None
    file_bytes: int
    gzip_bytes: int
    smaller: float
    peak_memory_bytes: int
    verdict: str
    flags: tuple[str, ...] = ()
    not_comparable: tuple[Column, ...] = ()
    best: tuple[Column, ...] = ()
    on_front: bool = False
    on_size_front: bool = False
    page: str | None = None

    @property
    def quality(self) -> float:
        """The ranking key: negative perplexity for language models, accuracy otherwise."""
        return self.accuracy if self.perplexity is None else -self.perplexity


class PairDifference(Record):
    """Accuracy of one run minus that of another, on the same test rows."""

    one: str
    other: str
    difference: AccuracyDifference


class RecipeDifference(Record):
    """A setting that differs between recipes: its values by run name."""

    key: str
    values: dict[str, str]


class ComparedRuns(Record):
    """Compared runs, the baseline first.

    Attributes:
        setting: the setting of the latencies.
        test_tokens: tokens in the test rows of a language model; None for other tasks.
        units: number of judged answers of the test rows.
        unit: what one is: a row, a query, a token.
        score: name of the main metric.
        same: what agreement counts; empty: answers.
        rows: the baseline, then the runs in the order given.
        notes: remarks on the whole table.
        pairs: every pair of runs, compared row by row; empty for many runs.
        differs: settings that differ between the recipes; empty for many runs.
    """

    setting: str
    test_rows: int
    test_tokens: int | None = None
    units: int
    unit: str
    score: str = "accuracy"
    same: str = ""
    rows: tuple[ComparisonRow, ...]
    notes: tuple[str, ...]
    pairs: tuple[PairDifference, ...] = ()
    differs: tuple[RecipeDifference, ...] = ()

    @property
    def written(self) -> Scale:
        """How the main metric is written."""
        return SCALES[self.rows[0].scale]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that have figures; perplexity only if there is a language model."""
        language = any(row.perplexity is not None for row in self.rows)
        return tuple(column for column in COLUMNS if language or column != "perplexity")


def shown(row: ComparisonRow, column: Column) -> str:
    """A figure as every renderer shows it, without its unit."""
    if column == "accuracy":
        return SCALES[row.scale].text(row.accuracy)
    if column == "perplexity":
        return "–" if row.perplexity is None else f"{row.perplexity:,.3f}"
    if column == "p50_ms":
        return "–" if row.p50_ms is None else milliseconds(row.p50_ms, unit=False)
    if column == "speedup":
        speedup = row.speedup
        return "–" if speedup is None else ratio_text(speedup.value, speedup.low, speedup.high)
    if column == "smaller":
        return ratio_text(row.smaller)
    return size(getattr(row, column), unit=False)


def ranked(rows: Sequence[ComparisonRow]) -> tuple[ComparisonRow, ...]:
    """The same rows, with the best of each column and the Pareto fronts marked."""
    best: dict[Column, str] = {}
    for column in COLUMNS:
        values = [(_value(row, column), shown(row, column)) for row in rows if _competes(row, column)]
        if values:
            best[column] = (max if column in _MORE_IS_BETTER else min)(values)[1]
    front, size_front = (_front(rows, column) for column in ("p50_ms", "file_bytes"))
    return tuple(
        row.model_copy(
            update={
                # Compared as displayed: figures that print the same share the place.
                "best": tuple(x for x in best if _competes(row, x) and shown(row, x) == best[x]),
                "on_front": at in front,
                "on_size_front": at in size_front,
            }
        )
        for at, row in enumerate(rows)
    )


def _front(rows: Sequence[ComparisonRow], column: Literal["p50_ms", "file_bytes"]) -> set[int]:
    """Indices of the rows on the Pareto front of this column (lower is better) and quality.

    O(n log n).
    """
    racing = [
        (at, _value(row, column), row.quality)
        for at, row in enumerate(rows)
        if "accuracy" not in row.not_comparable and _competes(row, column)
    ]
    racing.sort(key=lambda each: (each[1], -each[2]))
    front: set[int] = set()
    last, last_quality = 0.0, -math.inf  # last row on the front: no later row has a lower value
    for at, value, quality in racing:
        if quality > last_quality or (value, quality) == (last, last_quality):
            front.add(at)
            last, last_quality = value, quality
    return front


def _value(row: ComparisonRow, column: Column) -> float:
    value = getattr(row, column)
    return float(value.value if isinstance(value, Interval) else value)


def _competes(row: ComparisonRow, column: Column) -> bool:
    if column == "accuracy" and row.perplexity is not None:
        return False  # language models are ranked by perplexity instead
    return column not in row.not_comparable and getattr(row, column) is not None
