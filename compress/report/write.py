"""A run's report as Markdown, as HTML and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.report.render.html import page_html
from compress.report.render.markdown import page_markdown
from compress.report.schema import REPORT_FILE, REPORT_PAGE, RunReport
from compress.report.sections import report_page
from compress.system.disk import cannot_write

__all__ = ["to_html", "to_markdown", "write_reports"]


def to_markdown(report: RunReport, inputs: Sequence[str] = ()) -> str:
    """The report as Markdown.

    Args:
        report: report of the run.
        inputs: names of the ONNX model's inputs, for the snippet under Deploy; empty: no snippet.
    """
    return page_markdown(report_page(report, inputs))


def to_html(report: RunReport, inputs: Sequence[str] = ()) -> str:
    """The report as one HTML page; arguments as for `to_markdown`."""
    return page_html(report_page(report, inputs))


def write_reports(report: RunReport, directory: Path, inputs: Sequence[str] = ()) -> None:
    """Write report.json, report.md and report.html; create the directory if it is missing.

    Args:
        report: report of the run.
        directory: target directory.
        inputs: as for `to_markdown`.

    Raises:
        OutputError: the directory cannot be written.
    """
    page = report_page(report, inputs)
    markdown, html = page_markdown(page), page_html(page)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        report.save(directory / REPORT_FILE)
        (directory / "report.md").write_text(markdown, encoding="utf-8")
        (directory / REPORT_PAGE).write_text(html, encoding="utf-8")
    except OSError as error:
        raise cannot_write(error, directory) from error
