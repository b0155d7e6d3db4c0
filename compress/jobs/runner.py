"""Jobs: several processes side by side, with turns for what only one may do, and nothing of them left behind.

A job's process says how it goes on its standard output (see `progress_lines`). Its standard input is
its lifeline: when that ends, whoever started it is gone, and it ends too (see `worker`).
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import psutil

from compress.errors import StageError
from compress.jobs.progress_lines import Receiver
from compress.jobs.scheduler import Turns, tree_of
from compress.measure.process.spawn import how_it_ended, python_environment
from compress.progress import Progress
from compress.system.signals import ended_as_interrupted

__all__ = ["Ended", "Job", "run_jobs"]

_LOOK_EVERY_S = 0.2
_TO_END_S = 10.0  # for removing temporary files
_LAST_WORDS_S = 1.0


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        command: that starts it.
        progress: shows how it goes.
        complain: told each line of its standard error.
    """

    name: str
    command: Sequence[str]
    progress: Progress
    complain: Callable[[str], None]


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        index: of the job.
        said: its last word; none: it died before.
        died: how, if it has no last word.
    """

    index: int
    said: dict[str, Any] | None
    died: str = ""


@dataclass
class _Running:
    index: int
    process: subprocess.Popen[bytes]
    receiver: Receiver
    complain: Callable[[str], None]


def run_jobs(jobs: Sequence[Job], *, at_once: int) -> Generator[Ended, None, None]:
    """Run jobs, so many at a time, and yield each as it ends; close this generator to end them all.

    Their processes are ended, suspended or not, when this one is interrupted or terminated; each has some
    seconds to remove what is half-written. Call it in the main thread: on Linux a process looks whether the
    thread that started it lives.
    """
    waiting = deque(range(len(jobs)))
    running: dict[int, _Running] = {}
    events: queue.Queue[tuple[int, Any]] = queue.Queue()
    with ended_as_interrupted(), Turns() as turns:
        try:
            while waiting or running:
                while waiting and len(running) < at_once and turns.admit(waiting[0]):
                    index = waiting.popleft()
                    running[index] = _started(index, jobs[index], turns, events)
                try:
                    index, event = events.get(timeout=_LOOK_EVERY_S)
                except queue.Empty:
                    continue
                job = running[index]
                if isinstance(event, str):
                    job.complain(event)
                elif isinstance(event, dict):
                    job.receiver.hear(event)
                else:
                    turns.remove(index)
                    job.receiver.close()
                    del running[index]
                    said = job.receiver.end
                    yield Ended(index, said, "" if said is not None else how_it_ended(event))
        finally:
            turns.close()
            _end([job.process for job in running.values()])


def _started(index: int, job: Job, turns: Turns, events: queue.Queue[tuple[int, Any]]) -> _Running:
    # A group of its own: Ctrl-C reaches this process alone, which then ends the others in order.
    own_group: dict[str, Any] = {"process_group": 0}
    if sys.platform == "win32":
        own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    try:
        process = subprocess.Popen(
            job.command,
            env={**python_environment(), **turns.environment(index)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **own_group,
        )
    except OSError as error:
        raise StageError(f"{job.name}: its process can't be started: {error.strerror or error}") from error
    running = _Running(index, process, Receiver(job.progress), job.complain)
    threading.Thread(target=_watch, args=(running, turns, events), daemon=True).start()
    return running


def _watch(job: _Running, turns: Turns, events: queue.Queue[tuple[int, Any]]) -> None:
    """Hand on what a process says; its return code comes last."""

    def hear(file: IO[bytes]) -> None:
        with file:
            for line in file:
                try:
                    said = json.loads(line)
                except ValueError:
                    continue  # it died within the line
                if "ready" in said:
                    turns.ready(job.index, job.process.pid)
                else:
                    events.put((job.index, said))

    def overhear(file: IO[bytes]) -> None:
        with file:
            for line in file:
                # Of a library's own bar, which draws over itself, the last state.
                shown = line.decode(errors="replace").rstrip().rpartition("\r")[2]
                if shown:
                    events.put((job.index, shown))

    process = job.process
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    readers = [
        threading.Thread(target=hear, args=(process.stdout,), daemon=True),
        threading.Thread(target=overhear, args=(process.stderr,), daemon=True),
    ]
    for reader in readers:
        reader.start()
    code = process.wait()
    process.stdin.close()
    for reader in readers:
        reader.join(_LAST_WORDS_S)  # no longer: what it started may hold its output open
    events.put((job.index, code))


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes and all that they started: with a word, and after some seconds by force."""
    trees = [each for process in processes for each in tree_of(process.pid)]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()  # its lifeline
        deadline = time.monotonic() + _TO_END_S
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        trees += [each for process in processes for each in tree_of(process.pid)]
        for each in trees:
            with contextlib.suppress(psutil.Error):
                each.kill()
        for process in processes:
            process.wait()
