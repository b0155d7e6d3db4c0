"""Base of tasks whose answer is the largest of c logits.

Divergence: Hinton et al. 2015, arXiv 1503.02531, sec. 2.
Shapes: ... = rows or positions, c = classes or tokens, u = units, n = rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.tasks.base import Logits, Task
from compress.tasks.metrics.statistics import clustered_interval, paired_interval, proportion_interval, wider
from compress.tasks.spec import NO_LABEL, Difference, Score, Truth

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["OneOfSeveral", "softmax_divergence"]


def softmax_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over units; logits [..., c] each."""
    from torch.nn import functional as F

    log_student = F.log_softmax(student.flatten(0, -2) / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.flatten(0, -2) / temperature, dim=-1)
    # T^2 keeps the magnitude of the gradient independent of T.
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True)
class OneOfSeveral(Task):
    """A task with one correct answer per unit; its metric is the share of correct units.

    Class attributes:
        units_are_rows: each row has one answer; otherwise intervals are over rows, because the units of a row
            are not independent.
    """

    units_are_rows: ClassVar[bool] = True

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of logits [..., c] against indices [...]; `NO_LABEL` is ignored."""
        from torch.nn import functional as F

        known = labels != NO_LABEL
        if not bool(known.all()):
            if not bool(known.any()):
                return logits.sum() * 0
            logits, labels = logits[known], labels[known]
        return F.cross_entropy(logits.float().flatten(0, -2), labels.flatten())

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """`softmax_divergence` of the two."""
        return softmax_divergence(student, teacher, temperature)

    def draw(self, judged: Tensor, generator: Generator) -> Tensor:
        """One class per unit, [u]."""
        import torch

        return torch.multinomial(judged.float().softmax(-1), 1, generator=generator)[:, 0]

    def named(self, judged: Logits) -> Logits:
        """Index of the largest logit, [u]."""
        found: Logits = judged.argmax(-1)
        return found

    def value(self, answers: NDArray[Any], truth: Truth) -> float:
        """Share of correct units."""
        return int((answers == truth.labels).sum()) / len(truth.labels)

    def change(self, before: NDArray[Any], after: NDArray[Any], truth: Truth) -> float:
        """Difference of the shares, computed with a single rounding."""
        labels = truth.labels
        return (int((after == labels).sum()) - int((before == labels).sum())) / len(labels)

    def score(self, answers: NDArray[Any], truth: Truth) -> Score:
        """Exact interval; if rows have several units, at least as wide as that of the mean over rows."""
        right = answers == truth.labels
        ends = proportion_interval(int(right.sum()), len(right))
        if not self.units_are_rows:
            ends = wider(ends, clustered_interval(right, truth.lengths), least=0.0)
        return self.scored(self.value(answers, truth), ends, truth)

    def difference(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Difference:
        """Tango's interval; if rows have several units, at least as wide as that of the mean over rows."""
        before, after = (each == truth.labels for each in (baseline, candidate))
        ends = paired_interval(int((after & ~before).sum()), int((before & ~after).sum()), len(before))
        if not self.units_are_rows:
            change = after.astype(np.float64) - before
            ends = wider(ends, clustered_interval(change, truth.lengths), least=-1.0)
        value = self.change(baseline, candidate, truth)
        return self.compared(value, ends, (baseline, candidate), truth)

    def constant(self, truth: Truth) -> NDArray[Any]:
        """The most common label, for every unit."""
        classes, counts = np.unique(truth.labels, return_counts=True)
        return np.full_like(truth.labels, classes[counts.argmax()])
