"""Multi-label classification: any number of labels a row, or none, of texts or numbers.

A label is named where its probability is above a threshold, one for all labels, which is chosen on validation
rows for each model: the one with the best micro F1. The metric is micro F1: over all labels of all
rows, twice the names that are right by the names that were given plus those that are true. Intervals are
percentiles of a bootstrap over rows, since labels of one row depend on each other. Where all rows are right,
or both models answer alike, resampling shows no spread at all; so each interval also covers that of the same
rows with two made-up ones, of which one is right and one wrong throughout.
Shapes: n = rows, b = batch, c = labels, u = n c decisions, k = counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from compress.tasks.base import Logits, Task
from compress.tasks.class_gates import CLASS_GATES
from compress.tasks.linear import LogisticRegressions
from compress.tasks.metrics.by_class import ByClass, ClassWords
from compress.tasks.metrics.statistics import interval_with
from compress.tasks.spec import (
    NO_LABEL,
    Breakdown,
    Difference,
    HubHead,
    InputSpec,
    Integers,
    Score,
    TaskWords,
    Truth,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["MultiLabel"]

_STEPS = 100  # thresholds are multiples of 1 / _STEPS
PROBLEM_TYPE = "multi_label_classification"
_ANSWERS = "answers"
_COUNTS = 2  # of one model and row: right names, and names given plus names that are true


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of labels a row; logits [b, c], labels int64 [b, c] of 0 and 1.

    Attributes:
        threshold: a label is named if its probability is above it.
    """

    name = "multi-label"
    rows = "labelled"
    words = TaskWords(
        model="multi-label classifier",
        metric="micro F1",
        score="micro F1",
        right="with a micro F1 of {}",
        constant="predicting the same labels for each row",
        unit="label",
        answer="labels",
        label="label",
        summary=(
            "any number of labels per row (data.task=multi-label); text (lists, a separated column or "
            "columns of 0 and 1), arrays (a matrix of 0 and 1), digits"
        ),
        served="classifiers with any number of labels per row (data.task=multi-label)",
        hub_metric="f1",
    )
    heads = (
        HubHead(
            "text",
            "multi-label",
            "AutoModelForSequenceClassification",
            ("ForSequenceClassification",),
            "text-classification",
            problem_type=PROBLEM_TYPE,
        ),
    )
    gates = CLASS_GATES
    label_kind = "classes"
    decides = True

    threshold: float = 0.5

    @classmethod
    def of_model(cls, inputs: tuple[InputSpec, ...], labels: Sequence[str] | None, vocabulary: int) -> Self:
        """With the labels that the model says."""
        return cls(inputs, tuple(labels or ()))

    # Labels

    @classmethod
    def label_names(cls, label: Any) -> tuple[str, ...]:
        """All names of the row."""
        return tuple(label)

    @classmethod
    def stratum(cls, label: Any) -> None:
        """None: splits hold each label in its share, whatever others a row has."""
        return

    @classmethod
    def encode_labels(cls, column: Sequence[Any], number: Mapping[str, int]) -> Integers:
        """1 where a row has the label, [n, c]."""
        encoded = np.zeros((len(column), max(number.values(), default=-1) + 1), dtype=np.int64)
        for row, names in enumerate(column):
            encoded[row, [number[name] for name in names]] = 1
        return encoded

    # Learning

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy of logits [b, c]; `NO_LABEL` doesn't count."""
        from torch.nn import functional as F

        known = labels != NO_LABEL
        if not bool(known.any()):
            return logits.sum() * 0
        return F.binary_cross_entropy_with_logits(logits.float()[known], labels[known].float())

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """T^2 KL(sigmoid(teacher / T) || sigmoid(student / T)), summed over labels, mean over rows."""
        from torch.nn import functional as F

        wanted, found = teacher / temperature, student / temperature
        yes = wanted.sigmoid() * (F.logsigmoid(wanted) - F.logsigmoid(found))
        no = (-wanted).sigmoid() * (F.logsigmoid(-wanted) - F.logsigmoid(-found))
        return (yes + no).sum(-1).mean() * temperature**2

    def kept_answers(self, logits: Tensor) -> dict[str, Tensor]:
        """All logits, [b, c]."""
        return {_ANSWERS: logits}

    def divergence_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], temperature: float) -> Tensor:
        """`divergence` from the logits."""
        return self.divergence(logits, kept[_ANSWERS], temperature)

    def draw(self, judged: Tensor, generator: Generator) -> Tensor:
        """Each label by its own probability, [u, c]."""
        import torch

        return torch.bernoulli(judged.float().sigmoid(), generator=generator).long()

    # Answers and scores

    def named(self, judged: Logits) -> Logits:
        """1 where a label is named, row after row, [u]."""
        found: Logits = ((judged > math.log(self.threshold / (1 - self.threshold))) * 1).reshape(-1)
        return found

    def decision(self) -> dict[str, float]:
        """The threshold."""
        return {"threshold": self.threshold}

    def decided(self, judged: NDArray[Any], truth: Truth) -> Self:
        """The threshold with the best micro F1; of several, the one nearest to 0.5."""
        tried = [replace(self, threshold=step / _STEPS) for step in range(1, _STEPS)]
        return max(
            tried, key=lambda task: (task.value(task.named(judged), truth), -abs(task.threshold - 0.5))
        )

    def with_decision(self, settings: Mapping[str, Any]) -> Self:
        """The threshold, if it is a probability between 0 and 1."""
        found = settings.get("threshold")
        if isinstance(found, (int, float)) and 0 < found < 1:
            return replace(self, threshold=float(found))
        return self

    def value(self, answers: NDArray[Any], truth: Truth) -> float:
        """Micro F1; 0 where no label is true and none is named. `NO_LABEL` doesn't count."""
        labels = truth.labels
        known = labels != NO_LABEL
        answers, labels = answers[known], labels[known]
        return float(_f1((answers & labels).sum(), answers.sum() + labels.sum()))

    def score(self, answers: NDArray[Any], truth: Truth) -> Score:
        """Micro F1 with its bootstrap interval over rows."""
        counts = _row_counts(answers, truth)
        right, wrong = _made_up_rows(counts)
        value = self.value(answers, truth)
        ends = interval_with(counts, np.stack((right, wrong)), _f1_of_sums, value, least=0.0)
        return self.scored(value, ends, truth)

    def difference(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Difference:
        """Change of micro F1 with its paired bootstrap interval; gained and lost are labels of rows."""
        before, after = (_row_counts(each, truth) for each in (baseline, candidate))
        right, wrong = _made_up_rows(before)
        made_up = np.stack((np.append(right, wrong), np.append(wrong, right)))
        value = self.change(baseline, candidate, truth)
        counts = np.concatenate((before, after), axis=1)
        ends = interval_with(counts, made_up, _change_of_sums, value, least=-1.0)
        return self.compared(value, ends, (baseline, candidate), truth)

    def constant(self, truth: Truth) -> NDArray[Any]:
        """The commonest labels for every row, as many of them as give the best micro F1."""
        table = truth.labels.reshape(len(truth.lengths), -1)
        counts = table.sum(axis=0)
        order = np.argsort(-counts, kind="stable")
        named = len(table) * np.arange(1, len(order) + 1)
        best = int(np.argmax(_f1(np.cumsum(counts[order]), named + counts.sum()))) + 1
        answers = np.zeros_like(table)
        answers[:, order[:best]] = 1
        return answers.reshape(-1)

    def no_labels(self, rows: int) -> Integers:
        """One in each column, [n, c]."""
        return np.full((rows, self.classes), NO_LABEL, dtype=np.int64)

    @classmethod
    def occurring(cls, labels: Integers) -> set[int]:
        """Those that a row has."""
        return set(np.flatnonzero((labels == 1).any(axis=0)).tolist())

    def linear_model(self, strength: float) -> LogisticRegressions:
        """Logistic regression for each label."""
        return LogisticRegressions(self.classes, strength)

    def by_class(self, truth: Truth, *answers: NDArray[Any]) -> ByClass:
        """Rows by their labels."""
        shape, words = (len(truth.lengths), -1), ClassWords("label", names=self.labels)
        return ByClass.of_several(*(each.reshape(shape) for each in (truth.labels, *answers)), words=words)

    def breakdown(
        self,
        baseline: NDArray[Any],
        candidate: NDArray[Any],
        truth: Truth,
        decisions: tuple[Mapping[str, float], Mapping[str, float]],
    ) -> Breakdown:
        """F1, precision and recall of each label, and macro F1 with the interval of its change."""
        first = (
            f"A label is predicted if its probability is above {_threshold(decisions[1])}, or "
            f"{_threshold(decisions[0])} for the baseline: for each model, the threshold with the best "
            "micro F1 on validation rows."
        )
        return self.by_class(truth, baseline, candidate).breakdown(first)

    # Sizes

    def numbers(self, units: int) -> int:
        """One a decision."""
        return max(units, 1)

    # Hugging Face

    def hub_entries(self) -> dict[str, Any]:
        """Also the kind of labels, by which pipelines take a sigmoid."""
        return {**super().hub_entries(), "problem_type": PROBLEM_TYPE}

    @classmethod
    def variant_facts(cls, measurement: Any, is_baseline: bool) -> dict[str, Any]:
        """Also the threshold of this file."""
        model = measurement.baseline if is_baseline else measurement.candidate
        return {**super().variant_facts(measurement, is_baseline), **model.decision}

    @classmethod
    def snippet(cls, labels: Sequence[str], most: int, decision: Mapping[str, float]) -> list[str]:
        """The names of labels above the threshold, or their places where there are many."""
        above = _threshold(decision)
        lines = ["probabilities = 1 / (1 + np.exp(-logits[0]))"]
        if len(labels) > most:
            places = f"[i for i, p in enumerate(probabilities) if p > {above}]"
            return [*lines, f"print({places})  # indices of the labels in manifest.json"]
        return [
            f"labels = {json.dumps(list(labels), ensure_ascii=False)}",
            *lines,
            f"print([name for name, p in zip(labels, probabilities) if p > {above}])",
        ]


def _f1(right: Any, total: Any) -> Any:
    """2 right / total; 0 where total is 0."""
    return 2 * np.asarray(right) / np.maximum(total, 1)


def _threshold(decision: Mapping[str, float]) -> str:
    """Formatted; 0.5 in reports from before it was chosen."""
    return f"{decision.get('threshold', 0.5):g}"


def _row_counts(answers: NDArray[Any], truth: Truth) -> Integers:
    """Of each row: right names, and names given plus names that are true, [n, 2]."""
    given, true = (each.reshape(len(truth.lengths), -1) for each in (answers, truth.labels))
    return np.stack(((given & true).sum(axis=1), given.sum(axis=1) + true.sum(axis=1)), axis=1)


def _made_up_rows(counts: Integers) -> tuple[Integers, Integers]:
    """Counts of a row of the usual number of labels that is right throughout, and of one that is wrong."""
    usual = max(1, round(counts[:, 1].mean() / 2))
    return np.array([usual, 2 * usual]), np.array([0, 2 * usual])


def _f1_of_sums(sums: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = _f1(sums[:, 0], sums[:, 1])
    return found


def _change_of_sums(sums: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = _f1_of_sums(sums[:, _COUNTS:]) - _f1_of_sums(sums)
    return found
