"""Measure a compressed ONNX file against the uncompressed one, in a separate process."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.data.split import Split
from compress.errors import MeasureError
from compress.measure.process.noise import usable_threads
from compress.measure.process.request import Request
from compress.measure.process.spawn import (
    END_WITH_PARENT,
    how_it_ended,
    kill_group,
    python_command,
    python_environment,
)
from compress.measure.results import Measurement
from compress.measure.rows import resolve_sequence
from compress.measure.size import model_files
from compress.progress import Bar, Progress, Silent
from compress.system.cores import available_cores
from compress.system.disk import scratch_directory
from compress.system.exclusive import idle
from compress.tasks import Task
from compress.timing import Setting

if TYPE_CHECKING:
    from compress.recipe import MeasureConfig  # not needed by the measuring process

__all__ = ["FilePair", "measure_pair"]

_log = logging.getLogger(__name__)
_WORKER = "compress.measure.process.worker"
_STDERR_LINES = 5


@dataclass(frozen=True)
class FilePair:
    """Two ONNX files of one task, and the rows to measure them on, which neither model was trained on.

    Attributes:
        baseline: the uncompressed .onnx file, with its external data next to it.
        candidate: the compressed file; may be the same file.
        test: the rows in the baseline's encoding.
        task: its inputs are those of `test`.
        candidate_test: the same rows in the candidate's encoding, if its vocabulary is smaller; else None.
        candidate_task: the task with the candidate's decision; None: as the baseline's.
    """

    baseline: Path
    candidate: Path
    test: Split
    task: Task
    candidate_test: Split | None = None
    candidate_task: Task | None = None

    @property
    def candidate_rows(self) -> Split:
        """The rows in the candidate's encoding."""
        return self.test if self.candidate_test is None else self.candidate_test

    def check(self) -> None:
        """Check that both files exist and have the same rows.

        Raises:
            MeasureError: they do not.
        """
        truths = (split.truth(self.task) for split in (self.candidate_rows, self.test))
        mine, theirs = ((each.labels, each.lengths) for each in truths)
        if not all(map(np.array_equal, mine, theirs)):
            raise MeasureError("candidate_test must have the rows of test, in the same order")
        for path in (self.baseline, self.candidate):
            if not path.is_file():
                raise MeasureError(f"{path}: this ONNX file does not exist")
            model_files(path)  # refuses external data outside the file's folder


def measure_pair(
    pair: FilePair, how: MeasureConfig, *, seed: int = 0, progress: Progress | None = None
) -> Measurement:
    """Measure accuracy, latency, size and memory of two ONNX files on the same rows.

    Latency is timed at every combination of batch, sequence and threads; everything else is measured once,
    with the largest thread count.

    Args:
        how: thread counts above the available cores are dropped, with a note in `noise`; a sequence of None
            is a length that covers nearly all rows (see `rows.resolve_sequence`); `runtimes` of None: only
            ONNX Runtime. The interval of a speedup is trustworthy from 5 rounds on.
        seed: of the bootstrap, and of the rows that memory is measured on.
        progress: progress display; None shows nothing.

    Raises:
        MeasureError: if a file is missing, refused by ONNX Runtime or does not fit the rows, a setting is
            impossible, the candidate has other rows, or the measuring process dies.
    """
    pair.check()
    settings, notes = _settings(pair.test, how)
    with scratch_directory("measure") as folder:
        request = Request(
            baseline=pair.baseline.resolve(),
            candidate=pair.candidate.resolve(),
            rows=folder / "rows.npz",
            candidate_rows=folder / "candidate_rows.npz",
            split=pair.test.name,
            task=pair.task.facts(),
            candidate_task=replace(
                pair.candidate_task or pair.task, inputs=pair.candidate_rows.inputs
            ).facts(),
            settings=settings,
            rounds=how.rounds,
            seconds=how.seconds,
            seed=seed,
            runtimes=how.runtimes or (),
            notes=notes,
            folder=folder,
            result=folder / "result.json",
        )
        pair.test.save(request.rows)
        pair.candidate_rows.save(folder / "candidate_rows.npz")
        with (progress or Silent()).bar("measure", request.steps) as bar:
            _run(request, bar)
        return Measurement.model_validate_json(request.result.read_text(encoding="utf-8"))


def _settings(test: Split, how: MeasureConfig) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """All settings to time at, and notes on those that are not possible here."""
    threads, notes = usable_threads(how.threads, available_cores())
    lengths = [resolve_sequence(test, length) for length in how.sequence or (None,)]
    settings = (
        Setting(batch=rows, sequence=length, threads=count)
        for rows, length, count in itertools.product(how.batch, lengths, threads)
    )
    return tuple(dict.fromkeys(settings)), notes


def _run(request: Request, bar: Bar) -> None:
    """Carry out the request in the worker; if this function exits early, the worker is killed too."""
    file = request.folder / "request.json"
    file.write_text(request.model_dump_json(), encoding="utf-8")
    stderr = request.folder / "stderr.txt"
    done, complaint = 0, ""
    with idle(), _worker(file, stderr) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = _said(line)
            if "error" in said:
                complaint = str(said["error"])
            elif "done" in said:
                bar.advance(int(said["done"]) - done, str(said["facts"]))
                done = int(said["done"])
        code = process.wait()
    if complaint:
        raise MeasureError(complaint)
    if code != 0 or not request.result.is_file():
        tail = " / ".join(
            stderr.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_STDERR_LINES:]
        )
        raise MeasureError(f"the measuring process ended {how_it_ended(code)}{': ' + tail if tail else ''}")


@contextmanager
def _worker(request: Path, stderr: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the worker in its own process group, and kill the whole group at the end.

    In its own group, Ctrl-C reaches only this process, which then kills the worker and its children;
    otherwise each of them would print a traceback over the progress bar.
    """
    with stderr.open("wb") as file:
        process = subprocess.Popen(
            python_command(_WORKER, request, END_WITH_PARENT),
            env=python_environment(),
            stdin=subprocess.PIPE,  # keeps the worker alive; see `end_with_parent`
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_group(process)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _said(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if isinstance(said, dict):
        return said
    _log.info("output of the measuring process: %s", line.rstrip())  # printed by a native library
    return {}
