"""What is timed is timed alone: a clock that runs beside another job's training measures noise.

`modelpress run --jobs` runs recipes side by side, each in a process of its own. What looks at a clock, or at
memory, does so inside of `alone()`: it waits until whoever started the jobs (`compress.jobs.scheduler`) has
made all other jobs stand still. In a run by itself, which is the rule, nothing here does anything.

Inside of `alone()` no lock may be waited for (`system.locks` sees to it): who stands still may hold it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from compress.errors import MeasureError

__all__ = ["JOB", "TURNS", "alone", "is_alone"]

TURNS = "MODELPRESS_TURNS"
"""The environment variable that says where to ask; a job's own processes inherit it."""
JOB = "MODELPRESS_JOB"
"""The environment variable that says which job asks."""

_depth = 0  # of `alone()` inside of `alone()`


@contextmanager
def alone() -> Iterator[None]:
    """Let all other jobs stand still meanwhile.

    Raises:
        MeasureError: whoever started this job is gone.
    """
    global _depth
    if _depth or TURNS not in os.environ:
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
        return
    from multiprocessing.connection import Client

    gone = "the run that started this job has ended"
    try:
        connection = Client(os.environ[TURNS])
    except OSError as error:
        raise MeasureError(gone) from error
    with connection:  # closing it, which the system does for one that dies, gives the turn back
        try:
            connection.send_bytes(f"{os.environ[JOB]} {os.getpid()}".encode())
            connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise MeasureError(gone) from error
        _depth = 1
        try:
            yield
        finally:
            _depth = 0


def is_alone() -> bool:
    """Whether this process is inside of `alone()`."""
    return _depth > 0
