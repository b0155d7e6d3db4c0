"""File locks: when two runs need the same thing, one makes it and the other waits.

A lock is an operating system lock on an empty file in `locks/`, released when its process ends in any way.
Deadlocks are avoided by a fixed lock order: a run's directory, then the model or a stage, then what that
needs (a latency table, a teacher's outputs); no lock is taken twice.
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
"""Folder of the lock files."""

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.2


@contextmanager
def only_one(folder: Path, name: str, doing: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock, waiting until no other process holds it.

    If the file system has no locks, or the folder is not writable, no lock is taken.

    Args:
        folder: folder of the guarded thing; the lock file is in its `locks/`.
        name: name of the guarded thing.
        doing: what the holder does, as in "waiting for another run that makes the trained model".
        say: called with a message if the lock is held.
    """
    lock = _taken(folder, name, doing, say) if is_main() else None  # the others wait for it
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
    except (OSError, NotImplementedError) as error:  # Timeout is an OSError too, but is not raised here
        _log.info("no lock in %s: %s", folder, error)
        return None
    return lock
