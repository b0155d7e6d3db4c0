"""Without a Transformer: the score of a linear model of counted words, fitted on the same rows."""

from __future__ import annotations

from compress.page import Section, Table, Text
from compress.page.format import Scale, duration, milliseconds
from compress.report.phrases import difference_text
from compress.report.schema import RunReport
from compress.tasks import task_of_measurement
from compress.tasks.spec import Difference, Score

__all__ = ["not_worse", "section"]


def section(report: RunReport) -> Section | None:
    """The floor beside baseline and candidate; None if it was not measured."""
    floor, measured = report.floor, report.measurement
    if floor is None:
        return None
    words = task_of_measurement(measured).words
    scale = words.scale
    rows = (
        (f"TF-IDF and {floor.model}", _score(floor.score, scale), ""),
        ("baseline", _score(measured.baseline.accuracy, scale), _change(floor.baseline, scale)),
        ("candidate", _score(measured.candidate.accuracy, scale), _change(floor.candidate, scale)),
    )
    columns = ("model", f"{words.score} (95 % interval)", f"above the first{scale.of_change(', in')}")
    table = Table(columns, rows, "lrr", sorts=False)
    part = "" if floor.rows == report.data.train_rows else f" of {report.data.train_rows:,}"
    alike = " and of how alike both texts are (cosine and BM25)" if floor.compared else ""
    how = (
        f"A linear model of {floor.words:,} words and pairs of words{alike}, fitted on {floor.rows:,}{part} "
        f"training rows in {duration(floor.fit_seconds)}; the strength of its regularization was chosen "
        f"on validation rows. It takes {milliseconds(floor.row_ms)} a row, from text to answer in Python, "
        "one row at a time. That was not timed in turns with the two models, whose latencies don't include "
        "the tokenizer."
    )
    said = not_worse(report)
    notes = [Text(each, "note") for each in (said, how) if each is not None]
    return Section("Without a Transformer", (*notes, table), "floor")


def not_worse(report: RunReport) -> str | None:
    """A sentence if the candidate is not measurably better than the floor; otherwise None."""
    floor = report.floor
    if floor is None or floor.candidate.low > 0:
        return None
    words = task_of_measurement(report.measurement).words
    return (
        f"A Transformer may not be needed: the candidate's {words.score} is not measurably higher than that "
        f"of TF-IDF with {floor.model} ({words.scale.text(floor.score.value)})."
    )


def _score(score: Score, scale: Scale) -> str:
    return f"{scale.text(score.value)} ({scale.number(score.low)} to {scale.number(score.high)})"


def _change(difference: Difference, scale: Scale) -> str:
    same = ": no measurable difference" if difference.low <= 0 <= difference.high else ""
    return f"{difference_text(difference, scale)}{same}"
