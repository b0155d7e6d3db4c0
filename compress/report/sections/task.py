"""What a report says of its task alone: the hook where a task brings its words, tiles and sections."""

from __future__ import annotations

from compress.report.phrases import TaskWords
from compress.report.schema import RunReport
from compress.report.sections.classification import CLASSIFICATION
from compress.report.sections.language import LANGUAGE

__all__ = ["words_of"]


def words_of(report: RunReport) -> TaskWords:
    """The words of the task that a report is about."""
    return CLASSIFICATION if report.measurement.language is None else LANGUAGE
