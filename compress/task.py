"""What a task is: its inputs, its labels, its loss and its metric.

One task stands so far, classification of one label a row; the names of inputs and outputs are those that the
Hugging Face Hub uses for ONNX files.
Shapes: b = batch, s = sequence, c = classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["InputSpec", "LABELS_KEY", "ROW_INDEX_KEY", "Task"]

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
    """Classification: each row has one label out of `labels`.

    Attributes:
        inputs: what the model is given.
        labels: class names; the place in this tuple is the class index.
    """

    inputs: tuple[InputSpec, ...]
    labels: tuple[str, ...]
    name: Literal["classification"] = "classification"
    output: str = "logits"
    metric: str = "accuracy"

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(spec.name for spec in self.inputs)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of logits [b, c] against class indices [b]."""
        from torch.nn import functional as F

        return F.cross_entropy(logits.float(), labels)
