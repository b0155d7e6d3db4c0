"""Squared distance of hidden states token by token, relative to the variance of the teacher's.

As in FitNets (Romero et al. 2015, arXiv 1412.6550, eq. 3) and TinyBERT (Jiao et al. 2020, arXiv 1909.10351,
eq. 8), but on a model-independent scale: 0 = equal, 1 = as far as the teacher's mean.
Shapes: b = batch, s = sequence, m = hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["hidden_distance"]


def hidden_distance(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Squared distance of hidden states, relative to the variance of the teacher's; ignores padding.

    Args:
        student, teacher: [b, s, m].
        mask: [b, s], 1 = token, 0 = padding; None if all are tokens.

    Returns:
        A scalar: 0 = equal, 1 = as far as the mean of the teacher's states.
    """
    keep = student.new_ones(student.shape[:-1]) if mask is None else mask.to(student.dtype)  # [b, s]
    tokens = keep.sum().clamp(min=1)
    weights = keep[..., None] / tokens
    mean = (teacher * weights).sum(tuple(range(teacher.ndim - 1)))  # [m]
    spread = ((teacher - mean).square() * weights).sum().clamp(min=1e-12)
    return ((student - teacher).square() * weights).sum() / spread
