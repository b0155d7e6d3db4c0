"""The accuracy ladder as a table, and sentences on the stages with the largest losses and gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from compress.measure.results import Rung
from compress.page import Bullets, Chart, Section, Table, Text
from compress.page.format import (
    PERCENT,
    Scale,
    capital,
    is_smaller,
    milliseconds,
    percent,
    plural,
    size,
    size_words,
)
from compress.report.charts.scatter import Dot, scatter
from compress.report.phrases import difference_text, headline, ratio_and_interval, setting
from compress.report.schema import RunReport
from compress.tasks import task_of_measurement

__all__ = [
    "Extreme",
    "Step",
    "ladder_dots",
    "ladder_note",
    "ladder_sentences",
    "ladder_table",
    "largest_loss",
    "largest_reduction",
    "largest_speedup",
    "section",
    "steps_of",
]

_CAPTION = (
    "{score} on validation rows by latency p50. Vertical lines: 95 % interval of the change from the stage "
    "before. Numbers as in the table."
)


@dataclass(frozen=True)
class Step:
    """A rung, and the number of its stage in the recipe (`3`, or `2–3`); `0` is the uncompressed model."""

    number: str
    rung: Rung

    def __str__(self) -> str:
        return f"stage{'' if self.rung.stages == 1 else 's'} {self.number} ({self.rung.name})"


@dataclass(frozen=True)
class Extreme:
    """The steps with the largest loss or gain.

    Attributes:
        proven: of those whose interval excludes no change; None if there are none.
        possible: the largest by value, if it is another one; its interval includes no change.
    """

    proven: Step | None
    possible: Step | None


def section(report: RunReport) -> Section | None:
    """The model after every stage; None in reports without a ladder."""
    first = headline(report)
    if not report.ladder or first is None:
        return None
    words = task_of_measurement(report.measurement).words
    score, scale = words.score, words.scale
    drawn = partial(scatter, ladder_dots(report.ladder), quality=score, scale=scale)
    parts = (
        Bullets(tuple(ladder_sentences(report.ladder, score, scale))),
        Chart(drawn, _CAPTION.format(score=capital(score))),
        ladder_table(report.ladder, setting(first), score, words.same, scale),
        Text(ladder_note(report.ladder), "note"),
    )
    return Section("After every stage", parts, "ladder")


def ladder_note(rungs: Sequence[Rung]) -> str:
    """How the ladder was measured, and what it lacks."""
    words = (
        "The ONNX file after every stage, evaluated on validation rows one at a time (test rows are not used "
        "for choices), and timed in turns with all others. Change: relative to the stage before."
    )
    if any(rung.stages > 1 for rung in rungs[1:]):
        words += " Stages share a row if the model between them could not be exported."
    if any(rung.disturbed_rounds for rung in rungs):
        words += " Other processes disturbed the timing: latency and speed-ups may differ on an idle machine."
    return words


def steps_of(rungs: Sequence[Rung]) -> list[Step]:
    """The rungs with their stage numbers."""
    found, last = [Step("0", rungs[0])], 0
    for rung in rungs[1:]:
        first, last = last + 1, last + rung.stages
        found.append(Step(str(last) if rung.stages == 1 else f"{first}–{last}", rung))
    return found


def ladder_table(
    rungs: Sequence[Rung], where: str, score: str, same: str = "", scale: Scale = PERCENT
) -> Table:
    """Accuracy, agreement, latency and size after every stage.

    Args:
        rungs: the uncompressed model first.
        where: the setting of the latency.
        score: the task's metric.
        same: what its agreement counts; empty: answers.
        scale: how the metric is written.
    """
    rows = []
    for step in steps_of(rungs):
        number, rung = step.number, step.rung
        change = "" if number == "0" else difference_text(rung.change, scale)
        speed = "" if number == "0" else ratio_and_interval(rung.speedup)
        rows.append(
            (
                number,
                rung.name,
                scale.text(rung.accuracy),
                change,
                percent(rung.agreement),
                milliseconds(rung.p50_ms, unit=False),
                speed,
                size(rung.file_bytes, unit=False),
            )
        )
    columns = (
        "",
        "after",
        score,
        f"change{scale.of_change()}",
        f"{same or 'same answers'} as the original",
        f"p50 ms, {where}",
        "speed-up",
        "file MB",
    )
    return Table(columns, tuple(rows), "rlrrrrrr")


def largest_loss(rungs: Sequence[Rung]) -> Extreme:
    """The stages that lost most of the metric."""
    return _extreme(rungs, lambda x: -x.change.value, lambda x: x.change.high < 0, 0.0)


def largest_speedup(rungs: Sequence[Rung]) -> Extreme:
    """The stages that gained most speed."""
    return _extreme(rungs, lambda x: x.gain.value, lambda x: x.gain.low > 1, 1.0)


def _extreme(
    rungs: Sequence[Rung], value: Callable[[Rung], float], proven: Callable[[Rung], bool], least: float
) -> Extreme:
    steps = steps_of(rungs)[1:]
    largest = max(steps, key=lambda x: value(x.rung))
    sure = max((x for x in steps if proven(x.rung)), key=lambda x: value(x.rung), default=None)
    is_more = value(largest.rung) > (least if sure is None else value(sure.rung))
    return Extreme(sure, largest if is_more else None)


def largest_reduction(rungs: Sequence[Rung]) -> tuple[Step, Step] | None:
    """The step that reduced the file size most, after the one before it; None if none did."""
    pairs = pairwise(steps_of(rungs))
    before, after = max(pairs, key=lambda pair: pair[0].rung.file_bytes / pair[1].rung.file_bytes)
    return (before, after) if is_smaller(before.rung.file_bytes, after.rung.file_bytes) else None


def ladder_sentences(rungs: Sequence[Rung], score: str, scale: Scale = PERCENT) -> list[str]:
    """The stages with the largest measurable loss of the metric and gains in speed and size."""
    return [_loss(rungs, score, scale), _speed(rungs), _size(rungs)] if len(rungs) > 1 else []


def _loss(rungs: Sequence[Rung], score: str, scale: Scale) -> str:
    found = largest_loss(rungs)
    if found.proven is not None:
        words = f"{capital(str(found.proven))} lost the most {score}: {_change(found.proven, scale)}."
        more = found.possible
        return (
            words
            if more is None
            else f"{words} {capital(str(more))} may have lost more: {_change(more, scale)}."
        )
    if found.possible is not None:
        return (
            f"No stage measurably lost {score}. The largest difference is that of {found.possible}: "
            f"{_change(found.possible, scale)}."
        )
    change = rungs[-1].change
    return f"No stage lost {score} on {change.units:,} validation {plural(change.unit)}."


def _change(step: Step, scale: Scale) -> str:
    change = step.rung.change
    value, interval = scale.change(change.value, change.low, change.high)
    rows = f"{change.units:,} validation {plural(change.unit)}"
    return f"{value}{scale.change_unit} (95 % interval {interval}, {rows})"


def _speed(rungs: Sequence[Rung]) -> str:
    found = largest_speedup(rungs)
    if found.proven is None:
        return "No stage is measurably faster than the one before."
    gain = ratio_and_interval(found.proven.rung.gain)
    words = f"{capital(str(found.proven))} brought the largest speed-up: {gain} over the stage before."
    more = found.possible
    if more is None:
        return words
    return f"{words} {capital(str(more))} may have brought more: {ratio_and_interval(more.rung.gain)}."


def _size(rungs: Sequence[Rung]) -> str:
    found = largest_reduction(rungs)
    if found is None:
        return "No stage made the file smaller."
    before, after = found
    smaller = size_words(before.rung.file_bytes, after.rung.file_bytes)
    return f"{capital(str(after))} reduced the file most: {smaller} than after the stage before."


def ladder_dots(rungs: Sequence[Rung]) -> list[Dot]:
    """Accuracy over latency, one dot per stage, with the interval of the change from the stage before.

    Intervals are clipped to [0, 1]. Names omit their families to save space.
    """
    dots = []
    for step in steps_of(rungs):
        number, rung = step.number, step.rung
        is_first, before = number == "0", rung.accuracy - rung.change.value
        ends = (0.0, 0.0) if is_first else (rung.change.low, rung.change.high)
        low, high = (min(max(before + end, 0.0), 1.0) for end in ends)
        short = " + ".join(name.rpartition("/")[2] for name in rung.name.split(" + "))
        dots.append(Dot(f"{number} {short}", rung.p50_ms, rung.accuracy, low, high, is_first, number))
    return dots
