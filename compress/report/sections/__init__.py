"""The sections of a report, in order. Each has a file with `section(report) -> Section | None`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compress.page import Page, Section
from compress.report.schema import RunReport
from compress.report.sections import (
    about,
    cut,
    deploy,
    explanation,
    figures,
    floor,
    gates,
    ladder,
    promise,
    runtimes,
    stages,
    verdict,
)
from compress.report.sections.task import page_of

__all__ = ["report_page", "report_sections"]

_BEFORE: tuple[Callable[[RunReport], Section | None], ...] = (
    figures.at_a_glance,
    verdict.section,
    gates.section,
    figures.section,
)
_AFTER: tuple[Callable[[RunReport], Section | None], ...] = (
    floor.section,
    figures.latency_and_size,
    runtimes.section,
    explanation.section,
    ladder.section,
    cut.section,
    promise.section,
    cut.costs_section,
    stages.section,
    about.parity,
    about.data,
    about.environment,
    about.reproduce,
)


def report_sections(report: RunReport) -> tuple[Section, ...]:
    """The sections of a report, in order; task-specific ones come after the figures."""
    before, after = ([make(report) for make in makers] for makers in (_BEFORE, _AFTER))
    return tuple(x for x in (*before, *page_of(report).sections(report), *after) if x is not None)


def report_page(report: RunReport, inputs: Sequence[str] = ()) -> Page:
    """The whole page.

    Args:
        report: report of the run.
        inputs: names of the ONNX model's inputs, for the snippet under Deploy; empty: no snippet.
    """
    sections = report_sections(report)
    made = f"{report.created} · modelpress {report.modelpress_version} · {report.measurement.environment.cpu}"
    return Page(
        name=report.name,
        title=f"{report.name} · modelpress report",
        lead=verdict.verdict(report),
        notes=(made,),
        sections=(*sections, deploy.section(report, inputs)) if inputs else sections,
    )
