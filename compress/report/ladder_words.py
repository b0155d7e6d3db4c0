"""The accuracy ladder as a table, and the stages that lost or won most in sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compress.measure.results import Ratio, Rung
from compress.report.svg import Dot
from compress.report.tables import Table
from compress.report.words import (
    difference_text,
    interval_text,
    milliseconds,
    percent,
    points,
    ratio_text,
    size,
    size_words,
)

__all__ = ["LADDER_NOTE", "ladder_dots", "ladder_sentences", "ladder_table"]

LADDER_NOTE = (
    "The ONNX file after every stage, on validation rows, one at a time (test rows choose nothing), and "
    "timed in turns with all others. Change is against the stage before."
)


def ladder_table(rungs: Sequence[Rung], where: str) -> Table:
    """Accuracy, agreement, latency and size after every stage.

    Args:
        rungs: the uncompressed model first.
        where: the setting of the latency.
    """
    rows = []
    for number, rung in enumerate(rungs):
        change = "" if number == 0 else difference_text(rung.change)
        speed = "" if number == 0 else _ratio(rung.speedup)
        rows.append(
            (
                str(number),
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
        "accuracy",
        "change in points",
        "answers as the original",
        f"p50 ms, {where}",
        "speed-up",
        "file MB",
    )
    return Table(columns, tuple(rows), "rlrrrrrr")


def _ratio(ratio: Ratio) -> str:
    shown = ratio_text(ratio.value, ratio.low, ratio.high)
    return f"{shown} ({interval_text(ratio.value, ratio.low, ratio.high)})"


def ladder_sentences(rungs: Sequence[Rung]) -> list[str]:
    """Which stage lost most accuracy, and which won most speed and most size, where that is measurable."""
    stages = list(enumerate(rungs))[1:]
    if not stages:
        return []
    return [_loss(stages), _speed(stages), _size(list(enumerate(rungs)))]


def _loss(stages: Sequence[tuple[int, Rung]]) -> str:
    """The measurable loss that is largest; a larger one that isn't measurable is said to be possible."""
    worst = _most(stages, _lost)
    measurable = [stage for stage in stages if stage[1].change.high < 0]
    if measurable:
        most = _most(measurable, _lost)
        also = (
            ""
            if _lost(most[1]) >= _lost(worst[1])
            else f" {_named(worst)} may have lost more: {_change(worst)}."
        )
        return f"{_named(most)} lost most accuracy: {_change(most)}.{also}"
    if _lost(worst[1]) > 0:
        return f"No stage lost accuracy measurably. {_named(worst)} came nearest: {_change(worst)}."
    return f"No stage lost accuracy on {worst[1].change.rows:,} validation rows."


def _lost(rung: Rung) -> float:
    return -rung.change.value


def _change(stage: tuple[int, Rung]) -> str:
    change = stage[1].change
    value, interval = points(change.value, change.low, change.high)
    return f"{value} points (95 % interval {interval}, {change.rows:,} validation rows)"


def _speed(stages: Sequence[tuple[int, Rung]]) -> str:
    """The measurable gain that is largest; a larger one that isn't measurable is said to be possible."""
    measurable = [stage for stage in stages if stage[1].gain.low > 1]
    if not measurable:
        return "No stage made it measurably faster."
    fastest, best = (_most(some, lambda rung: rung.gain.value) for some in (stages, measurable))
    also = "" if best is fastest else f" {_named(fastest)} may have won more: {_ratio(fastest[1].gain)}."
    return f"{_named(best)} won most speed: {_ratio(best[1].gain)} of the stage before.{also}"


def _size(rungs: Sequence[tuple[int, Rung]]) -> str:
    pairs = list(zip(rungs, rungs[1:], strict=False))
    before, after = max(pairs, key=lambda pair: pair[0][1].file_bytes / pair[1][1].file_bytes)
    words = size_words(before[1].file_bytes, after[1].file_bytes)
    if not words.endswith("x smaller"):
        return "No stage made the file smaller."
    return f"{_named(after)} won most size: {words} than the stage before."


def _most(stages: Sequence[tuple[int, Rung]], of: Callable[[Rung], float]) -> tuple[int, Rung]:
    return max(stages, key=lambda stage: of(stage[1]))


def _named(stage: tuple[int, Rung]) -> str:
    return f"Stage {stage[0]} ({stage[1].name})"


def ladder_dots(rungs: Sequence[Rung]) -> list[Dot]:
    """Accuracy over latency, a dot a stage; intervals are those of the change from the stage before."""
    dots = []
    for number, rung in enumerate(rungs):
        before = rung.accuracy - rung.change.value
        low, high = (before + rung.change.low, before + rung.change.high) if number else (rung.accuracy,) * 2
        dots.append(Dot(f"{number} {rung.name}", rung.p50_ms, rung.accuracy, low, high, number == 0))
    return dots
