"""The accuracy ladder: the ONNX file after every stage on validation rows, all timed in turns.

It guides the choice of stages, so it never uses test rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from compress.data.split import Array, Split
from compress.measure.accuracy import predict
from compress.measure.latency import Rounds, Turns, median_interval, rounds_in_turns
from compress.measure.results import Interval, Rung
from compress.measure.rows import steady_batch
from compress.measure.runtimes.session import create_session, feeds
from compress.measure.size import model_files
from compress.progress import Progress
from compress.tasks import Task
from compress.timing import Setting

__all__ = ["Step", "measure_ladder"]

_MOST_ROWS = 1_000


@dataclass(frozen=True)
class Step:
    """A file of the ladder.

    Attributes:
        name: its stage, or several stages joined.
        validation: rows in this file's encoding.
        task: the task with this file's decision.
        stages: number of stages between the previous file and this one.
    """

    name: str
    onnx: Path
    validation: Split
    task: Task
    stages: int = 1


def measure_ladder(
    steps: Sequence[Step], setting: Setting, rounds: Rounds, *, progress: Progress
) -> tuple[Rung, ...]:
    """Compare each file with the first and with the previous one.

    Args:
        steps: the uncompressed file, then those after each stage; all have the same rows.
        setting: batch, sequence and threads for timing.
        rounds: its seed is also that of the sample if there are more than 1,000 rows.

    Raises:
        MeasureError: if ONNX Runtime refuses a file or a batch.
    """
    sessions = [create_session(step.onnx, threads=setting.threads) for step in steps]
    rows = [step.validation.take(_MOST_ROWS, seed=rounds.seed) for step in steps]
    with progress.bar("measure the model after every stage", len(steps) + rounds.count + 1) as bar:
        answers = []
        for session, split, step in zip(sessions, rows, steps, strict=True):
            answers.append(predict(session, split, 1, step.task))
            bar.advance(1)
        batches = [steady_batch(split, setting.batch, setting.sequence) for split in rows]
        calls = [
            partial(session.run, None, feeds(batch, session))
            for session, batch in zip(sessions, batches, strict=True)
        ]
        turns = rounds_in_turns(calls, rounds, on_round=lambda: bar.advance(1))
    return _rungs(steps, rows[0], answers, turns, rounds.seed)


def _rungs(
    steps: Sequence[Step], rows: Split, answers: Sequence[Array], turns: Turns, seed: int
) -> tuple[Rung, ...]:
    """Combine the predictions and times of each file; `rows` has the true answers."""
    times, found, task = turns.rounds_ms, [], steps[0].task
    truth = rows.truth(task)
    for at, step in enumerate(steps):
        before = max(at - 1, 0)
        found.append(
            Rung(
                name=step.name,
                rows=len(rows),
                accuracy=task.value(answers[at], truth),
                agreement=task.agreement(answers[at], answers[0], truth),
                change=task.difference(answers[before], answers[at], truth),
                p50_ms=float(np.median(times[at])),
                speedup=_ratio(times[0], times[at], seed),
                gain=_ratio(times[before], times[at], seed),
                file_bytes=sum(file.stat().st_size for file in model_files(step.onnx)),
                stages=step.stages,
                disturbed_rounds=turns.disturbance.rounds,
            )
        )
    return tuple(found)


def _ratio(slower: Sequence[float], faster: Sequence[float], seed: int) -> Interval:
    ratios = [float(a / b) for a, b in zip(slower, faster, strict=True)]
    low, high = median_interval(ratios, seed=seed)
    return Interval(value=float(np.median(ratios)), low=low, high=high)
