"""A run's report on disk: for programs, for a terminal, for a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.report.render.html import to_html
from compress.report.render.markdown import to_markdown
from compress.report.schema import REPORT_FILE, REPORT_PAGE, RunReport
from compress.system.disk import cannot_write

__all__ = ["write_reports"]


def write_reports(report: RunReport, directory: Path, inputs: Sequence[str] = ()) -> None:
    """Write report.json, report.md and report.html, making the directory where it is missing.

    Args:
        report: what the run said.
        directory: where to.
        inputs: names of the ONNX model's inputs, for the program under Deploy; none: no program.

    Raises:
        OutputError: the directory cannot be written.
    """
    markdown, html = to_markdown(report, inputs), to_html(report, inputs)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        report.save(directory / REPORT_FILE)
        (directory / "report.md").write_text(markdown, encoding="utf-8")
        (directory / REPORT_PAGE).write_text(html, encoding="utf-8")
    except OSError as error:
        raise cannot_write(error, directory) from error
