"""What a task is described by: inputs, scores, words, heads of Hugging Face, gates. Data alone.

Shapes: n = rows, b = batch, u = judged units (rows, tokens ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

__all__ = [
    "Breakdown",
    "Difference",
    "Gate",
    "HubHead",
    "InputSpec",
    "Integers",
    "LABELS_KEY",
    "Modality",
    "NO_LABEL",
    "ROW_INDEX_KEY",
    "RowKind",
    "Score",
    "Tally",
    "TaskName",
    "TaskWords",
]

TaskName = str
"""A key of `registry.TASKS`."""

Modality = Literal["text", "image"]
RowKind = Literal["labelled", "stream"]
"""Rows with a label each, or documents that are cut into rows and label themselves."""

NO_LABEL = -1  # of rows without labels, and of padding: no class has this index, and no loss takes it
LABELS_KEY = "labels"
ROW_INDEX_KEY = "row_index"

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: the keyword of the module's forward and the name in the ONNX file.
        dtype: element type.
        shape: one entry a dimension after the batch; a string is a dynamic dimension, a number a fixed one.
        pad_value: what a shorter row is filled with at its end, along the first of these dimensions.
    """

    name: str
    dtype: Literal["int64", "float32"]
    shape: tuple[int | str, ...]
    pad_value: int | float = 0


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Result):
    """A metric of one model on rows, with its 95 % interval.

    Attributes:
        metric: its name; `accuracy` in reports from before it was kept.
        rows: rows that were answered.
        units: answers that were judged; several a row where `unit` is not the row.
        unit: what one of the units is: row, token, ...
    """

    metric: str = "accuracy"
    value: float
    low: float
    high: float
    rows: int
    units: int
    unit: str = "row"


class Difference(_Result):
    """Candidate minus baseline on the same rows, with its paired 95 % interval.

    Attributes:
        metric, rows, units, unit: as in `Score`.
        gained: units that only the candidate answers right.
        lost: units that only the baseline answers right.
        agreement: share of units that both answer alike, right or wrong.
    """

    metric: str = "accuracy"
    value: float
    low: float
    high: float
    rows: int
    units: int
    gained: int
    lost: int
    agreement: float
    unit: str = "row"


@dataclass(frozen=True)
class TaskWords:
    """What messages and reports call things.

    Attributes:
        model: a model of this task.
        metric: the main metric; higher is better.
        unit: what is judged.
        answer: what the model names for a unit.
        label: what the data says of a unit.
        summary: one line for `modelpress list`.
        served: models of Hugging Face that are taken for it.
        hub_metric: the main metric, as the Hub's cards have it.
        score: the main metric in tables and sentences of a report.
        right: says a value of the metric after a comma.
        constant: what the best model does that never looks at its inputs.
        batches: batches of several rows.
        alone: the other way to answer rows.
    """

    model: str
    metric: str
    unit: str
    answer: str
    label: str
    summary: str
    served: str
    hub_metric: str
    score: str = "accuracy"
    right: str = "and is right on {}"
    constant: str = "always naming the commonest label"
    batches: str = "padded batches"
    alone: str = "one row at a time"

    def not_above_constant(self, model: str, value: str, constant: str) -> str:
        """Say that a model is no better than one that never looks.

        Args:
            value, constant: their metrics, as they are shown.
        """
        return (
            f"the {model} model is not measurably better than always naming the commonest {self.label}: it "
            f"answers {value} of the test {self.unit}s right, and {constant} of them have that {self.label}"
        )


@dataclass(frozen=True)
class HubHead:
    """How Hugging Face names models of a task, for one modality.

    Attributes:
        name: of the head, as bundles store it.
        auto_class: the class of transformers that builds and loads such models.
        endings: of the names of architectures that have such a head.
        not_endings: of names that would fit `endings` and have another head.
        pipeline_tag: the Hub's.
        problem_type: as config.json says it, beside none at all.
        what: what models with it do, said after "it" where they are taken for another task; empty: never.
        wants: of a head that can't be trained anew, which models have it; empty: it can.
    """

    modality: Modality
    name: str
    auto_class: str
    endings: tuple[str, ...]
    pipeline_tag: str
    not_endings: tuple[str, ...] = ()
    problem_type: str | None = None
    what: str = ""
    wants: str = ""

    def fits(self, architecture: str) -> bool:
        """Whether an architecture has such a head, by its name."""
        return architecture.endswith(self.endings) and not (
            bool(self.not_endings) and architecture.endswith(self.not_endings)
        )


@dataclass(frozen=True)
class Breakdown:
    """A section of a report that only this task has, of both models' answers.

    Attributes:
        columns: headings; the first column is text, the others are numbers.
        rows: a text each column.
    """

    title: str
    sentences: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Gate:
    """A limit that only models of one task can be judged by.

    Attributes:
        noun: what is limited.
        kind: how values are shown: `ratio` with three decimals, `speedup` as speed-ups are.
        figure: takes a measurement, and what picks the timing at the gates' setting; returns the value, the
            worse end of its interval, and the timing that it is from; None where it was not measured.
    """

    noun: str
    kind: Literal["ratio", "speedup"]
    figure: Callable[[Any, Callable[[Any], Any]], tuple[float, float, Any | None] | None]


class Tally(Protocol):
    """Collects what a task's further figures need while rows are answered in order."""

    def add(self, logits: NDArray[Any], labels: Integers) -> None:
        """Take the logits and labels of a batch."""
