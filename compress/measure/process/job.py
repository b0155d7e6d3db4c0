"""What the measuring process is asked, as a JSON file that it can also be given by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from compress.measure.process.loading import PROCESSES
from compress.tasks import InputSpec, task_class
from compress.timing import Setting

__all__ = ["BATCHED_STEPS", "EXPLAIN_STEPS", "Job", "SINGLE_STEPS"]

SINGLE_STEPS = 10
BATCHED_STEPS = 5
EXPLAIN_STEPS = 1
_STEPS_PER_MODEL = (
    1 + PROCESSES + 1 + SINGLE_STEPS + BATCHED_STEPS
)  # size, loading, operators, accuracy twice


class Job(BaseModel):
    """Two ONNX files, the rows to measure them on, and where the answer goes.

    Attributes:
        rows: an .npz file that `Split.save` wrote.
        candidate_rows: the same rows as the candidate reads them; none: as the baseline does.
        split: that split's name.
        task: `Task.facts` of the task, with the baseline's inputs.
        candidate_inputs: what each of the candidate's rows holds.
        settings: latency is timed at each.
        rounds: of both files, at each setting.
        seconds: of timing one file in one round.
        seed: of the bootstrap.
        runtimes: by name, those that are measured; onnxruntime is, whatever stands here.
        notes: doubts that are known before the start, for the result's `noise`.
        folder: for temporary files; who made it removes it.
        result: where the Measurement is written as JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    baseline: Path
    candidate: Path
    rows: Path
    split: str
    candidate_rows: Path | None = None
    task: dict[str, Any]
    candidate_inputs: tuple[InputSpec, ...] = ()
    settings: tuple[Setting, ...] = Field(min_length=1)
    rounds: int = Field(ge=1)
    seconds: float = Field(gt=0)
    seed: int = 0
    runtimes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    folder: Path
    result: Path

    @property
    def steps(self) -> int:
        """How many steps of progress the work has."""
        others = 2 + len(self.settings) if self.runtimes else 0  # answers of two files, then each setting
        timed = len(self.settings) * self.rounds * (2 if task_class(self.task["name"]).keeps_past else 1)
        return 2 * _STEPS_PER_MODEL + timed + EXPLAIN_STEPS + others

    @property
    def threads(self) -> tuple[int, ...]:
        """Numbers of threads that are measured, each once, in order."""
        return tuple(dict.fromkeys(setting.threads for setting in self.settings))
