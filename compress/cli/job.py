"""One recipe of several: the process that `modelpress run --jobs` starts.

    python -m compress.cli.job RECIPE --output DIR [--overwrite] [--live | --quiet] [KEY=VALUE...]

It prints lines like a run redirected to a file; with --live also its current state, each overwriting the
last. It exits when its standard input is closed.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from compress.cli.common import INTERRUPTED, print_error, start_logging
from compress.cli.unforeseen import as_known
from compress.measure.process.spawn import end_own_group, end_with_parent
from compress.progress import LineProgress
from compress.system.exclusive import make_way, work
from compress.system.signals import ended_as_interrupted

__all__ = ["ALREADY_DONE", "begin", "main"]

ALREADY_DONE = 10
"""Exit code if the run already existed."""
_TO_END_S = 10.0


def main(arguments: Sequence[str]) -> int:
    """Run a recipe and return the exit code."""
    given = _read(arguments)
    parent_gone = end_with_parent(grace_s=_TO_END_S)
    try:
        with ended_as_interrupted():
            begin()
            return _run(given)
    except KeyboardInterrupt:
        if parent_gone.is_set():  # nobody else ends the interrupted children
            end_own_group()
        return INTERRUPTED


def _read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compress.cli.job")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    return parser.parse_args(arguments)


def begin() -> None:
    """Signal that this process has started, and begin to work."""
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    sys.stdout.write("\r")
    work()


def _run(given: argparse.Namespace) -> int:
    def now(text: str) -> None:
        sys.stdout.write(f"{text}\r")

    write: Callable[[str], None] = (lambda line: None) if given.quiet else print
    progress = LineProgress(write, now=now if given.live else None, on_step=make_way)
    try:
        start_logging()
        from compress.pipeline import run
        from compress.recipe import load_recipe

        recipe = load_recipe(given.recipe, given.overrides)
        outcome = run(recipe, given.output, overwrite=given.overwrite, progress=progress)
    except Exception as error:
        known = as_known(error)
        print_error(known)
        return known.exit_code
    return ALREADY_DONE if outcome.already_done else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
