"""What is timed is timed alone: a clock that runs beside another job's training measures noise.

`modelpress run --jobs` runs recipes side by side, each in processes of its own. A job holds a lock file while
it works. `alone()` holds those of all jobs: it begins once each of the others has called `make_way()`, which
a progress bar does at each step, or waits in `idle()`, or has ended. In a run by itself nothing here does
anything.

Inside `alone()` no lock may be waited for (`system.locks` checks it): a job that made way may hold it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["alone", "idle", "is_alone", "job_environment", "job_lock", "make_way", "work"]

_VARIABLE = "MODELPRESS_JOB"  # a job's own processes inherit it
_LOOK_EVERY_S = 0.05

_depth = 0  # of `alone()` inside `alone()`
_held: FileLock | None = None  # the job's, while this process works
_looked_at = 0.0


def job_environment(folder: Path, job: int, jobs: int) -> dict[str, str]:
    """Return the environment variable that makes a process one of a job.

    Args:
        folder: for the lock files.
        job: index of the job.
        jobs: how many there are.
    """
    return {_VARIABLE: f"{job} {jobs} {folder}"}


def job_lock(folder: Path, job: int | str) -> FileLock:
    """Return the lock that a job holds while it works."""
    return FileLock(folder / f"{job}.lock", thread_local=False)


def _own_job() -> tuple[Path, int, int] | None:
    if _VARIABLE not in os.environ:
        return None
    job, jobs, folder = os.environ[_VARIABLE].split(" ", 2)
    return Path(folder), int(job), int(jobs)


def work() -> None:
    """Wait until no other job is alone; none is from here on, until this process makes way, idles or ends."""
    global _held
    own = _own_job()
    if own is not None and _held is None:
        lock = job_lock(*own[:2])
        lock.acquire(poll_interval=_LOOK_EVERY_S)
        _held = lock


@contextmanager
def idle() -> Iterator[None]:
    """Let other jobs be alone inside this block, in which this process only waits."""
    global _held
    held, _held = _held, None
    if held is None:
        yield
        return
    held.release()
    try:
        yield
    finally:
        if not isinstance(sys.exception(), KeyboardInterrupt):  # this process ends: it waits for nobody
            work()


def make_way() -> None:
    """Wait here while another job is alone, or wants to be."""
    global _looked_at
    own = _own_job()
    if own is None or _held is None or time.monotonic() - _looked_at < _LOOK_EVERY_S:
        return
    _looked_at = time.monotonic()
    turn = _turn(own[0])
    try:
        turn.acquire(timeout=0)
    except Timeout:
        with idle():
            turn.acquire(poll_interval=_LOOK_EVERY_S)
            turn.release()
    else:
        turn.release()


@contextmanager
def alone() -> Iterator[None]:
    """Let no other job work inside this block."""
    global _depth
    own = _own_job()
    with ExitStack() as held:
        if own is not None and not _depth:
            folder, _, jobs = own
            held.enter_context(idle())
            for lock in (_turn(folder), *(job_lock(folder, job) for job in range(jobs))):
                lock.acquire(poll_interval=_LOOK_EVERY_S)
                held.callback(lock.release)
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1


def _turn(folder: Path) -> FileLock:
    """The lock of the one job that is alone, or waits until it is."""
    return job_lock(folder, "turn")


def is_alone() -> bool:
    """Whether this process is inside of `alone()`."""
    return _depth > 0
