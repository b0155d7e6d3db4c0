"""Base of tasks that answer with one number per row: squared distance, order of pairs, tolerance.

Training is in units of the labels' spread: otherwise the weights of several losses, and the learning rate,
would depend on the unit of the labels.
Shapes: b = batch, n = rows, u = units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.tasks.base import Logits, Task
from compress.tasks.linear import RidgeRegression
from compress.tasks.spec import InputSpec, LabelKind, Truth

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["OneNumber", "order_kept"]

_ANSWERS = "answers"
_SAME = 0.01  # of the answers' spread
_SAME_SIZE = 1e-4  # of the answers' size, where they hardly differ
_MOST_PAIRS = 1_000_000


@dataclass(frozen=True)
class OneNumber(Task):
    """A number per row; logits [b, 1].

    Attributes:
        spread: standard deviation of the labels of train.
        center: their mean.
    """

    rows = "labelled"
    label_kind: ClassVar[LabelKind] = "number"
    answer_kind = "numbers"

    spread: float = 1.0
    center: float = 0.0

    @property
    def classes(self) -> int:
        """1."""
        return 1

    @classmethod
    def of_model(cls, inputs: tuple[InputSpec, ...], labels: Sequence[str] | None, vocabulary: int) -> Self:
        """Without labels: a number has no name."""
        return cls(inputs)

    def misfit(self, shape: Sequence[int], rows: int, positions: int) -> str | None:
        """One number a row."""
        if tuple(shape) == (rows, 1):
            return None
        return (
            f"{rows} rows with logits of shape {list(shape)}; a {self.words.model} must return one number "
            f"per row, so they must be [{rows}, 1]"
        )

    # Labels

    @classmethod
    def label_names(cls, label: Any) -> tuple[str, ...]:
        """None: a number is no class."""
        return ()

    @classmethod
    def stratum(cls, label: Any) -> None:
        """None: rows are drawn without strata."""
        return

    @classmethod
    def encode_labels(cls, column: Sequence[Any], number: Mapping[str, int]) -> NDArray[Any]:
        """The numbers, float64 [n]."""
        return np.array(column, dtype=np.float64)

    def fitted(self, labels: NDArray[Any]) -> Self:
        """With spread and mean of these labels."""
        known = labels[np.isfinite(labels)]
        if not len(known):
            return self
        return replace(self, spread=float(known.std()) or 1.0, center=float(known.mean()))

    @property
    def first_answers(self) -> tuple[float, float] | None:
        """The labels' mean and spread."""
        return self.center, self.spread

    def no_labels(self, rows: int) -> NDArray[Any]:
        """NaN for each row."""
        return np.full(rows, np.nan)

    @classmethod
    def occurring(cls, labels: NDArray[Any]) -> set[int]:
        """None."""
        return set()

    # Training

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error in squared spreads; NaN is ignored."""
        known = labels.isfinite()
        if not bool(known.any()):
            return logits.sum() * 0
        return ((logits[:, 0].float() - labels.float())[known] / self.spread).square().mean()

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Mean squared difference in squared spreads; the same at every temperature."""
        return ((student - teacher) / self.spread).square().mean()

    def kept_answers(self, logits: Tensor) -> dict[str, Tensor]:
        """The numbers, [b, 1]."""
        return {_ANSWERS: logits}

    def divergence_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], temperature: float) -> Tensor:
        """`divergence` from the stored numbers."""
        return self.divergence(logits, kept[_ANSWERS], temperature)

    @staticmethod
    def kept_scores(kept: Mapping[str, Tensor]) -> Tensor:
        """The stored numbers, [b]."""
        return kept[_ANSWERS][:, 0]

    def draw(self, judged: Tensor, generator: Generator) -> Tensor:
        """The numbers with normal noise of one spread, [u], for which squared error is the likelihood."""
        import torch

        noise = torch.randn(len(judged), generator=generator, dtype=torch.float64)
        return judged[:, 0].cpu().double() + self.spread * noise

    # Answers

    def named(self, judged: Logits) -> Logits:
        """The number, [u]."""
        found: Logits = judged[:, 0]
        return found

    def same(self, one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether numbers differ by at most 1 % of the standard deviation of all."""
        size = math.sqrt(float(np.square(one, dtype=np.float64).mean()))
        limit = max(_SAME * float(one.std(dtype=np.float64)), _SAME_SIZE * size)
        found: NDArray[np.bool_] = np.abs(one - other) <= limit
        return found

    def agreement(self, one: NDArray[Any], other: NDArray[Any], truth: Truth) -> float:
        """Share of pairs of rows in the same order; 1 if there is no pair."""
        return order_kept(one, other)

    def correct(self, answers: NDArray[Any], truth: Truth) -> None:
        """None: a number is more or less right."""
        return

    def linear_model(self, strength: float) -> RidgeRegression:
        """Ridge regression."""
        return RidgeRegression(strength)

    # Hugging Face

    def hub_entries(self) -> dict[str, Any]:
        """One output, which has no name."""
        return {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}

    @classmethod
    def snippet(cls, labels: Sequence[str], most: int, decision: Mapping[str, float]) -> list[str]:
        """Print the number."""
        return ["print(float(logits[0, 0]))"]


def order_kept(one: NDArray[Any], other: NDArray[Any], *, seed: int = 0) -> float:
    """Share of pairs of rows in the same order by both; of more than a million, as many drawn by a seed.

    A tie counts as an order of its own.
    """
    rows = len(one)
    if rows < 2:
        return 1.0
    if rows * (rows - 1) // 2 <= _MOST_PAIRS:
        first, second = np.triu_indices(rows, 1)
    else:
        draw = np.random.default_rng(seed)
        first = draw.integers(0, rows, _MOST_PAIRS)
        second = (first + draw.integers(1, rows, _MOST_PAIRS)) % rows
    return float((np.sign(one[first] - one[second]) == np.sign(other[first] - other[second])).mean())
