"""A comparison that renders itself as a terminal table, Markdown, HTML and JSON."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from compress.report.compare.data import ComparedRuns
from compress.report.compare.sections import comparison_page
from compress.report.compare.terminal import comparison_table
from compress.report.render.html import page_html
from compress.report.render.markdown import page_markdown

__all__ = ["Comparison"]


class Comparison(ComparedRuns):
    """Compared runs, the baseline first."""

    def to_table(self) -> Table:
        """Table for the terminal; fits 80 columns."""
        return comparison_table(self)

    def to_markdown(self) -> str:
        """Markdown tables and sentences."""
        return page_markdown(comparison_page(self))

    def to_html(self, folder: Path | None = None) -> str:
        """One self-contained page, with charts of quality over latency and over size.

        Args:
            folder: where the page will be; links to the runs' reports are relative to it. None: absolute.
        """
        return page_html(comparison_page(self, folder))

    def to_json(self) -> str:
        """JSON that `Comparison.model_validate_json` reads back."""
        return self.model_dump_json(indent=2) + "\n"
