"""Turns: one job measures, and all others stand still meanwhile.

A process that measures (see `system.exclusive`) connects and says of which job it is. It is answered once no
other job measures, and the processes of all others are suspended; when it hangs up, or dies, they go on. Who
asks first is first.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from types import TracebackType
from typing import Any, Self

import psutil

from compress.system.exclusive import JOB, TURNS

__all__ = ["Turns", "tree_of"]

_MOST_AT_ONCE = 64  # that connect in the same moment
_STOPPED_WITHIN_S = 2.0
_LOOK_EVERY_S = 0.001
_STANDS = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


@dataclass(frozen=True, eq=False)
class _Claim:
    """A process that measures, or wants to."""

    job: int
    pid: int


class Turns:
    """Who measures now; use as a context manager, while which jobs may be admitted."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._claims: list[_Claim] = []  # in the order in which they came
        self._holder: int | None = None
        self._starting: set[int] = set()
        self._pids: dict[int, int] = {}
        self._standing: dict[int, list[Any]] = {}  # the suspended processes of a job
        self._closed = False

    def __enter__(self) -> Self:
        self._listener = Listener(backlog=_MOST_AT_ONCE)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        with contextlib.suppress(OSError), Client(self._listener.address):
            pass  # wakes the thread that accepts, which sees that this is the end
        self._listener.close()

    def environment(self, job: int) -> dict[str, str]:
        """What the environment of a job's process says."""
        return {TURNS: str(self._listener.address), JOB: str(job)}

    def admit(self, job: int) -> bool:
        """Allow a job's process to be started; not while another one measures.

        Nobody measures from here until the job is `ready`: starting takes time from others too.
        """
        with self._changed:
            if self._holder is not None:
                return False
            self._starting.add(job)
            return True

    def ready(self, job: int, pid: int) -> None:
        """From now on the process of this job can be suspended."""
        with self._changed:
            self._starting.discard(job)
            self._pids[job] = pid
            self._settle()

    def remove(self, job: int) -> None:
        """The process of this job has ended; what it left that measures, or stands still, is killed."""
        with self._changed:
            self._starting.discard(job)
            self._pids.pop(job, None)
            left = self._standing.pop(job, [])
            left += [each for claim in self._claims if claim.job == job for each in tree_of(claim.pid)]
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self._claims = [claim for claim in self._claims if claim.job != job]
            self._settle()

    def close(self) -> None:
        """Let all go on; nobody is given a turn any more."""
        with self._changed:
            self._closed = True
            self._claims = []
            self._settle()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection = self._listener.accept()
            except (EOFError, OSError):  # one that hung up at once; or the listener was closed
                continue
            # In a thread of its own: one that is suspended before it says who it is holds nobody up.
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with connection, contextlib.suppress(EOFError, OSError, ValueError):
            job, pid = map(int, connection.recv_bytes().split())
            with self._granted(_Claim(job, pid)) as granted:
                if granted:
                    connection.send_bytes(b"alone")
                    connection.recv_bytes()  # ends with EOFError when the other side hangs up

    @contextlib.contextmanager
    def _granted(self, claim: _Claim) -> Iterator[bool]:
        """Wait until it is this one's turn; not given if its job has ended."""
        with self._changed:
            if claim.job in self._pids:
                self._claims.append(claim)
            self._settle()
            self._changed.wait_for(lambda: claim not in self._claims or self._holder == claim.job)
            granted = claim in self._claims
        try:
            yield granted
        finally:
            with self._changed:
                if claim in self._claims:
                    self._claims.remove(claim)
                self._settle()

    def _settle(self) -> None:
        """Make what stands and what runs follow from the claims; the caller holds the lock."""
        if all(claim.job != self._holder for claim in self._claims):
            self._holder = None
        if self._holder is None and self._claims and not self._starting:
            self._holder = self._claims[0].job
        for job, pid in self._pids.items():
            stands = self._holder not in (None, job)
            if stands and job not in self._standing:
                self._standing[job] = _suspended(pid)
            elif not stands and job in self._standing:
                _resume(self._standing.pop(job))
        self._changed.notify_all()


def tree_of(pid: int) -> list[Any]:
    """A process and all that it started, as far as they are there."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _suspended(pid: int) -> list[Any]:
    """Suspend a process and all that it started, and wait until they stand."""
    found: list[Any] = []
    while new := [process for process in tree_of(pid) if process not in found]:  # one may start another
        for process in new:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        found += new
    deadline = time.monotonic() + _STOPPED_WITHIN_S  # one that waits for a disk can't be stopped at once
    while not all(map(_stands, found)) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
    return found


def _stands(process: Any) -> bool:
    try:
        return process.status() in _STANDS
    except psutil.NoSuchProcess:
        return True


def _resume(processes: list[Any]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.resume()
