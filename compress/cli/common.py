"""Helpers shared by the commands."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress.errors import CompressError, Problem, RecipeError, shortened
from compress.safe_text import visible
from compress.system.disk import cannot_write
from compress.system.distributed import is_main, process_index

if TYPE_CHECKING:
    from compress.recipe import Recipe
    from compress.report import CheckRecord, GateRecord
    from compress.tasks.spec import TaskWords

__all__ = [
    "AsJson",
    "GATES_FAILED",
    "INTERRUPTED",
    "Markdown",
    "NOT_JUDGED",
    "Quiet",
    "ReplaceDirectory",
    "echo",
    "load_recipes",
    "print_check",
    "print_error",
    "print_gates",
    "see_page",
    "start_logging",
    "write_summary",
    "write_text",
]

_LEVELS = ("debug", "info", "warning", "error", "critical")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors, but no progress.")]
"""Option of commands that run long enough to show progress."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]
ReplaceDirectory = Annotated[bool, typer.Option("--overwrite", help="Replace the directory if it exists.")]
GATES_FAILED = 3
"""Exit code of a run or check that completed but fails a gate."""
NOT_JUDGED = 4
"""Exit code of a run or check without failures, but with a gate that a busy machine could not judge."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as in shells. After SIGTERM it is 143, after SIGHUP 129."""


def start_logging() -> None:
    """Log to stderr at the user's level, with noisy library warnings suppressed.

    Raises:
        RecipeError: MODELPRESS_LOG is not a level.
    """
    level = os.environ.get("MODELPRESS_LOG", "").strip().lower() or "warning"
    if level not in _LEVELS:
        raise RecipeError(
            Problem(
                f"the environment variable MODELPRESS_LOG is {shortened(level)}; it must be "
                f"{', '.join(_LEVELS[:-1])} or {_LEVELS[-1]}",
                key="MODELPRESS_LOG",
                value=level,
                allowed=_LEVELS,
            )
        )
    logging.basicConfig(level=level.upper(), format="%(name)s: %(message)s")
    # When transformers imports torchao, this torch warns about how torchao registers its own enums.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def load_recipes(words: Sequence[str]) -> list[Recipe]:
    """Load every recipe before any work starts."""
    from compress.recipe import load_recipe

    paths = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if not paths:
        raise RecipeError(
            "give at least one recipe, for example recipes/digits/quantize-int8.yaml",
            see="how-to/choose-a-recipe",
        )
    recipes = [load_recipe(Path(path), overrides) for path in paths]
    names = [recipe.run_name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(
                f"two recipes have the run name '{name}'; give each its own `name:`, or run them separately"
            )
    return recipes


def echo(text: str = "", *, nl: bool = True, err: bool = False, as_data: bool = False) -> None:
    """Print a line without wrapping.

    Args:
        nl: end it with a newline.
        err: print to stderr.
        as_data: output for programs: control characters are escaped only if printed to a terminal.
    """
    if not as_data or (sys.stderr if err else sys.stdout).isatty():
        text = visible(text)
    typer.echo(text, nl=nl, err=err)


def print_gates(gates: Sequence[GateRecord], words: TaskWords) -> None:
    """Print one line per gate: whether it holds, its name, its limit, and the measured value."""
    from compress.report import gate_checks

    for check in gate_checks(gates, words):
        print_check(check)


def print_check(check: CheckRecord) -> None:
    """Print a line that begins with `holds:`, `fails:` or `not judged:`, and the check's name."""
    from compress.cli.console import say

    word, style = ("holds: ", "green") if check.holds else ("fails: ", "bold red")
    if not check.judged:
        word, style = "not judged: ", "yellow"
    say(word, style, f"{check.name}: {check.found}", wrap=True)


def write_text(path: Path, text: str) -> None:
    """Write a file that the user named.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(error, path) from error


def write_summary(text: Callable[[], str]) -> None:
    """Append Markdown to the summary of a GitHub Actions job, if there is one.

    Raises:
        OutputError: it cannot be written.
    """
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        return
    path = Path(name)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text())
    except OSError as error:
        raise cannot_write(error, path) from error


def print_error(error: CompressError) -> None:
    """Print an error to stderr; with several processes, prefixed with the process index."""
    from compress.cli.console import say

    who = "" if is_main() else f"process {process_index()}: "
    say(f"{who}error: ", "bold red", str(error), error=True)
    if error.see is not None:
        say(see_page(error.see), "dim", error=True)


def see_page(page: str) -> str:
    """Pointer to a page of the documentation, as a sentence."""
    return f"See `modelpress docs {page}`."
