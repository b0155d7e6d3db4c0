"""The task interface: everything the rest of the package needs to know about a task.

Importing this needs numpy and pydantic only; torch and scipy are imported by the methods that use them, so
that the measuring process runs without torch.
Shapes: n = rows, b = batch, s = sequence, c = numbers per answer, u = judged units (rows, tokens ...).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from compress.tasks.spec import (
    NO_LABEL,
    Breakdown,
    Difference,
    Gate,
    HubHead,
    InputSpec,
    Integers,
    Modality,
    RowKind,
    Score,
    Tally,
    TaskName,
    TaskWords,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Logits", "Task"]

MOST_NUMBERS = 1 << 26  # in a batch's logits, which are in memory at once
Logits = TypeVar("Logits", "NDArray[Any]", "Tensor")


@dataclass(frozen=True)
class Task(ABC):
    """What a model predicts; one subclass per task.

    Class attributes:
        name: as used in recipes, manifests and the registry.
        rows: kind of data it learns from.
        words: terms used in messages.
        heads: its model heads in Hugging Face; empty if there are none.
        gates: task-specific limits, by recipe key.
        record: field of a stored measurement that only this task fills; empty if there is none.
        keeps_past: models keep keys and values of earlier tokens, which their file takes and returns.
        several_labels: a row has any number of labels; in a table they are a sorted tuple of names.
        names_tokens: answers are tokens of the model's own vocabulary.
        takes_made_up_rows: a teacher's outputs for synthetic rows are useful for training.
        decides: how outputs become answers is chosen on validation rows; see `decided`.

    Attributes:
        inputs: the model's inputs.
        labels: class names in class index order; empty if answers are tokens.
        output: name of the logits in the ONNX file.
    """

    name: ClassVar[TaskName]
    rows: ClassVar[RowKind]
    words: ClassVar[TaskWords]
    heads: ClassVar[tuple[HubHead, ...]] = ()
    gates: ClassVar[Mapping[str, Gate]] = {}
    record: ClassVar[str] = ""
    keeps_past: ClassVar[bool] = False
    several_labels: ClassVar[bool] = False
    names_tokens: ClassVar[bool] = False
    takes_made_up_rows: ClassVar[bool] = True
    decides: ClassVar[bool] = False

    inputs: tuple[InputSpec, ...]
    labels: tuple[str, ...] = ()
    output: str = "logits"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def classes(self) -> int:
        """Numbers per answer: c."""
        return len(self.labels)

    @property
    def answer_shape(self) -> tuple[int | str, ...]:
        """Dimensions of the logits after the batch."""
        return (self.classes,)

    # Serialization

    def facts(self) -> dict[str, Any]:
        """Plain data from which `registry.task_from` restores the task."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {"name": self.name, **plain}

    @classmethod
    @abstractmethod
    def of_model(cls, inputs: tuple[InputSpec, ...], labels: Sequence[str] | None, vocabulary: int) -> Self:
        """The task of a model that comes without data.

        Args:
            labels: its class names, if it has them.
            vocabulary: size of its tokenizer's vocabulary, if it has one.
        """

    def misfit(self, shape: Sequence[int], rows: int, positions: int) -> str | None:
        """Describe what is wrong with the shape of the logits, as a phrase after "answers"; None if it fits.

        Args:
            rows: number of rows in the batch.
            positions: length of the longest row.
        """
        if tuple(shape) == (rows, self.classes):
            return None
        return (
            f"{rows} rows with logits of shape {list(shape)}; the data has {self.classes} labels "
            f"({', '.join(self.labels[:8])}), so they must be [{rows}, {self.classes}]"
        )

    def widened(self, shape: Sequence[int]) -> Self:
        """The task adapted to logits of this shape, for which `misfit` returned None."""
        return self

    # Labels

    @classmethod
    def label_names(cls, label: Any) -> tuple[str, ...]:
        """Names of the classes in one row's label."""
        return (str(label),)

    @classmethod
    def stratum(cls, label: Any) -> Hashable | None:
        """Key for stratified splits; None: rows are split without strata."""
        return str(label)

    @classmethod
    def encode_labels(cls, column: Sequence[Any], number: Mapping[str, int]) -> Integers:
        """Labels as arrays, [n] or [n, ...].

        Args:
            column: the label of each row.
            number: class index by name.
        """
        return np.array([number[each] for each in column], dtype=np.int64)

    # Training

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the labelled units of a batch, a scalar; 0 if there are none."""

    @abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Divergence of a student's logits from a teacher's, mean over units, a scalar."""

    @abstractmethod
    def kept_answers(self, logits: Tensor) -> dict[str, Tensor]:
        """The teacher outputs that are stored on disk, by name: [b, k], or [b, s, k] per position."""

    @abstractmethod
    def divergence_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], temperature: float) -> Tensor:
        """`divergence` from the output of `kept_answers`; other names in `kept` are ignored."""

    @abstractmethod
    def draw(self, judged: Tensor, generator: Generator) -> Tensor:
        """Labels sampled from the distribution given by logits [u, c]."""

    # Answers and scores

    @classmethod
    def judged(cls, logits: Logits, labels: Any) -> Logits:
        """The logits of the judged units, [u, c], from the logits of a batch.

        Args:
            labels: labels of the batch; ragged labels are padded with `NO_LABEL`.
        """
        return logits

    @abstractmethod
    def named(self, judged: Logits) -> Logits:
        """The answers for logits [u, c], int64, one per unit; an array or a tensor, like the input."""

    def decision(self) -> dict[str, float]:
        """Settings of `named`, by name: part of a bundle's manifest and config.json, and of a measurement."""
        return {}

    def decided(self, judged: NDArray[Any], labels: Integers) -> Self:
        """The task with the settings that give the best metric; called if `decides`.

        Args:
            judged: a model's logits on validation rows, [u, c].
            labels: of these units.
        """
        return self

    def with_decision(self, settings: Mapping[str, Any]) -> Self:
        """The task with the settings in a manifest or config.json, which have other entries too."""
        return self

    @classmethod
    @abstractmethod
    def value(cls, answers: Integers, labels: Integers) -> float:
        """The metric of answers against labels, both as returned by `named`."""

    @classmethod
    def change(cls, before: Integers, after: Integers, labels: Integers) -> float:
        """The metric of `after` minus that of `before`."""
        return cls.value(after, labels) - cls.value(before, labels)

    @classmethod
    def agreement(cls, one: Integers, other: Integers) -> float:
        """Share of units with the same answer."""
        return float((one == other).mean())

    @classmethod
    @abstractmethod
    def score(cls, answers: Integers, labels: Integers, lengths: Integers) -> Score:
        """The metric with its interval.

        Args:
            answers, labels: of all rows, concatenated.
            lengths: units per row, [n].
        """

    @classmethod
    @abstractmethod
    def difference(
        cls, baseline: Integers, candidate: Integers, labels: Integers, lengths: Integers
    ) -> Difference:
        """Candidate minus baseline with its paired interval; arguments as in `score`."""

    @classmethod
    @abstractmethod
    def constant(cls, labels: Integers, lengths: Integers) -> Integers:
        """Answers of the best model that ignores its inputs, which define chance level."""

    @classmethod
    def above_constant(
        cls, answers: Integers, labels: Integers, lengths: Integers
    ) -> tuple[float, Difference]:
        """The metric of `constant` answers, and the model's gain over it: measurable if `low` > 0."""
        constant = cls.constant(labels, lengths)
        return cls.value(constant, labels), cls.difference(constant, answers, labels, lengths)

    @classmethod
    def tally(cls) -> Tally | None:
        """A new collector for `compare_tallies`; None: only answers are needed."""
        return None

    @classmethod
    def compare_tallies(
        cls, baseline: Any, candidate: Any, units: int, label_bytes: Integers | None
    ) -> dict[str, Any]:
        """Figures for the field named by `record`, from both models' tallies.

        Args:
            units: total over all rows.
            label_bytes: bytes of text covered by the labels of each row, [n]; None if unknown.
        """
        return {}

    def no_labels(self, rows: int) -> Integers:
        """Labels of rows whose labels nobody knows."""
        return np.full(rows, NO_LABEL, dtype=np.int64)

    @classmethod
    def occurring(cls, labels: Integers) -> set[int]:
        """Indices of the labels that rows have, whose labels these are, [n, ...]."""
        return set(labels.reshape(-1).tolist())

    @classmethod
    def breakdown(
        cls,
        baseline: Integers,
        candidate: Integers,
        labels: Integers,
        lengths: Integers,
        names: Sequence[str],
        decisions: tuple[Mapping[str, float], Mapping[str, float]],
    ) -> Breakdown | None:
        """A section of its own in the report; None: it has none.

        Args:
            names: of the labels.
            decisions: of the baseline and the candidate, as returned by `decision`.
        """
        return None

    # Sizes

    def numbers(self, units: int) -> int:
        """Numbers in the logits of a row with N units."""
        return max(units * self.classes, 1)

    def rows_at_once(self, units: int, most: int) -> int:
        """Batch size at which the logits fit in memory, at least 1.

        Args:
            units: per row.
            most: largest batch size wanted.
        """
        return max(1, min(most, MOST_NUMBERS // self.numbers(units)))

    @classmethod
    def rows_a_call(cls, usual: int) -> int:
        """Batch size when answers are only compared: 1 if a row has many answers."""
        return usual

    # Hugging Face

    def hub_entries(self) -> dict[str, Any]:
        """Entries for config.json."""
        return {
            "id2label": {str(index): label for index, label in enumerate(self.labels)},
            "label2id": {label: index for index, label in enumerate(self.labels)},
            **self.decision(),
        }

    @classmethod
    def head_for(cls, modality: Modality) -> HubHead | None:
        """The head for a modality; None if there is none."""
        return next((head for head in cls.heads if head.modality == modality), None)

    @classmethod
    def manifest_score(cls, measurement: Any, how: str, length: int) -> dict[str, Any]:
        """The candidate's score for a bundle's manifest.

        Args:
            measurement: a `measure.results.Measurement`.
            how: how rows were batched.
            length: maximum row length.
        """
        accuracy = measurement.candidate.accuracy
        return {"value": accuracy.value, "rows": accuracy.rows, "how": how}

    @classmethod
    def variant_facts(cls, measurement: Any, is_baseline: bool) -> dict[str, Any]:
        """Further figures of one variant for the manifest, besides the main score."""
        return {}

    @classmethod
    def program(cls, file: str, set_threads: str) -> str | None:
        """A complete program that runs a bundle's file; None if `snippet` is sufficient.

        Args:
            file: name of the file in the bundle.
            set_threads: a line that sets the threads of `options`, or empty.
        """
        return None

    @classmethod
    def snippet(cls, labels: Sequence[str], most: int, decision: Mapping[str, float]) -> list[str]:
        """Lines of a program that print the answer given by `logits` [rows, ...] for one row.

        Args:
            most: labels that are listed in the program.
            decision: as returned by `decision`.
        """
        raise NotImplementedError
