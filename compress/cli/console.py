"""What the command line shows: bars, lines, lists. Rich does the drawing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.table import Column, Table
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
    "listing",
    "say",
    "show_explanation",
    "shown_progress",
]


class _VisibleConsole(Console):
    """A console whose texts can't command the terminal: names, keys and labels are other people's.

    All that is printed comes through here, tables and bars too; rich's own styles and movements of the cursor
    are added behind.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render as rich does, with what would command the terminal made visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


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
    """Print text in one or two styles, as it is: a '[...]' in a label or a path is no markup here.

    Args:
        wrap: break it between words at the terminal's width; else a path or command stays one line to copy.
        error: to stderr.
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


def _bars(where: Console, *, transient: bool = False) -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        # What is too long for the terminal is cut here, at the end, and nowhere else.
        TextColumn("[dim]{task.fields[facts]}[/]", table_column=Column(no_wrap=True, ratio=1)),
        console=where,
        expand=True,
        transient=transient,
    )


def shown_progress(*, to_stderr: bool = False, quiet: bool = False) -> AbstractContextManager[Progress]:
    """Where a command shows its progress: bars on a terminal, lines of plain text in a file or pipe.

    Args:
        to_stderr: for a command whose stdout is read by a program.
        quiet: show nothing.
    """
    where = error_console if to_stderr else console
    if quiet:
        return nullcontext(Silent())
    return RichProgress(where) if where.is_terminal else nullcontext(_lines(where))


def _lines(where: Console, name: str = "") -> LineProgress:
    """Progress as lines, each after the name of whose it is."""
    before = f"{name}: " if name else ""
    return LineProgress(lambda line: where.print(Text(f"{before}{line}"), highlight=False, soft_wrap=True))


class RichProgress:
    """Bars with a line of facts and the time left, on a terminal; use as a context manager."""

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
        """Show one line that stays."""
        self._progress.console.print(f"[dim]{escape(line)}[/]", highlight=False)


class JobRows:
    """A row for each job that runs: its name, and what it does now; use as a context manager.

    Where there is no terminal, lines of plain text.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._bars = _bars(console, transient=True) if console.is_terminal and not quiet else None
        self._rows: dict[str, _Row] = {}
        self._quiet = quiet

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def row(self, name: str) -> Progress:
        """What shows the progress of a job; its row appears with the first thing that it tells."""
        if self._bars is None:
            return Silent() if self._quiet else _lines(console, name)
        self._rows[name] = _Row(name, self._bars)
        return self._rows[name]

    def complain(self, name: str, line: str) -> None:
        """Show one line of a job on stderr."""
        with self._stopped():
            say(f"{name}: ", "bold", line, error=True)

    @contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """Take away the row of a job that has ended, and all rows while its end is printed."""
        if name in self._rows:
            self._rows[name].remove()
        with self._stopped():
            yield

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        """Take the rows away while something else is printed."""
        if self._bars is None:
            yield
            return
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()


class _Row:
    """The row of a job: the bar that it began last; its own lines stand above all rows."""

    def __init__(self, name: str, progress: Bars) -> None:
        self.name, self._progress = name, progress
        self._task: TaskID | None = None
        self._bars: list[_RowBar] = []
        self._said = ""

    def bar(self, description: str, total: int) -> _RowBar:
        """Start a bar of `total` steps."""
        self._bars.append(_RowBar(self, description, total))
        self.show()
        return self._bars[-1]

    def say(self, line: str) -> None:
        """Show one line that stays."""
        self._line(line)
        self.show()

    def end_bar(self, bar: _RowBar) -> None:
        """Show the bar that was begun before this one."""
        self._bars.remove(bar)
        self.show()

    def show(self) -> None:
        """Show the bar that was begun last, or else what was said last."""
        if self._task is None:
            self._task = self._progress.add_task(escape(self.name), total=None, facts="")
        bar = self._bars[-1] if self._bars else _RowBar(self, self._said, None)
        description = f"[bold]{escape(self.name)}[/] {escape(bar.description)}".rstrip()
        self._progress.reset(
            self._task, total=bar.total, completed=bar.done, description=description, facts=escape(bar.facts)
        )

    def update(self, bar: _RowBar) -> None:
        """Show how far a bar is, if it is the one that is shown."""
        if self._task is not None and bar is self._bars[-1]:
            self._progress.update(self._task, completed=bar.done, facts=escape(bar.facts))

    def remove(self) -> None:
        """Take the row away."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = None

    def _line(self, line: str) -> None:
        if line != self._said:
            self._progress.console.print(
                f"[bold]{escape(self.name)}:[/] [dim]{escape(line)}[/]", highlight=False, soft_wrap=True
            )
        self._said = line


class _RowBar:
    def __init__(self, row: _Row, description: str, total: int | None) -> None:
        self._row, self.description, self.total = row, description, total
        self.done, self.facts = 0, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._row.end_bar(self)

    def advance(self, steps: int = 1, facts: str = "") -> None:
        self.done, self.facts = self.done + steps, facts or self.facts
        self._row.update(self)


def show_explanation(found: Explanation) -> None:
    """Print where a file's time goes: the advice first, then tables, then what they mean."""
    from compress.report import explanation_parts
    from compress.report.render.terminal import terminal_parts

    advice, *others = explanation_parts(found)
    console.print(terminal_parts([advice]))
    if found.baseline is not None:
        say(f"baseline: {found.baseline.file}; candidate: {found.candidate.file}\n", "dim")
    console.print(terminal_parts(others))


_MODELS_AND_TASKS = (
    (
        "hf: DIR or NAME",
        "a Hugging Face classifier: BERT, DistilBERT, RoBERTa, ELECTRA; of images: ViT, DeiT",
    ),
    ("hf: DIR or NAME", "a Hugging Face decoder (...ForCausalLM): Llama, Qwen, GPT-2"),
    ("hf: FILE.gguf", "a language model of llama.cpp, its weights made float"),
    ("bundle: DIR", "what modelpress wrote, to go on from"),
    (
        "classification",
        "task: one label a row; text (CSV, JSONL, Parquet, datasets), images (folders), arrays (digits)",
    ),
    (
        "language modelling",
        "task: the next token; text (data.source=corpus: files, folders, datasets), Python's source (stdlib)",
    ),
)


def listing() -> Table:
    """Stages, models and tasks, a line each."""
    from compress.recipe.starter import starter_folder
    from compress.registry import stage_class, stage_names

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name in stage_names():
        table.add_row(name, escape(stage_class(name).summary))
    for path in sorted((starter_folder() / "models").glob("*.py")):
        table.add_row(escape(f"models/{path.name}"), _first_line(path.read_text(encoding="utf-8")))
    for name, what in _MODELS_AND_TASKS:
        table.add_row(name, what)
    return table


def _first_line(code: str) -> str:
    import ast

    return escape((ast.get_docstring(ast.parse(code)) or "").split("\n")[0])
