"""One recipe of several: the process that `modelpress run --jobs` starts.

    python -m compress.cli.job RECIPE --output DIR [--overwrite] [KEY=VALUE...]

It says how it goes as JSON lines (see `compress.jobs.progress_lines`), and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from compress.cli.common import INTERRUPTED, start_logging
from compress.cli.unforeseen import as_known
from compress.jobs.progress_lines import Sender

__all__ = ["main", "tied_to_its_parent"]

_TO_END_S = 10.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: Sequence[str]) -> int:
    """Run a recipe and return the exit code."""
    given = _read(arguments)
    try:
        with tied_to_its_parent(), _own_output() as out:
            return _run(given, Sender(out))
    except KeyboardInterrupt:
        return INTERRUPTED


def _read(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compress.cli.job")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true")
    return parser.parse_args(arguments)


def _run(given: argparse.Namespace, sender: Sender) -> int:
    sender.ready()
    try:
        start_logging()
        from compress.pipeline import run
        from compress.recipe import load_recipe

        recipe = load_recipe(given.recipe, given.overrides)
        outcome = run(recipe, given.output, overwrite=given.overwrite, progress=sender)
    except Exception as error:
        known = as_known(error)
        sender.end(error=type(known).__name__, message=str(known), exit_code=known.exit_code)
        return known.exit_code
    sender.end(already_done=outcome.already_done)
    return 0


@contextlib.contextmanager
def _own_output() -> Iterator[TextIO]:
    """Keep standard output for ourselves: what a model's file prints goes to standard error."""
    with open(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as own:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield own


@contextlib.contextmanager
def tied_to_its_parent() -> Iterator[None]:
    """Interrupt this process when its standard input ends: its parent, gone, would have done so.

    One that stands still sees no end of anything. On Linux the kernel wakes it when its parent dies; on other
    Unix systems too, because its process group, suspended, is then an orphan (POSIX: SIGHUP, SIGCONT).
    """
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGCONT))
    threading.Thread(target=_wait_for_the_end, daemon=True).start()

    try:
        yield
    finally:
        _kill_children()  # what is done needs none; what was interrupted may have left some


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _wait_for_the_end() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    if sys.platform == "win32":
        os.kill(os.getpid(), signal.SIGTERM)  # ends it at once
    else:  # to the main thread: taken by another one, it would not interrupt what the main one waits for
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(_TO_END_S)
    _kill_children()
    os._exit(INTERRUPTED)


def _kill_children() -> None:
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
