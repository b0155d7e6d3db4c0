"""Cosine distance between two models' sentence embeddings, the mean of their last hidden states.

Pooling as in sentence encoders (Reimers and Gurevych 2019, arXiv 1908.10084, sec. 3).
Shapes: b = batch, s = sequence, m = hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["cosine_distance", "pooled"]


def pooled(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over token positions: [b, s, m] and [b, s] -> [b, m]."""
    if mask is None:
        return hidden.mean(1)
    keep = mask.to(hidden.dtype)[..., None]  # [b, s, 1]
    return (hidden * keep).sum(1) / keep.sum(1).clamp(min=1)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine, averaged over rows: 0 = same direction, 2 = opposite; inputs [b, m]."""
    from torch.nn import functional as F

    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()
