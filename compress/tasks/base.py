"""What a task is: all that the rest of the package must know of it, so that nothing asks which one it is.

Importing this costs numpy and pydantic; torch and scipy are imported by the methods that need them, so that
the measuring process goes without torch.
Shapes: n = rows, b = batch, s = sequence, c = numbers of one answer, u = judged units (rows, tokens ...).
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

MOST_NUMBERS = 1 << 26  # of a batch's logits, which are in memory at once
Logits = TypeVar("Logits", "NDArray[Any]", "Tensor")


@dataclass(frozen=True)
class Task(ABC):
    """What a model answers; a subclass is one task.

    Class attributes:
        name: as recipes, manifests and the registry have it.
        rows: what kind of data it learns from.
        words: what messages call things.
        heads: how Hugging Face names its models; empty if it has none.
        gates: limits of its own, by their keys in a recipe.
        record: field of a stored measurement that only this task fills; empty: none.
        keeps_past: models keep keys and values of the tokens before, and their file takes and returns them.
        several_labels: a row has any number of labels; that of a table's row is a sorted tuple of names.
        names_tokens: answers are tokens of the model's own vocabulary.
        takes_made_up_rows: a teacher's answers to made-up rows are worth learning from.

    Attributes:
        inputs: what the model is given.
        labels: names of classes; the place in this tuple is the class index. Empty where tokens are named.
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

    inputs: tuple[InputSpec, ...]
    labels: tuple[str, ...] = ()
    output: str = "logits"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def classes(self) -> int:
        """How many numbers one answer has: c."""
        return len(self.labels)

    @property
    def answer_shape(self) -> tuple[int | str, ...]:
        """Dimensions of the logits behind the batch."""
        return (self.classes,)

    # How it travels

    def facts(self) -> dict[str, Any]:
        """What `registry.task_from` makes it of again: plain data."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {"name": self.name, **plain}

    @classmethod
    @abstractmethod
    def of_model(cls, inputs: tuple[InputSpec, ...], labels: Sequence[str] | None, vocabulary: int) -> Self:
        """The task of a model that comes without data.

        Args:
            labels: names of its classes, if it says them.
            vocabulary: tokens of its tokenizer, if it has one.
        """

    def misfit(self, shape: Sequence[int], rows: int, positions: int) -> str | None:
        """Say what is wrong with the shape of logits, after "answers"; None: nothing.

        Args:
            rows: how many were asked.
            positions: of the longest.
        """
        if tuple(shape) == (rows, self.classes):
            return None
        return (
            f"{rows} rows with logits of shape {list(shape)}; the data has {self.classes} labels "
            f"({', '.join(self.labels[:8])}), so [{rows}, {self.classes}] is needed"
        )

    def widened(self, shape: Sequence[int]) -> Self:
        """The task of a model whose logits have this shape, which is no `misfit`."""
        return self

    # Labels

    @classmethod
    def label_names(cls, label: Any) -> tuple[str, ...]:
        """Names of the classes in one row's label."""
        return (str(label),)

    @classmethod
    def stratum(cls, label: Any) -> Hashable | None:
        """What splits hold in equal shares; None: rows are drawn without strata."""
        return str(label)

    @classmethod
    def encode_labels(cls, column: Sequence[Any], number: Mapping[str, int]) -> Integers:
        """Labels as arrays, [n] or [n, ...].

        Args:
            column: the label of each row.
            number: class index by name.
        """
        return np.array([number[each] for each in column], dtype=np.int64)

    # Learning

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch over the units that have labels, a scalar; 0 where none has."""

    @abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far a student's logits are from a teacher's, mean over units, a scalar."""

    @abstractmethod
    def kept_answers(self, logits: Tensor) -> dict[str, Tensor]:
        """What of a teacher's answers is kept on disk: by name [b, k] a row, or [b, s, k] a position."""

    @abstractmethod
    def divergence_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], temperature: float) -> Tensor:
        """`divergence` from what `kept_answers` has kept; other names in `kept` are passed over."""

    @abstractmethod
    def draw(self, judged: Tensor, generator: Generator) -> Tensor:
        """Labels drawn from the distribution that logits [u, c] describe."""

    # Answers and scores

    @classmethod
    def judged(cls, logits: Logits, labels: Any) -> Logits:
        """Logits of the units that are judged, [u, c], of those of a batch.

        Args:
            labels: of the batch; padding of ragged labels is `NO_LABEL`.
        """
        return logits

    @classmethod
    @abstractmethod
    def named(cls, judged: Logits) -> Logits:
        """What logits [u, c] name, one int64 a unit of a report; an array or a tensor, as they are."""

    @classmethod
    @abstractmethod
    def value(cls, answers: Integers, labels: Integers) -> float:
        """The metric of answers to labels, both as `named` gives them."""

    @classmethod
    def change(cls, before: Integers, after: Integers, labels: Integers) -> float:
        """The metric of `after` minus that of `before`."""
        return cls.value(after, labels) - cls.value(before, labels)

    @classmethod
    def agreement(cls, one: Integers, other: Integers) -> float:
        """Share of units that are answered alike."""
        return float((one == other).mean())

    @classmethod
    @abstractmethod
    def score(cls, answers: Integers, labels: Integers, lengths: Integers) -> Score:
        """The metric with its interval.

        Args:
            answers, labels: of all rows, one after the other.
            lengths: units of each row, [n].
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
        """Answers of a model that never looks at its inputs, the best one: what chance level is."""

    @classmethod
    def above_constant(
        cls, answers: Integers, labels: Integers, lengths: Integers
    ) -> tuple[float, Difference]:
        """The metric of `constant` answers, and what a model has beyond it: measurable if `low` > 0."""
        constant = cls.constant(labels, lengths)
        return cls.value(constant, labels), cls.difference(constant, answers, labels, lengths)

    @classmethod
    def tally(cls) -> Tally | None:
        """A new collector for `compare_tallies`; None: the answers are all that counts."""
        return None

    @classmethod
    def compare_tallies(
        cls, baseline: Any, candidate: Any, units: int, label_bytes: Integers | None
    ) -> dict[str, Any]:
        """Figures for the field that `record` names, of both models' tallies.

        Args:
            units: of all rows.
            label_bytes: bytes of text that the labels of each row stand for, [n]; None: not known.
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
    ) -> Breakdown | None:
        """A section of its own in the report; None: it has none.

        Args:
            names: of the labels.
        """
        return None

    # Sizes

    def numbers(self, units: int) -> int:
        """Numbers in the logits of a row of so many units."""
        return max(units * self.classes, 1)

    def rows_at_once(self, units: int, most: int) -> int:
        """Rows a batch, so that logits fit the memory: at least 1.

        Args:
            units: of a row.
            most: rows that are wanted.
        """
        return max(1, min(most, MOST_NUMBERS // self.numbers(units)))

    @classmethod
    def rows_a_call(cls, usual: int) -> int:
        """Rows a call where answers are only compared: 1 where those of a row are many."""
        return usual

    # Hugging Face

    def hub_entries(self) -> dict[str, Any]:
        """What config.json says of the task."""
        return {
            "id2label": {str(index): label for index, label in enumerate(self.labels)},
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }

    @classmethod
    def head_for(cls, modality: Modality) -> HubHead | None:
        """Its head for a modality."""
        return next((head for head in cls.heads if head.modality == modality), None)

    @classmethod
    def manifest_entries(cls) -> dict[str, Any]:
        """What a bundle's manifest says of how answers are read; config.json has it of `hub_entries`."""
        return {}

    @classmethod
    def manifest_score(cls, measurement: Any, how: str, length: int) -> dict[str, Any]:
        """What a bundle's manifest says of the candidate's score.

        Args:
            measurement: a `measure.results.Measurement`.
            how: rows were answered.
            length: that rows were cut to.
        """
        accuracy = measurement.candidate.accuracy
        return {"value": accuracy.value, "rows": accuracy.rows, "how": how}

    @classmethod
    def variant_facts(cls, measurement: Any, is_baseline: bool) -> dict[str, Any]:
        """What the manifest of several variants says of one beside the main score."""
        return {}

    @classmethod
    def program(cls, file: str, set_threads: str) -> str | None:
        """A whole program that runs a bundle's file, where `snippet` would not do; None: it does.

        Args:
            file: in the bundle.
            set_threads: a line that sets the threads of `options`, or nothing.
        """
        return None

    @classmethod
    def snippet(cls, labels: Sequence[str], most: int) -> list[str]:
        """Lines of a program that print what `logits` [rows, ...] of one row say."""
        raise NotImplementedError
