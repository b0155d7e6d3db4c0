"""Python processes of our own, which find the packages that this one finds, in any working directory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

__all__ = [
    "END_WITH_PARENT",
    "end_own_group",
    "end_with_parent",
    "how_it_ended",
    "kill_group",
    "python_command",
    "python_environment",
]

END_WITH_PARENT = "--end-with-parent"
"""An argument of our processes that asks for `end_with_parent`."""


def python_command(module: str, *arguments: str | Path) -> list[str]:
    """Build the command that runs a module; -P keeps a user's file named like a library out of the way."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def python_environment() -> dict[str, str]:
    """Build the environment that hands on this process's search path, as multiprocessing's spawn does."""
    path = os.pathsep.join(str(Path.cwd()) if entry == "" else entry for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path}


def end_with_parent(*, grace_s: float = 0.0) -> threading.Event:
    """End this process, and its group if it leads one, when its standard input ends: its parent is gone.

    The parent holds the other end of a pipe, which the system closes however the parent ends.

    Args:
        grace_s: send SIGTERM to the main thread first, and give it this time to end by itself.

    Returns:
        An event that is set once the parent is gone.
    """
    gone = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        gone.set()
        if grace_s and sys.platform != "win32":
            # To the main thread: taken by another one, it would not interrupt what the main one waits for.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            time.sleep(grace_s)
        end_own_group()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    return gone


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process that leads a group, and all of its group; nothing, if nothing is left of it."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def end_own_group() -> None:
    """End this process at once, and its group if it leads one."""
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def how_it_ended(code: int) -> str:
    """Say how a process ended that did not do its work, from its return code."""
    if code >= 0:
        return f"with exit code {code} and no result"
    hint = "; the system kills a process like this when memory runs out" if -code == signal.SIGKILL else ""
    return f"by signal {-code} ({signal.Signals(-code).name}){hint}"
