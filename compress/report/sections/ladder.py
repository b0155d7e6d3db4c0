"""The accuracy ladder as a table, and sentences on the stages with the largest losses and gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from compress.measure.results import Rung
from compress.page import Bullets, Chart, Section, Table, Text
from compress.page.format import capital, is_smaller, milliseconds, percent, points, size, size_words
from compress.report.charts.scatter import Dot, scatter
from compress.report.phrases import difference_text, headline, ratio_and_interval, setting
from compress.report.schema import RunReport
from compress.tasks import task_of_measurement

__all__ = ["ladder_dots", "ladder_note", "ladder_sentences", "ladder_table", "section"]

_CAPTION = (
    "{score} on validation rows over latency p50. Whiskers: 95 % interval of the change from the stage "
    "before."
)

_Numbered = tuple[str, Rung]
"""A rung and the number of its stage in the recipe (`3`, or `2–3`); `0` is the uncompressed model."""


def section(report: RunReport) -> Section | None:
    """The model after every stage; None in reports without a ladder."""
    first = headline(report)
    if not report.ladder or first is None:
        return None
    score = task_of_measurement(report.measurement).words.score
    drawn = partial(scatter, ladder_dots(report.ladder), quality=score)
    parts = (
        Bullets(tuple(ladder_sentences(report.ladder, score))),
        Chart(drawn, _CAPTION.format(score=capital(score))),
        ladder_table(report.ladder, setting(first), score),
        Text(ladder_note(report.ladder), "note"),
    )
    return Section("After every stage", parts, "ladder")


def ladder_note(rungs: Sequence[Rung]) -> str:
    """How the ladder was measured, and what it lacks."""
    words = (
        "The ONNX file after every stage, on validation rows, one at a time (test rows choose nothing), and "
        "timed in turns with all others. Change is against the stage before."
    )
    if any(rung.stages > 1 for rung in rungs[1:]):
        words += " Stages that share a row: the model between them could not be exported."
    if any(rung.disturbed_rounds for rung in rungs):
        words += " Other work disturbed the timing: latency and speed-ups may be others on a quiet machine."
    return words


def _numbered(rungs: Sequence[Rung]) -> list[_Numbered]:
    found, last = [("0", rungs[0])], 0
    for rung in rungs[1:]:
        first, last = last + 1, last + rung.stages
        found.append((str(last) if rung.stages == 1 else f"{first}–{last}", rung))
    return found


def ladder_table(rungs: Sequence[Rung], where: str, score: str = "accuracy") -> Table:
    """Accuracy, agreement, latency and size after every stage.

    Args:
        rungs: the uncompressed model first.
        where: the setting of the latency.
        score: the task's metric.
    """
    rows = []
    for number, rung in _numbered(rungs):
        change = "" if number == "0" else difference_text(rung.change)
        speed = "" if number == "0" else ratio_and_interval(rung.speedup)
        rows.append(
            (
                number,
                rung.name,
                percent(rung.accuracy),
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
        "change in points",
        "answers as the original",
        f"p50 ms, {where}",
        "speed-up",
        "file MB",
    )
    return Table(columns, tuple(rows), "rlrrrrrr")


def ladder_sentences(rungs: Sequence[Rung], score: str = "accuracy") -> list[str]:
    """The stages with the largest measurable loss of the metric and gains in speed and size."""
    if len(rungs) < 2:
        return []
    numbered = _numbered(rungs)
    return [_loss(numbered[1:], score), _speed(numbered[1:]), _size(numbered)]


def _loss(stages: Sequence[_Numbered], score: str) -> str:
    """The largest measurable loss; a larger one that is not measurable is named as possible."""
    worst = _most(stages, _lost)
    measurable = [stage for stage in stages if stage[1].change.high < 0]
    if measurable:
        most = _most(measurable, _lost)
        also = (
            ""
            if _lost(most[1]) >= _lost(worst[1])
            else f" {_named(worst)} may have lost more: {_change(worst)}."
        )
        return f"{_named(most)} lost most {score}: {_change(most)}.{also}"
    if _lost(worst[1]) > 0:
        return f"No stage lost {score} measurably. {_named(worst)} came nearest: {_change(worst)}."
    return f"No stage lost {score} on {worst[1].change.units:,} validation {worst[1].change.unit}s."


def _lost(rung: Rung) -> float:
    return -rung.change.value


def _change(stage: _Numbered) -> str:
    change = stage[1].change
    value, interval = points(change.value, change.low, change.high)
    return f"{value} points (95 % interval {interval}, {change.units:,} validation {change.unit}s)"


def _speed(stages: Sequence[_Numbered]) -> str:
    """The largest measurable gain; a larger one that is not measurable is named as possible."""
    measurable = [stage for stage in stages if stage[1].gain.low > 1]
    if not measurable:
        return "No stage made it measurably faster."
    fastest, best = (_most(some, lambda rung: rung.gain.value) for some in (stages, measurable))
    also = (
        ""
        if best is fastest
        else f" {_named(fastest)} may have won more: {ratio_and_interval(fastest[1].gain)}."
    )
    return f"{_named(best)} won most speed: {ratio_and_interval(best[1].gain)} of the stage before.{also}"


def _size(rungs: Sequence[_Numbered]) -> str:
    pairs = list(zip(rungs, rungs[1:], strict=False))
    before, after = max(pairs, key=lambda pair: pair[0][1].file_bytes / pair[1][1].file_bytes)
    files = before[1].file_bytes, after[1].file_bytes
    if not is_smaller(*files):
        return "No stage made the file smaller."
    return f"{_named(after)} won most size: {size_words(*files)} than the stage before."


def _most(stages: Sequence[_Numbered], of: Callable[[Rung], float]) -> _Numbered:
    return max(stages, key=lambda stage: of(stage[1]))


def _named(stage: _Numbered) -> str:
    return f"{'Stage' if stage[1].stages == 1 else 'Stages'} {stage[0]} ({stage[1].name})"


def ladder_dots(rungs: Sequence[Rung]) -> list[Dot]:
    """Accuracy over latency, one dot per stage, with the interval of the change from the stage before.

    Intervals are clipped to [0, 1]. Names omit their families to save space.
    """
    dots = []
    for number, rung in _numbered(rungs):
        is_first, before = number == "0", rung.accuracy - rung.change.value
        ends = (0.0, 0.0) if is_first else (rung.change.low, rung.change.high)
        low, high = (min(max(before + end, 0.0), 1.0) for end in ends)
        short = " + ".join(name.rpartition("/")[2] for name in rung.name.split(" + "))
        dots.append(Dot(f"{number} {short}", rung.p50_ms, rung.accuracy, low, high, is_first))
    return dots
