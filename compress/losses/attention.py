"""Attention maps: KL divergence between the teacher's and the student's attention distributions.

The maps are softmax(q k^T / sqrt(d)) of hooked queries and keys, because fused kernels do not expose theirs.
This covers plain attention only: no rotary positions, no relative bias (`check_plain` refuses them).
Shapes: b = batch, s = sequence, h = heads, d = head size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from compress.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from compress.model.structure.sites import Site

__all__ = ["attention_divergence", "check_plain", "log_maps", "rows_divergence"]


def check_plain(model: nn.Module, sites: Sequence[Site], inputs: Mapping[str, Tensor]) -> None:
    """Check on one row that a model's attention is the plain attention that `log_maps` computes.

    Args:
        inputs: a batch of one row of at least two tokens, without padding.

    Raises:
        ModelError: if it has rotary positions, a relative bias, a causal mask, or another scale.
    """
    from compress.model.observe.attention_view import CLOSE_ENOUGH, attention_of_row

    for site, found in zip(sites, attention_of_row(model, sites, inputs) if sites else (), strict=True):
        if not found.error <= CLOSE_ENOUGH or not bool(found.weights.triu(1).any()):
            raise ModelError(
                f"losses.attention: layer {site.layer} of {type(model).__name__} does not compute plain "
                "attention from its queries and keys (it may use rotary positions, a relative bias or a "
                "causal mask); omit it, or use losses.relations"
            )


def log_maps(query: Tensor, key: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Log-probabilities of each position's attention; padding is never attended to.

    Args:
        query, key: [b, s, h * d].
        mask: [b, s], 1 = token, 0 = padding; None if all are tokens.

    Returns:
        [b, h, s, s]; exp of a row sums to 1.
    """
    import torch

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)  # [b, h, s, d]

    q, k = split(query), split(key)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [b, h, s, s]
    if mask is not None:  # finite, to avoid 0 * inf in a divergence; its exp is 0
        scores = scores.masked_fill(~mask.bool()[:, None, None, :], torch.finfo(scores.dtype).min / 2)
    return scores.log_softmax(-1)


def rows_divergence(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """KL(teacher || student) per row, averaged over heads and over token positions.

    Args:
        student, teacher: log-probabilities, [b, h, s, s].
        mask: [b, s], of the query positions.
    """
    rows = (teacher.exp() * (teacher - student)).sum(-1).mean(1)  # [b, s]
    if mask is None:
        return rows.mean()
    keep = mask.to(rows.dtype)
    return (rows * keep).sum() / keep.sum().clamp(min=1)


def attention_divergence(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    heads: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """Divergence between the attention maps of two layers.

    Args:
        student, teacher: queries and keys, [b, s, h * d] each; number and size of heads may differ.
        heads: head counts of student and teacher; if they differ, maps are first averaged over heads.
        mask: [b, s], 1 = token, 0 = padding.
    """
    mine, wanted = log_maps(*student, heads[0], mask), log_maps(*teacher, heads[1], mask)
    if heads[0] != heads[1]:
        mine, wanted = (
            each.logsumexp(1, keepdim=True) - math.log(count)
            for each, count in zip((mine, wanted), heads, strict=True)
        )
    return rows_divergence(mine, wanted, mask)
