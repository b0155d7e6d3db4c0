"""Phrases for measured figures, shared by all sections so that no page claims more than another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compress.measure.results import AccuracyDifference, Interval, LatencyComparison
from compress.page import Section, Tile
from compress.page.format import (
    PERCENT,
    Scale,
    capital,
    interval_text,
    milliseconds,
    place,
    plural,
    ratio_text,
)
from compress.report.schema import RunReport

__all__ = [
    "TaskPage",
    "accuracy_clauses",
    "accuracy_words",
    "difference_text",
    "headline",
    "ratio_and_interval",
    "setting",
    "speed_tile",
    "speedup_clauses",
    "speedup_words",
    "stages_in_short",
]


def setting(latency: LatencyComparison) -> str:
    """The setting of a latency: `batch 1, sequence 128, 1 thread`."""
    return place(latency.batch, latency.sequence, latency.threads)


def headline(report: RunReport) -> LatencyComparison | None:
    """The latency that the verdict quotes: the first, with the smallest batch and the fewest threads."""
    return report.measurement.latency[0] if report.measurement.latency else None


def difference_text(difference: AccuracyDifference, scale: Scale = PERCENT) -> str:
    """A difference and its interval, for a table: `−0.2 (−1.1 to +0.7)`."""
    value, interval = scale.change(difference.value, difference.low, difference.high)
    return f"{value} ({interval})"


def accuracy_clauses(
    difference: AccuracyDifference, noun: str = "difference", scale: Scale = PERCENT
) -> tuple[str, str]:
    """The change in the metric, and its figures; no loss or gain if the interval contains 0."""
    value, interval = scale.change(difference.value, difference.low, difference.high)
    figures = f"95 % interval {interval}, {difference.units:,} {plural(difference.unit)}"
    if difference.low <= 0 <= difference.high:
        return f"no measurable {noun}", f"{value}{scale.change_unit}, {figures}"
    direction = "higher" if difference.value > 0 else "lower"
    return f"{value.lstrip('+−')}{scale.change_unit} {direction}", figures


def accuracy_words(difference: AccuracyDifference, noun: str = "difference", scale: Scale = PERCENT) -> str:
    """`accuracy_clauses` as one clause."""
    return "{} ({})".format(*accuracy_clauses(difference, noun, scale))


def speedup_clauses(latency: LatencyComparison) -> tuple[str, str]:
    """The change in speed, and its figures; no gain or loss if the interval contains 1."""
    value, low, high = latency.speedup, latency.speedup_low, latency.speedup_high
    shown, interval = ratio_text(value, low, high), f"95 % interval {interval_text(value, low, high)}"
    if low <= 1 <= high:
        return "no measurable speed-up", f"{shown}, {interval}"
    return f"{shown} faster" if value > 1 else f"{shown} as fast", interval


def speedup_words(latency: LatencyComparison) -> str:
    """`speedup_clauses` as one clause."""
    return "{} ({})".format(*speedup_clauses(latency))


def ratio_and_interval(ratio: Interval) -> str:
    """A ratio and its interval, for a table: `2.1x (2.0 to 2.2)`."""
    shown = ratio_text(ratio.value, ratio.low, ratio.high)
    return f"{shown} ({interval_text(ratio.value, ratio.low, ratio.high)})"


def stages_in_short(report: RunReport) -> str:
    """Stage names in order, without their families: `heads + int8`."""
    return " + ".join(stage.name.rsplit("/", 1)[-1] for stage in report.stages) or "none"


@dataclass(frozen=True)
class TaskPage:
    """The parts of a report that depend on the task; the rest of the page is the same for all tasks.

    Attributes:
        verdict: size, speed and quality in one sentence.
        tiles: key figures shown after accuracy.
        sections: task-specific sections, shown after the figures.
    """

    verdict: Callable[[RunReport], str]
    tiles: Callable[[RunReport], list[Tile]]
    sections: Callable[[RunReport], tuple[Section, ...]]


def speed_tile(name: str, latency: LatencyComparison, where: str) -> Tile:
    """Key figure of a latency: the speed-up in words, and p50 before and after."""
    words, figures = speedup_clauses(latency)
    values = milliseconds(latency.baseline.p50_ms), milliseconds(latency.candidate.p50_ms)
    return Tile(name, capital(words), *values, f"p50 at {where}; {figures}")
