"""Likeness of the texts in a batch by two models, whose vectors may have different sizes.

Fang et al. 2021, "SEED", arXiv 2101.04731, eq. 2 and 3, with the batch in place of their queue, and after
Passalis and Tefas 2018, "PKT", arXiv 1803.10837, sec. 3: each text's cosines to the others become
probabilities.
Shapes: n = texts of a batch, e = size of a vector (may differ between student and teacher).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["similarity_divergence"]

TEMPERATURE = 0.05  # a difference in cosine of 0.05 is a factor of e


def similarity_divergence(student: Tensor, teacher: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """KL(teacher || student) of the softmax of each text's cosines to the others, mean over texts.

    Args:
        student, teacher: vectors of the same texts, [n, e] and [n, e'].

    Returns:
        A scalar; 0 for fewer than three texts, which have nothing to compare.
    """
    if len(student) < 3:
        return student.sum() * 0
    mine, wanted = (_log_shares(each, temperature) for each in (student, teacher))  # [n, n - 1]
    return (wanted.exp() * (wanted - mine)).sum(-1).mean()


def _log_shares(vectors: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of the other texts by cosine, [n, n - 1]."""
    import torch
    from torch.nn import functional as F

    unit = F.normalize(vectors.float(), dim=-1)
    n = len(unit)
    others = ~torch.eye(n, dtype=torch.bool, device=unit.device)
    return ((unit @ unit.T)[others].reshape(n, n - 1) / temperature).log_softmax(-1)
