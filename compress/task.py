"""What a task is: its inputs, its labels, its loss and its metric.

Two stand: classification of one label a row, and language modelling, where each position's label is the token
that follows it. The names of inputs and outputs are those that the Hugging Face Hub uses for ONNX files.
Shapes: b = batch, s = sequence, c = classes, v = tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["InputSpec", "LABELS_KEY", "NO_LABEL", "ROW_INDEX_KEY", "Task", "TaskName"]

TaskName = Literal["classification", "language-modelling"]
NO_LABEL = -1  # of rows without labels: no class has this index, and no loss takes it
LABELS_KEY = "labels"
ROW_INDEX_KEY = "row_index"


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


@dataclass(frozen=True)
class Task:
    """What a model answers.

    Attributes:
        inputs: what the model is given.
        labels: class names of a classification; the place in this tuple is the class index.
        vocabulary: how many tokens a language model chooses among; 0 for a classification.
    """

    inputs: tuple[InputSpec, ...]
    labels: tuple[str, ...] = ()
    vocabulary: int = 0
    output: str = "logits"

    @property
    def name(self) -> TaskName:
        """Which task it is."""
        return "language-modelling" if self.vocabulary else "classification"

    @property
    def metric(self) -> str:
        """What the share of right answers is called."""
        return "next-token accuracy" if self.vocabulary else "accuracy"

    @property
    def classes(self) -> int:
        """How many answers there are to choose among: c or v."""
        return self.vocabulary or len(self.labels)

    @property
    def answer_shape(self) -> tuple[int | str, ...]:
        """Dimensions of the logits behind the batch."""
        return ("sequence_length", self.vocabulary) if self.vocabulary else (len(self.labels),)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(spec.name for spec in self.inputs)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of logits [b, c] against class indices [b], or of [b, s, v] against [b, s]."""
        from torch.nn import functional as F

        return F.cross_entropy(logits.float().flatten(0, -2), labels.flatten())
