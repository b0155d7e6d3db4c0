"""Logits: the teacher's softened answers (Hinton et al. 2015, arXiv 1503.02531, sec. 2).

Shapes: b = batch, s = positions, c = classes (or tokens of the vocabulary).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["soft_loss"]


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over rows; logits [b, c] each.

    Of a language model, [b, s, c] each, the mean is over positions.
    """
    from torch.nn import functional as F

    log_student = F.log_softmax(student.flatten(0, -2) / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.flatten(0, -2) / temperature, dim=-1)
    # T^2 keeps the gradient's size when T changes.
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2
