"""The part of the task interface that trainings need: losses against labels and teachers.

Shapes: n = rows, b = batch, s = sequence, c = numbers per answer, u = judged units (rows, tokens ...).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Trained"]


class Trained(ABC):
    """What trainings need of a task."""

    @property
    def first_answers(self) -> tuple[float, float] | None:
        """Mean and spread that the answers of a new head should begin with; None: as it is made.

        With labels far from 0, the steps of a short training would only bring the answers near them.
        """
        return None

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the labelled units of a batch, a scalar; 0 if there are none."""

    @abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Divergence of a student's logits from a teacher's, mean over units, a scalar."""

    def of_teacher(self, logits: Tensor) -> Tensor:
        """A teacher's logits, as many as the task has for a unit."""
        return logits

    @abstractmethod
    def kept_answers(self, logits: Tensor) -> dict[str, Tensor]:
        """The teacher outputs that are stored on disk, by name: [b, k], or [b, s, k] per position."""

    @abstractmethod
    def divergence_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], temperature: float) -> Tensor:
        """`divergence` from the output of `kept_answers`; other names in `kept` are ignored."""

    def batch_divergence(
        self,
        logits: Tensor,
        kept: Mapping[str, Tensor],
        labels: Tensor,
        mask: Tensor | None,
        temperature: float,
    ) -> Tensor:
        """`divergence_from_kept` of a batch; a task with answers per position leaves out what isn't judged.

        Args:
            labels: those of the batch.
            mask: its attention mask, [b, s]; None if the model has none.
        """
        return self.divergence_from_kept(logits, kept, temperature)

    def list_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss over the lists of candidates in a batch, a scalar; called if `has_groups`."""
        raise NotImplementedError

    def margin_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Divergence of margins between candidates of a group, a scalar; called if `has_groups`.

        Args:
            kept: the teacher's `kept_answers`.
        """
        raise NotImplementedError

    def similarity_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """Divergence of the likeness of rows in a batch, a scalar; called if answers are vectors.

        Args:
            kept: the teacher's `kept_answers`.
        """
        raise NotImplementedError

    @abstractmethod
    def draw(self, judged: Tensor, generator: Generator) -> Tensor:
        """Labels sampled from the distribution given by logits [u, c]."""

    def importance_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Labels for the gradient of the loss as a measure of importance; drawn if they are unknown."""
        return labels
