"""Jobs: several processes side by side, with no process left behind.

A job prints lines; output after its last complete line, such as text ending in a carriage return, is its
current activity. Its first byte signals that it has started. Its standard input is its lifeline: when that is
closed, the parent is gone, and the job exits too (see `end_with_parent`).
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from compress.errors import StageError
from compress.measure.process.spawn import kill_group, python_environment
from compress.system.disk import scratch_directory
from compress.system.exclusive import job_environment, job_lock
from compress.system.signals import ended_as_interrupted

__all__ = ["Job", "run_jobs"]

_TO_END_S = 10.0  # for removing temporary files
_LAST_WORDS_S = 1.0
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Job:
    """One process.

    Attributes:
        command: command line that starts it.
        line: called with each line of its output.
        now: called with its current activity.
        complain: called with each line of its standard error.
    """

    name: str
    command: Sequence[str]
    line: Callable[[str], None]
    now: Callable[[str], None]
    complain: Callable[[str], None]


def run_jobs(jobs: Sequence[Job], *, at_once: int) -> Generator[tuple[int, int], None, None]:
    """Run jobs, some at a time, and yield index and return code of each as it ends.

    All are ended when this generator is closed, or this process is interrupted or terminated; each has some
    seconds to remove unfinished files.
    """
    with ended_as_interrupted(), scratch_directory("jobs") as folder, ThreadPoolExecutor(at_once) as pool:
        processes = _Processes()
        futures = {
            pool.submit(processes.run, job, folder, index, len(jobs)): index for index, job in enumerate(jobs)
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()
            processes.end()
            try:
                wait(futures, _TO_END_S)
            finally:
                processes.kill()


class _Processes:
    """The running processes; once ended, no more are started."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._ended = False

    def run(self, job: Job, folder: Path, index: int, jobs: int) -> int:
        """Run one to completion and return its return code."""
        started = threading.Event()
        with job_lock(folder, index):  # held during start-up, which also takes time from others
            with self._lock:
                if self._ended:
                    return 0
                process = _started(job, job_environment(folder, index, jobs))
                self._running.append(process)
            readers = [
                threading.Thread(target=_read, args=arguments, daemon=True)
                for arguments in (
                    (process.stdout, job.line, job.now, started),
                    (process.stderr, job.complain, lambda text: None, threading.Event()),
                )
            ]
            for reader in readers:
                reader.start()
            started.wait()
        code = process.wait()
        with self._lock:
            self._running.remove(process)
        kill_group(process)  # child processes that it left
        for reader in readers:
            reader.join(_LAST_WORDS_S)
        assert process.stdin is not None
        process.stdin.close()
        return code

    def end(self) -> None:
        """Ask all processes to exit, and start no others."""
        with self._lock:
            self._ended = True
            for process in self._running:
                assert process.stdin is not None
                process.stdin.close()

    def kill(self) -> None:
        """Kill all processes."""
        with self._lock:
            for process in self._running:
                kill_group(process)


def _started(job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            job.command,
            env=python_environment() | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Its own group: Ctrl-C reaches only this process, which then ends the others in order.
            start_new_session=True,
        )
    except OSError as error:
        raise StageError(f"{job.name}: cannot start its process: {error.strerror or error}") from error


def _read(
    file: IO[bytes], line: Callable[[str], None], now: Callable[[str], None], started: threading.Event
) -> None:
    """Pass on each line of a file, and the incomplete text after the last one."""
    rest = b""
    with file:
        while part := os.read(file.fileno(), _READ_BYTES):
            started.set()
            *lines, rest = (rest + part).split(b"\n")
            for each in lines:
                if text := _shown(each):
                    line(text)
            if text := _shown(rest):
                now(text)
    started.set()
    if rest and not rest.endswith(b"\r"):
        line(_shown(rest))


def _shown(raw: bytes) -> str:
    """A line as a terminal would show it: the text after the last carriage return."""
    return raw.decode(errors="replace").rstrip().rpartition("\r")[2]
