"""Exclusive timing: a measurement next to another job's training would measure noise.

`modelpress run --jobs` runs recipes side by side, each in its own processes. A job holds a lock file while it
works. `alone()` acquires those of all jobs: it starts once each other job has called `make_way()`, which a
progress bar does at each step, waits in `idle()`, or has ended. In a single run nothing here has any effect.

Inside `alone()` no lock may be waited for (checked in `system.locks`): a job that made way may hold it.
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

_VARIABLE = "MODELPRESS_JOB"  # inherited by a job's own processes
_LOOK_EVERY_S = 0.05

_depth = 0  # nesting of `alone()`
_held: FileLock | None = None  # the job's lock, while this process works
_looked_at = 0.0


def job_environment(folder: Path, job: int, jobs: int) -> dict[str, str]:
    """Return the environment variable that makes a process part of a job.

    Args:
        folder: folder of the lock files.
        job: index of the job.
        jobs: number of jobs.
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
    """Wait until no other job is alone, and block `alone()` until this process makes way, idles or ends."""
    global _held
    own = _own_job()
    if own is not None and _held is None:
        lock = job_lock(*own[:2])
        lock.acquire(poll_interval=_LOOK_EVERY_S)
        _held = lock


@contextmanager
def idle() -> Iterator[None]:
    """Allow other jobs to be alone during this block, in which this process only waits."""
    global _held
    held, _held = _held, None
    if held is None:
        yield
        return
    held.release()
    try:
        yield
    finally:
        if not isinstance(sys.exception(), KeyboardInterrupt):  # this process is ending and must not wait
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
    """Let no other job work during this block."""
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
    """The lock of the one job that is alone, or is waiting to be."""
    return job_lock(folder, "turn")


def is_alone() -> bool:
    """Whether this process is inside `alone()`."""
    return _depth > 0
