"""Without a Transformer: the score of a linear model of counted words, fitted on the same rows."""

from __future__ import annotations

from compress.page import Section, Table, Text
from compress.page.format import duration, milliseconds, percent
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
    rows = (
        (f"TF-IDF and {floor.model}", _score(floor.score), ""),
        ("baseline", _score(measured.baseline.accuracy), _points(floor.baseline)),
        ("candidate", _score(measured.candidate.accuracy), _points(floor.candidate)),
    )
    columns = ("model", f"{words.score} (95 % interval)", "above the first, in points")
    table = Table(columns, rows, "lrr", sorts=False)
    part = "" if floor.rows == report.data.train_rows else f" of {report.data.train_rows:,}"
    how = (
        f"A linear model of {floor.words:,} words and pairs of words, fitted on {floor.rows:,}{part} "
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
    score = task_of_measurement(report.measurement).words.score
    return (
        f"A Transformer may not be needed: the candidate's {score} is not measurably higher than that of "
        f"TF-IDF with {floor.model} ({percent(floor.score.value)})."
    )


def _score(score: Score) -> str:
    return f"{percent(score.value)} ({100 * score.low:.1f} to {100 * score.high:.1f})"


def _points(difference: Difference) -> str:
    same = ": no measurable difference" if difference.low <= 0 <= difference.high else ""
    return f"{difference_text(difference)}{same}"
