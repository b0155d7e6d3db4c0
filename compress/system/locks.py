"""Locks on disk: of two runs that need the same thing, one makes it and the other waits.

A lock is the operating system's, on an empty file in `locks/`: it is dropped when its process ends, however
that is. No two runs wait for each other, because locks are taken in one order: a run's directory, then the
model or a stage, then what that needs (a latency table, a teacher's answers), and none is held twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from compress.system.distributed import is_main
from compress.system.exclusive import idle, is_alone

__all__ = ["FOLDER", "only_one"]

FOLDER = "locks"
"""Where the lock files of a folder are."""

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.2


@contextmanager
def only_one(folder: Path, name: str, doing: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock, once no other process holds it.

    Where a file system has no locks, or the folder can't be written, there is none to wait for.

    Args:
        folder: of what is guarded; the lock's file is in its `locks/`.
        name: of what is guarded.
        doing: what its holder does, as in "waiting for another run that makes the trained model".
        say: told so, if it comes to waiting.
    """
    lock = _taken(folder, name, doing, say) if is_main() else None  # for which the others wait
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _taken(folder: Path, name: str, doing: str, say: Callable[[str], None]) -> FileLock | None:
    assert not is_alone(), "who holds this lock may have made way"
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / FOLDER / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another run that {doing}")
            with idle():
                lock.acquire(poll_interval=_LOOK_EVERY_S)
    except (OSError, NotImplementedError) as error:  # Timeout is an OSError too, and is not raised here
        _log.info("no lock in %s: %s", folder, error)
        return None
    return lock
