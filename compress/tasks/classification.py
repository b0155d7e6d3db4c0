"""Classification: one label per row, for text, images or numbers.

Shapes: b = batch, c = classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import NDArray

from compress.tasks.class_gates import CLASS_GATES
from compress.tasks.linear import LogisticRegressions
from compress.tasks.metrics.by_class import ByClass, ClassWords
from compress.tasks.softmax import OneOfSeveral, softmax_divergence
from compress.tasks.spec import Breakdown, HubHead, InputSpec, TaskWords, Truth

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Classification"]

_ANSWERS = "answers"


@dataclass(frozen=True)
class Classification(OneOfSeveral):
    """One label per row; logits [b, c], labels int64 [b]."""

    name = "classification"
    rows = "labelled"
    words = TaskWords(
        model="classifier",
        metric="accuracy",
        unit="row",
        answer="class",
        label="label",
        summary="one label per row; texts and pairs of texts (CSV, JSONL, Parquet, datasets), "
        "images (folders), arrays (digits)",
        served="classifiers of texts or images that give each row one of two or more labels",
        hub_metric="accuracy",
    )
    heads = (
        HubHead(
            "text",
            "classification",
            "AutoModelForSequenceClassification",
            ("ForSequenceClassification",),
            "text-classification",
            what="gives a text a class",
            shares_names=True,
        ),
        HubHead(
            "image",
            "image-classification",
            "AutoModelForImageClassification",
            ("ForImageClassification", "ForImageClassificationWithTeacher"),
            "image-classification",
        ),
    )
    gates = CLASS_GATES

    @classmethod
    def of_model(cls, inputs: tuple[InputSpec, ...], labels: Sequence[str] | None, vocabulary: int) -> Self:
        """With the labels that the model defines."""
        return cls(inputs, tuple(labels or ()))

    def kept_answers(self, logits: Tensor) -> dict[str, Tensor]:
        """All logits, [b, c]."""
        return {_ANSWERS: logits}

    def divergence_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], temperature: float) -> Tensor:
        """`softmax_divergence` from the stored logits."""
        return softmax_divergence(logits, kept[_ANSWERS], temperature)

    def linear_model(self, strength: float) -> LogisticRegressions:
        """Logistic regression."""
        return LogisticRegressions(self.classes, strength)

    def by_class(self, truth: Truth, *answers: NDArray[Any]) -> ByClass:
        """Rows by their class."""
        return ByClass.of_one(self.classes, truth.labels, *answers, words=ClassWords(names=self.labels))

    def breakdown(
        self,
        baseline: NDArray[Any],
        candidate: NDArray[Any],
        truth: Truth,
        decisions: tuple[Mapping[str, float], Mapping[str, float]],
    ) -> Breakdown:
        """F1, precision and recall of each class, and macro F1 with the interval of its change."""
        return self.by_class(truth, baseline, candidate).breakdown()

    @classmethod
    def snippet(cls, labels: Sequence[str], most: int, decision: Mapping[str, float]) -> list[str]:
        """Print the label's name, or its index if there are many labels."""
        if len(labels) > most:
            return ["print(int(logits[0].argmax()))  # index of the label in manifest.json"]
        return [
            f"labels = {json.dumps(list(labels), ensure_ascii=False)}",
            "print(labels[int(logits[0].argmax())])",
        ]
