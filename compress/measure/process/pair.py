"""Measure a compressed ONNX file against the uncompressed one, in a separate process."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from compress.data.split import Split
from compress.errors import MeasureError
from compress.measure.process.job import Job
from compress.measure.process.noise import usable_threads
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

__all__ = ["measure_pair"]

_log = logging.getLogger(__name__)
_WORKER = "compress.measure.process.worker"
_STDERR_LINES = 5


def measure_pair(
    baseline: Path,
    candidate: Path,
    test: Split,
    task: Task,
    *,
    candidate_test: Split | None = None,
    batch: Sequence[int],
    sequence: Sequence[int] | None,
    threads: Sequence[int],
    rounds: int,
    seconds: float,
    seed: int,
    runtimes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Measurement:
    """Measure accuracy, latency, size and memory of two ONNX files on the same rows.

    Latency is timed at every combination of batch, sequence and threads; everything else is measured once,
    with the largest thread count.

    Args:
        baseline: the uncompressed .onnx file, with its external data next to it.
        candidate: the compressed file; may be the same file.
        test: rows that neither model was trained on.
        task: task of the files; its inputs are those of `test`.
        candidate_test: the same rows in the candidate's encoding, if its vocabulary is smaller.
        batch: rows per call.
        sequence: tokens per row; None uses a length that covers nearly all rows (see
            `rows.resolve_sequence`).
        threads: intra-op threads; counts above the available cores are dropped, with a note in `noise`.
        rounds: timing rounds per setting; the interval is trustworthy from 5 on.
        seconds: duration per file and round.
        seed: of the bootstrap, and of the rows that memory is measured on.
        runtimes: additional runtimes to measure both files in: openvino.
        progress: progress display; None shows nothing.

    Raises:
        MeasureError: if a file is missing, refused by ONNX Runtime or does not fit the rows, a setting is
            impossible, `candidate_test` holds other rows, or the measuring process dies.
    """
    other = test if candidate_test is None else candidate_test
    if not np.array_equal(other.answers, test.answers):
        raise MeasureError("candidate_test must hold the rows of test, in their order")
    for path in (baseline, candidate):
        if not path.is_file():
            raise MeasureError(f"{path}: there is no such ONNX file to measure")
        model_files(path)  # refuses external data outside the file's folder
    kept, notes = usable_threads(threads, available_cores())
    lengths = [resolve_sequence(test, length) for length in (sequence if sequence is not None else [None])]
    with scratch_directory("measure") as folder:
        candidate_rows = folder / "candidate_rows.npz"
        try:
            settings = [
                Setting(batch=rows, sequence=length, threads=count)
                for rows, length, count in itertools.product(batch, lengths, kept)
            ]
            job = Job(
                baseline=baseline.resolve(),
                candidate=candidate.resolve(),
                rows=folder / "rows.npz",
                candidate_rows=candidate_rows,
                split=test.name,
                task=task.facts(),
                candidate_inputs=other.inputs,
                settings=tuple(dict.fromkeys(settings)),
                rounds=rounds,
                seconds=seconds,
                seed=seed,
                runtimes=tuple(runtimes),
                notes=notes,
                folder=folder,
                result=folder / "result.json",
            )
        except ValidationError as error:
            raise MeasureError(f"measure: {_first_complaint(error)}") from error
        test.save(job.rows)
        other.save(candidate_rows)
        with (progress or Silent()).bar("measure", job.steps) as bar:
            _run(job, bar)
        return Measurement.model_validate_json(job.result.read_text(encoding="utf-8"))


def _run(job: Job, bar: Bar) -> None:
    """Run the job in the worker; if this function exits early, the worker is killed too."""
    file = job.folder / "job.json"
    file.write_text(job.model_dump_json(), encoding="utf-8")
    stderr = job.folder / "stderr.txt"
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
    if code != 0 or not job.result.is_file():
        tail = " / ".join(
            stderr.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_STDERR_LINES:]
        )
        raise MeasureError(f"the measuring process ended {how_it_ended(code)}{': ' + tail if tail else ''}")


@contextmanager
def _worker(job: Path, stderr: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the worker in its own process group, and kill the whole group at the end.

    In its own group, Ctrl-C reaches only this process, which then kills the worker and its children;
    otherwise each of them would print a traceback over the progress bar.
    """
    with stderr.open("wb") as file:
        process = subprocess.Popen(
            python_command(_WORKER, job, END_WITH_PARENT),
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
    _log.info("the measuring process says: %s", line.rstrip())  # printed by a native library
    return {}


def _first_complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['input']!r} is not allowed: {first['msg']}"
