"""Python subprocesses that find the same packages as this process, in any working directory."""

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
"""Command-line argument that makes our subprocesses call `end_with_parent`."""


def python_command(module: str, *arguments: str | Path) -> list[str]:
    """Build the command that runs a module; -P keeps local files from shadowing libraries."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def python_environment() -> dict[str, str]:
    """Build an environment that passes on this process's search path, like multiprocessing's spawn."""
    path = os.pathsep.join(str(Path.cwd()) if entry == "" else entry for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path}


def end_with_parent(*, grace_s: float = 0.0) -> threading.Event:
    """Kill this process, and its group if it leads one, once stdin closes because its parent is gone.

    The parent holds the other end of the pipe, which the system closes however the parent ends.

    Args:
        grace_s: first send SIGTERM to the main thread and wait this long for it to exit.

    Returns:
        An event that is set once the parent is gone.
    """
    gone = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        gone.set()
        if grace_s and sys.platform != "win32":
            # Sent to the main thread: handled by another one, it would not interrupt the main one's wait.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            time.sleep(grace_s)
        end_own_group()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    return gone


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process group by its leader; does nothing if the group is gone."""
    with contextlib.suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def end_own_group() -> None:
    """Kill this process immediately, and its group if it leads one."""
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def how_it_ended(code: int) -> str:
    """Describe how a process without a result ended, from its return code."""
    if code >= 0:
        return f"with exit code {code} without a result"
    hint = "; the system does this when it runs out of memory" if -code == signal.SIGKILL else ""
    return f"by signal {-code} ({signal.Signals(-code).name}){hint}"
