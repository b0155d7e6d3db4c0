"""Terminal output of the command line: bars, lines and lists, drawn with rich."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from compress.progress import LineProgress, Progress, Silent
from compress.safe_text import visible

if TYPE_CHECKING:
    from compress.measure import Explanation

__all__ = [
    "JobRows",
    "RichProgress",
    "console",
    "error_console",
    "say",
    "show_explanation",
    "shown_progress",
]


class _VisibleConsole(Console):
    """A console that escapes control characters, because names, keys and labels are untrusted.

    All output, including tables and bars, passes through here; rich adds its own styles and cursor movements
    afterwards.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render with rich, with control characters made visible."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else visible(segment.text)
            yield segment if text == segment.text else segment._replace(text=text)


console = _VisibleConsole()
error_console = _VisibleConsole(stderr=True)


def say(
    text: str,
    style: str = "",
    more: str = "",
    more_style: str = "",
    *,
    wrap: bool = False,
    error: bool = False,
) -> None:
    """Print text verbatim in one or two styles: '[...]' in a label or path is not markup.

    Args:
        wrap: wrap at the terminal's width; otherwise paths and commands stay on one line to copy.
        error: print to stderr.
    """
    line = Text.assemble((text, style), (more, more_style))
    (error_console if error else console).print(line, highlight=False, soft_wrap=not wrap)


class _RichBar:
    def __init__(self, progress: Bars, task: TaskID) -> None:
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


def _bars(where: Console) -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        # Facts are the only column truncated to fit the terminal.
        TextColumn("[dim]{task.fields[facts]}[/]", table_column=Column(no_wrap=True, ratio=1)),
        console=where,
        expand=True,
    )


def shown_progress(*, to_stderr: bool = False, quiet: bool = False) -> AbstractContextManager[Progress]:
    """Progress of a command: bars on a terminal, plain text lines in a file or pipe.

    Args:
        to_stderr: for commands whose stdout is read by a program.
        quiet: show nothing.
    """
    where = error_console if to_stderr else console
    if quiet:
        return nullcontext(Silent())
    if where.is_terminal:
        return RichProgress(where)
    return nullcontext(LineProgress(lambda line: where.print(Text(line), highlight=False, soft_wrap=True)))


class RichProgress:
    """Bars with facts and remaining time on a terminal; use as a context manager."""

    def __init__(self, where: Console) -> None:
        self._progress = _bars(where)

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
        """Print a line that stays."""
        self._progress.console.print(f"[dim]{escape(line)}[/]", highlight=False)


class JobRows:
    """One row per running job with its name and current activity; use as a context manager.

    Without a terminal, plain text lines.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        what = TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1))
        self._bars = Bars(SpinnerColumn(), what, console=console, expand=True, transient=True)
        self._rows: dict[str, TaskID] = {}
        self._lock = RLock()  # job output is read by threads
        self.is_live = console.is_terminal and not quiet

    def __enter__(self) -> Self:
        if self.is_live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_live:
            self._bars.stop()

    def line(self, name: str, text: str) -> None:
        """Print a line of a job that stays."""
        with self._lock:
            say(f"{name}: ", "bold", text, "dim")
            self.now(name, text)

    def now(self, name: str, text: str) -> None:
        """Show a job's current activity."""
        if not self.is_live:
            return
        with self._lock:
            if name not in self._rows:
                self._rows[name] = self._bars.add_task("")
            self._bars.update(self._rows[name], description=f"[bold]{escape(name)}[/] {escape(text)}")

    def complain(self, name: str, text: str) -> None:
        """Print a line of a job on stderr."""
        with self._stopped():
            say(f"{name}: ", "bold", text, error=True)

    @contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """Remove the row of a finished job, and hide all rows while its result is printed."""
        with self._stopped():
            if name in self._rows:
                self._bars.remove_task(self._rows.pop(name))
            yield

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        """Hide the rows while something else is printed."""
        with self._lock:
            if self.is_live:
                self._bars.stop()
            try:
                yield
            finally:
                if self.is_live:
                    self._bars.start()


def show_explanation(found: Explanation) -> None:
    """Print where a file's time goes: the advice first, then tables, then their explanation."""
    from compress.report import explanation_parts
    from compress.report.render.terminal import terminal_parts

    advice, *others = explanation_parts(found)
    console.print(terminal_parts([advice]))
    if found.baseline is not None:
        say(f"baseline: {found.baseline.file}; candidate: {found.candidate.file}\n", "dim")
    console.print(terminal_parts(others))
