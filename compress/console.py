"""What the command line shows: bars, lines, lists. Rich does the drawing."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from compress.measure import Explanation
    from compress.report.tables import Table as ReportTable

__all__ = ["RichProgress", "console", "draw", "error_console", "listing", "say", "show_explanation"]

console = Console()
error_console = Console(stderr=True)


def say(
    text: str,
    style: str = "",
    more: str = "",
    more_style: str = "",
    *,
    wrap: bool = False,
    error: bool = False,
) -> None:
    """Print text in one or two styles, as it is: a '[...]' in a label or a path is no markup here.

    Args:
        wrap: break it between words at the terminal's width; else a path or command stays one line to copy.
        error: to stderr.
    """
    line = Text.assemble((text, style), (more, more_style))
    (error_console if error else console).print(line, highlight=False, soft_wrap=not wrap)


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop_task(self._task)

    def advance(self, steps: int = 1, facts: str = "") -> None:
        if facts:
            self._progress.update(self._task, advance=steps, facts=escape(facts))
        else:
            self._progress.update(self._task, advance=steps)


class RichProgress:
    """Bars with a line of facts and the time left; use as a context manager.

    Args:
        to_stderr: for a command whose stdout is read by a program.
    """

    def __init__(self, *, to_stderr: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            # What is too long for the terminal is cut here, at the end, and nowhere else.
            TextColumn("[dim]{task.fields[facts]}[/]", table_column=Column(no_wrap=True, ratio=1)),
            console=error_console if to_stderr else console,
            expand=True,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def bar(self, description: str, total: int) -> _RichBar:
        """Start a bar of `total` steps."""
        return _RichBar(self._progress, self._progress.add_task(escape(description), total=total, facts=""))

    def say(self, line: str) -> None:
        """Show one line that stays."""
        self._progress.console.print(f"[dim]{escape(line)}[/]", highlight=False)


def show_explanation(found: Explanation) -> None:
    """Print where a file's time goes: the advice first, then tables, then what they mean."""
    from compress.report import explanation_sentences, explanation_tables

    say(found.advice, "bold", wrap=True)
    if found.baseline is not None:
        say(f"baseline: {found.baseline.file}; candidate: {found.candidate.file}", "dim")
    for table in explanation_tables(found):
        console.print()
        console.print(draw(table))
    for sentence in explanation_sentences(found):
        console.print()
        say(sentence, wrap=True)


def draw(table: ReportTable) -> Table:
    """A table of a report, for the terminal."""
    drawn = Table(title=table.title or None, title_justify="left", box=None, pad_edge=False)
    for column, letter in zip(table.columns, table.align, strict=True):
        drawn.add_column(escape(column), justify="right" if letter == "r" else "left")
    for row in table.rows:
        drawn.add_row(*map(escape, row))
    return drawn


def listing() -> Table:
    """Stages, models and tasks, a line each."""
    from compress.registry import stage_class, stage_names
    from compress.starter import starter_folder

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name in stage_names():
        table.add_row(name, escape(stage_class(name).summary))
    for path in sorted((starter_folder() / "models").glob("*.py")):
        table.add_row(f"models/{path.name}", _first_line(path.read_text(encoding="utf-8")))
    table.add_row("hf: DIR or NAME", "a Hugging Face sequence classifier: BERT, DistilBERT, RoBERTa, ELECTRA")
    table.add_row("bundle: DIR", "what modelpress wrote, to go on from")
    table.add_row(
        "classification", "task: one label a row; text (CSV, JSONL, Parquet, datasets) or arrays (digits)"
    )
    return table


def _first_line(code: str) -> str:
    import ast

    return escape((ast.get_docstring(ast.parse(code)) or "").split("\n")[0])
