"""Plain descriptions of a task: inputs, scores, words, Hugging Face heads and gates.

Shapes: n = rows, b = batch, u = judged units (rows, tokens ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from compress.page.format import PERCENT, Scale
from compress.tasks.links import Links

__all__ = [
    "AnswerKind",
    "Breakdown",
    "Difference",
    "Gate",
    "HubHead",
    "InputSpec",
    "Integers",
    "LABELS_KEY",
    "LabelKind",
    "Modality",
    "NO_LABEL",
    "ROW_INDEX_KEY",
    "RowKind",
    "Score",
    "Tally",
    "TaskName",
    "TaskWords",
    "Truth",
    "flat_truth",
]

TaskName = str
"""A key of `registry.TASKS`."""

Modality = Literal["text", "image"]
RowKind = Literal["labelled", "stream"]
"""Rows with labels, or documents that are cut into rows and provide their own labels."""

LabelKind = Literal["class", "classes", "tags", "number", "graded", "none", "scores", "relevances"]
"""What labels of a row are in a table: the name of a class, any number of them, one for each word, a number,
a number of 0 or more (its relevance) with the name of a group, or nothing. Two texts of which each becomes a
row have a number (scores), or the second is relevant to the first (relevances)."""

AnswerKind = Literal["classes", "numbers", "vectors"]
"""A unit's answer: a whole number of 0 or more, a float, or several, which are not kept in a report."""

NO_LABEL = -1  # marks unlabelled rows and padding (NaN among floats); never a class, ignored by losses
LABELS_KEY = "labels"
ROW_INDEX_KEY = "row_index"

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: keyword of the module's forward, and name in the ONNX file.
        dtype: element type.
        shape: dimensions after the batch; a string is a dynamic dimension, a number a fixed one.
        pad_value: padding at the end of shorter rows, along the first of these dimensions.
    """

    name: str
    dtype: Literal["int64", "float32"]
    shape: tuple[int | str, ...]
    pad_value: int | float = 0


@dataclass(frozen=True)
class Truth:
    """True answers of rows.

    Attributes:
        labels: of the judged units, row after row, [u] or [u, ...].
        lengths: judged units of each row, int64 [n].
        links: what joins rows; None if nothing does.
    """

    labels: NDArray[Any]
    lengths: Integers
    links: Links | None = None


def flat_truth(labels: NDArray[Any], label_lengths: Integers | None) -> Truth:
    """Truth where each label is a unit of its own, except `NO_LABEL` in ragged labels.

    Args:
        labels: [n] or [n, k]; ragged ones are padded with `NO_LABEL`.
        label_lengths: labels of each row, [n], if they are ragged.
    """
    if label_lengths is None:
        return Truth(labels.reshape(-1), np.full(len(labels), labels[:1].size, dtype=np.int64))
    known = labels != NO_LABEL
    return Truth(labels[known], known.sum(axis=1))


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Result):
    """A metric of one model, with its 95 % interval.

    Attributes:
        metric: its name; `accuracy` in reports from before it was stored.
        value: the metric.
        low, high: its interval.
        rows: number of rows.
        units: number of judged answers; several per row if `unit` is not row.
        unit: name of a unit: row, token, ...
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
        metric: its name.
        value: the difference.
        low, high: its interval.
        rows: number of rows.
        units: number of judged answers.
        unit: name of a unit: row, token, ...
        gained: units that only the candidate answers correctly.
        lost: units that only the baseline answers correctly.
        agreement: share of units with the same answer, correct or not.
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
    """Terms used in messages and reports.

    Attributes:
        model: a model of this task.
        metric: the main metric; higher is better.
        unit: what is judged.
        answer: what the model predicts for a unit.
        label: the true answer in the data.
        summary: one line for `modelpress list`.
        served: the Hugging Face models accepted for it.
        hub_metric: the main metric, as named in model cards on the Hub.
        score: the main metric, as named in tables and sentences of a report.
        right: phrase for a value of the metric, after a comma.
        constant: phrase for the best model that ignores its inputs.
        batches: phrase for batched evaluation.
        alone: phrase for the alternative to batched evaluation.
        scale: how the main metric is written.
        same: phrase for `Task.agreement` as a share, in a table; empty: "same ANSWER".
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
    constant: str = "always predicting the most frequent label"
    batches: str = "padded batches"
    alone: str = "one row at a time"
    scale: Scale = PERCENT
    same: str = ""

    @property
    def agreement(self) -> str:
        """What a share of agreement counts: `same class`."""
        return self.same or f"same {self.answer}"

    def not_above_constant(self, model: str, value: str, constant: str, split: str = "test") -> str:
        """A sentence saying that a model is no better than one that ignores its inputs.

        Args:
            value, constant: their metrics, formatted.
            split: the rows they were measured on.
        """
        return (
            f"the {model} model is not measurably better than {self.constant}: its {self.score} on the "
            f"{split} rows is {value}, compared with {constant}"
        )


@dataclass(frozen=True)
class HubHead:
    """Hugging Face's names for models of a task in one modality.

    Attributes:
        name: name of the head, as stored in bundles.
        auto_class: the transformers class that builds and loads such models.
        endings: suffixes of architecture names that have this head.
        not_endings: suffixes that match `endings` but have another head.
        pipeline_tag: the Hub's tag.
        problem_type: value in config.json that selects this head; None: any.
        outputs: numbers that such a head returns for a row, if these are always as many; None: one per class.
        what: what such models do, as a phrase after "it"; empty: never taken for another task.
        shares_names: its weights are named like those of other heads, so that none of these can be trained on
            such a checkpoint.
        is_bare: it is the encoder alone, which any model with one has; never taken from a config.json.
        wants: for a head that cannot be trained anew, which models have it; empty: it can be trained.
    """

    modality: Modality
    name: str
    auto_class: str
    endings: tuple[str, ...]
    pipeline_tag: str
    not_endings: tuple[str, ...] = ()
    problem_type: str | None = None
    outputs: int | None = None
    what: str = ""
    wants: str = ""
    shares_names: bool = False
    is_bare: bool = False

    def fits(self, architecture: str) -> bool:
        """Whether an architecture has this head, by its name."""
        return architecture.endswith(self.endings) and not (
            bool(self.not_endings) and architecture.endswith(self.not_endings)
        )


class Breakdown(_Result):
    """A section of a report that only this task has, of both models' answers.

    Attributes:
        title: heading of the section.
        sentences: what the table shows.
        columns: headings; the first column is text, the others are numbers.
        rows: a text each column.
    """

    title: str
    sentences: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Gate:
    """A limit that applies to models of one task only.

    Attributes:
        noun: the limited quantity.
        kind: format of values: `ratio` with three decimals, `speedup` as other speed-ups, `share` as percent.
        figure: called with a measurement and a function that picks the timing at the gates' setting; returns
            value, worse end of its interval, and that timing; None if not measured.
        most: the highest limit that makes sense; None: any.
        compares: the figure needs a baseline.
    """

    noun: str
    kind: Literal["ratio", "speedup", "share"]
    figure: Callable[[Any, Callable[[Any], Any]], tuple[float, float, Any | None] | None]
    most: float | None = None
    compares: bool = True


class Tally(Protocol):
    """Collects data for a task's further figures over successive batches."""

    def add(self, logits: NDArray[Any], labels: Integers) -> None:
        """Add the logits and labels of a batch."""
