"""The task interface: everything the rest of the package needs to know about a task.

What a training needs of it is in `trained`, what bundles and their programs say of it in `served`.

Importing this needs numpy and pydantic only; torch and scipy are imported by the methods that use them, so
that the measuring process runs without torch.
Shapes: n = rows, b = batch, s = sequence, c = numbers per answer, u = judged units (rows, tokens ...).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from compress.tasks.served import Served
from compress.tasks.spec import (
    NO_LABEL,
    AnswerKind,
    Breakdown,
    Difference,
    Gate,
    InputSpec,
    Integers,
    LabelKind,
    RowKind,
    Score,
    Tally,
    TaskName,
    TaskWords,
    Truth,
    flat_truth,
)
from compress.tasks.trained import Trained

if TYPE_CHECKING:
    from torch import Tensor

    from compress.tasks.linear import LinearModel
    from compress.tasks.metrics.by_class import ByClass

__all__ = ["Logits", "Task"]

MOST_NUMBERS = 1 << 26  # in a batch's logits, which are in memory at once
Logits = TypeVar("Logits", "NDArray[Any]", "Tensor")


@dataclass(frozen=True)
class Task(Trained, Served):
    """What a model predicts; one subclass per task.

    Class attributes:
        name: as used in recipes, manifests and the registry.
        rows: kind of data it learns from.
        words: terms used in messages.
        heads: its model heads in Hugging Face; empty if there are none.
        gates: task-specific limits, by recipe key.
        record: field of a stored measurement that only this task fills; empty if there is none.
        keeps_past: models keep keys and values of earlier tokens, which their file takes and returns.
        label_kind: what labels are in a table; several classes are a sorted tuple of names, tags one in the
            order of the words.
        answer_kind: what `named` returns for a unit.
        names_tokens: answers are tokens of the model's own vocabulary.
        takes_made_up_rows: a teacher's outputs for synthetic rows are useful for training.
        marker: file of a model's directory that says that it is for this task; empty: none does.
        further_outputs: attributes of what a module returns that its file returns before the logits, if the
            module has them: states of each token, [b, s, m].
        labels_from_model: validation and test labels are the outputs of the recipe's own model before any
            stage, and rows to train on have none.
        learns_links: rows to train on have links that alone can train a model (see `losses.contrastive`).
        result: line of a program that runs a file for one batch; `snippet` prints its answer.
        decides: how outputs become answers is chosen on validation rows; see `decided`.

    Attributes:
        inputs: the model's inputs.
        labels: class names in class index order; empty if answers are not classes.
        output: name of the logits in the ONNX file.
    """

    name: ClassVar[TaskName]
    rows: ClassVar[RowKind]
    words: ClassVar[TaskWords]
    gates: ClassVar[Mapping[str, Gate]] = {}
    record: ClassVar[str] = ""
    keeps_past: ClassVar[bool] = False
    label_kind: ClassVar[LabelKind] = "class"
    answer_kind: ClassVar[AnswerKind] = "classes"
    names_tokens: ClassVar[bool] = False
    takes_made_up_rows: ClassVar[bool] = True
    marker: ClassVar[str] = ""
    further_outputs: ClassVar[tuple[str, ...]] = ()
    labels_from_model: ClassVar[bool] = False
    learns_links: ClassVar[bool] = False
    decides: ClassVar[bool] = False

    inputs: tuple[InputSpec, ...]
    labels: tuple[str, ...] = ()
    output: str = "logits"

    @classmethod
    def has_groups(cls) -> bool:
        """Whether rows are candidates of a group, such as the documents of a query."""
        return cls.label_kind == "graded"

    @classmethod
    def has_classes(cls) -> bool:
        """Whether labels in a table are names of classes, which a model has an output for each of."""
        return cls.label_kind in ("class", "classes", "tags")

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
        return {"name": self.name, **json.loads(json.dumps(asdict(self)))}

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
    def group_of(cls, label: Any) -> Hashable | None:
        """The group of a row, all of which is in one split; None: rows are independent."""
        return None

    @classmethod
    def of_input(cls, label: Any) -> Hashable:
        """What a label says of the row's input, which rows with the same input must agree on."""
        return label  # type: ignore[no-any-return]

    @classmethod
    def encode_labels(cls, column: Sequence[Any], number: Mapping[str, int]) -> Integers:
        """Labels as arrays, [n] or [n, ...].

        Args:
            column: the label of each row.
            number: class index by name.
        """
        return np.array([number[each] for each in column], dtype=np.int64)

    def fitted(self, labels: NDArray[Any]) -> Self:
        """The task with what training needs to know of the labels of train, such as their spread."""
        return self

    def together(self, labels: NDArray[Any]) -> Integers | None:
        """Number of each row's group, which is in one batch when training; None: rows are independent.

        Args:
            labels: of a split, [n, ...].
        """
        return None

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
        """The answers for logits [u, c], [u] or [u, ...]; an array or a tensor, like the input."""

    def decided(self, judged: NDArray[Any], truth: Truth) -> Self:
        """The task with the settings that give the best metric; called if `decides`.

        Args:
            judged: a model's logits on validation rows, [u, c].
        """
        return self

    def with_decision(self, settings: Mapping[str, Any]) -> Self:
        """The task with the settings in a manifest or config.json, which have other entries too."""
        return self

    def truth(self, labels: NDArray[Any], label_lengths: Integers | None) -> Truth:
        """True answers of the units that `named` answers.

        Args:
            labels, label_lengths: those of a split.
        """
        return flat_truth(labels, label_lengths)

    @abstractmethod
    def value(self, answers: NDArray[Any], truth: Truth) -> float:
        """The metric of answers, as returned by `named`; higher is better."""

    def change(self, before: NDArray[Any], after: NDArray[Any], truth: Truth) -> float:
        """The metric of `after` minus that of `before`."""
        return self.value(after, truth) - self.value(before, truth)

    def same(self, one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether two models give a unit the same answer, [u]."""
        found: NDArray[np.bool_] = one == other
        return found

    def agreement(self, one: NDArray[Any], other: NDArray[Any], truth: Truth) -> float:
        """Share of units with the same answer."""
        return float(self.same(one, other).mean())

    def correct(self, answers: NDArray[Any], truth: Truth) -> int | None:
        """Number of correct units; None if units are not right or wrong."""
        return int((answers == truth.labels).sum())

    @abstractmethod
    def score(self, answers: NDArray[Any], truth: Truth) -> Score:
        """The metric with its interval, over all rows of a split."""

    @abstractmethod
    def difference(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Difference:
        """Candidate minus baseline with its paired interval, over all rows of a split."""

    def scored(
        self,
        value: float,
        ends: Sequence[float] | NDArray[Any],
        truth: Truth,
        units: int | None = None,
        unit: str = "",
    ) -> Score:
        """A value and the ends of its interval as a `Score`.

        Args:
            units: number of judged answers; None: of labels.
            unit: name of a unit, if it is not that of the task's words.
        """
        return Score(
            metric=self.words.metric,
            value=value,
            low=float(ends[0]),
            high=float(ends[1]),
            rows=len(truth.lengths),
            units=len(truth.labels) if units is None else units,
            unit=unit or self.words.unit,
        )

    def compared(
        self,
        value: float,
        ends: Sequence[float] | NDArray[Any],
        answers: tuple[NDArray[Any], NDArray[Any]],
        truth: Truth,
        units: int | None = None,
        unit: str = "",
    ) -> Difference:
        """A difference and the ends of its interval, as a `Difference`; the rest as for `scored`.

        Args:
            answers: of the baseline and the candidate.
        """
        gained = lost = 0
        if self.correct(answers[0], truth) is not None:
            before, after = (each == truth.labels for each in answers)
            gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
        return Difference(
            **self.scored(value, ends, truth, units, unit).model_dump(),
            gained=gained,
            lost=lost,
            agreement=self.agreement(*answers, truth),
        )

    @abstractmethod
    def constant(self, truth: Truth) -> NDArray[Any]:
        """Answers of the best model that ignores its inputs, which define chance level."""

    def above_constant(self, answers: NDArray[Any], truth: Truth) -> tuple[float, Difference]:
        """The metric of `constant` answers, and the model's gain over it: measurable if `low` > 0."""
        constant = self.constant(truth)
        return self.value(constant, truth), self.difference(constant, answers, truth)

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

    def stand_ins(self, lengths: Integers) -> tuple[Integers, Integers | None]:
        """Labels and label lengths of rows without data, of these numbers of positions."""
        return self.no_labels(len(lengths)), None

    @classmethod
    def occurring(cls, labels: Integers) -> set[int]:
        """Indices of the labels that rows have, whose labels these are, [n, ...]."""
        return set(labels.reshape(-1).tolist())

    def linear_model(self, strength: float) -> LinearModel | None:
        """A linear model of counted words, as a floor; more strength fits closer. None: it has none."""
        return None

    def by_class(self, truth: Truth, *answers: NDArray[Any]) -> ByClass | None:
        """Rows by their classes and by those that models answer; None: they are not judged by class."""
        return None

    def breakdown(
        self,
        baseline: NDArray[Any],
        candidate: NDArray[Any],
        truth: Truth,
        decisions: tuple[Mapping[str, float], Mapping[str, float]],
    ) -> Breakdown | None:
        """A section of its own in the report; None: it has none.

        Args:
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
