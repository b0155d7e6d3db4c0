"""Task-specific parts of a report: words, tiles and sections.

Most tasks have the verdict and the latency tile defined here; `language` is the file of one with more.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from compress.measure.results import Answers
from compress.page import Section, Table, Text, Tile
from compress.page.format import capital, is_smaller, size_words
from compress.report.phrases import TaskPage, accuracy_words, headline, setting, speed_tile, speedup_words
from compress.report.schema import RunReport
from compress.report.sections.language import LANGUAGE
from compress.tasks import Task, task_of_measurement
from compress.tasks.spec import Breakdown

__all__ = ["page_of"]

_OPEN, _FEW = 20, 5  # rows of a breakdown that are not folded; as few more aren't either
_ORIGINAL = "than the fp32 ONNX model"
_Decision = tuple[tuple[str, float], ...]


def _verdict(report: RunReport) -> str:
    """Size, speed at the headline setting, and the task's metric."""
    measured, latency = report.measurement, headline(report)
    files = measured.baseline.size.file_bytes, measured.candidate.size.file_bytes
    small, shrank = size_words(*files), is_smaller(*files)
    no_gain = False
    if latency is None:
        gain = f"{small} {_ORIGINAL}; latency was not measured"
    elif latency.speedup_low > 1:
        joint = "and" if shrank else "but"
        gain = f"{small} {joint} {speedup_words(latency)} {_ORIGINAL} at {setting(latency)}"
    else:
        no_gain = latency.speedup_high >= 1
        joint = "with" if no_gain else "but" if shrank else "and"
        gain = f"{small} {_ORIGINAL}, {joint} {speedup_words(latency)} at {setting(latency)}"
    words = task_of_measurement(measured).words
    score = words.score
    change = accuracy_words(measured.difference, f"change in {score}", words.scale)
    if not measured.difference.low <= 0 <= measured.difference.high:
        return capital(f"{gain}; {score} is {change}.")
    return capital(f"{gain}{'; ' if no_gain else ', with '}{change}.")


def _tiles(report: RunReport) -> list[Tile]:
    latency = headline(report)
    return [] if latency is None else [speed_tile("Latency", latency, setting(latency))]


def _sections(report: RunReport) -> tuple[Section, ...]:
    """The breakdown that the task makes of all answers: now, or when they were measured."""
    kept, found = report.measurement.answers, report.measurement.breakdown
    if kept is not None:
        models = report.measurement.baseline, report.measurement.candidate
        decisions = tuple(tuple(each.decision.items()) for each in models)
        found = _breakdown(task_of_measurement(report.measurement), kept, *decisions)
    if found is None:
        return ()
    table = Table(found.columns, found.rows, "l" + "r" * (len(found.columns) - 1))
    tables = [table]
    if len(found.rows) > _OPEN + _FEW:
        rest = f"The other {len(found.rows) - _OPEN}"
        more = replace(table, rows=found.rows[_OPEN:], title=rest, folded=rest)
        tables = [replace(table, rows=found.rows[:_OPEN]), more]
    return (Section(found.title, (Text(" ".join(found.sentences), "note"), *tables), "breakdown"),)


@lru_cache(maxsize=4)  # a report is rendered several times
def _breakdown(task: Task, kept: Answers, before: _Decision, after: _Decision) -> Breakdown | None:
    answers = kept.of("baseline"), kept.of("candidate")
    return task.breakdown(*answers, kept.truth, (dict(before), dict(after)))


_ANY = TaskPage(_verdict, _tiles, _sections)
_OWN = {"language": LANGUAGE}
"""By the field of a measurement that only the task fills."""


def page_of(report: RunReport) -> TaskPage:
    """The parts of the page that depend on the report's task."""
    return _OWN.get(task_of_measurement(report.measurement).record, _ANY)
