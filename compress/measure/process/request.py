"""Request to the measuring process, as a JSON file that can also be written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from compress.measure.process.loading import PROCESSES
from compress.tasks import task_class
from compress.timing import Setting

__all__ = ["BATCHED_STEPS", "EXPLAIN_STEPS", "Request", "SINGLE_STEPS"]

SINGLE_STEPS = 10
BATCHED_STEPS = 5
EXPLAIN_STEPS = 1
_STEPS_PER_MODEL = (
    1 + PROCESSES + 1 + SINGLE_STEPS + BATCHED_STEPS
)  # size, loading, operators, accuracy in both modes


class Request(BaseModel):
    """Two ONNX files, the rows to measure them on, and the path of the result.

    Attributes:
        rows: an .npz file from `Split.save`.
        candidate_rows: the same rows in the candidate's encoding; None if it equals the baseline's.
        split: name of that split.
        task: `Task.facts` of the task, with the baseline's inputs.
        candidate_task: the candidate's, with its own inputs and decision; None: as the baseline's.
        settings: settings to time latency at.
        rounds: timing rounds per setting.
        seconds: duration per file and round.
        seed: of the bootstrap.
        runtimes: names of other runtimes to measure; onnxruntime is always measured.
        notes: warnings known in advance, for the result's `noise`.
        folder: for temporary files; the caller removes it.
        result: path that the Measurement is written to as JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    baseline: Path
    candidate: Path
    rows: Path
    split: str
    candidate_rows: Path | None = None
    task: dict[str, Any]
    candidate_task: dict[str, Any] | None = None
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
        """Total number of progress steps."""
        others = 2 + len(self.settings) if self.runtimes else 0  # predictions of two files, then the settings
        timed = len(self.settings) * self.rounds * (2 if task_class(self.task["name"]).keeps_past else 1)
        return 2 * _STEPS_PER_MODEL + timed + EXPLAIN_STEPS + others

    @property
    def threads(self) -> tuple[int, ...]:
        """Distinct thread counts, in order."""
        return tuple(dict.fromkeys(setting.threads for setting in self.settings))
