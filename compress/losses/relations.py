"""Similarity relations between the positions of one layer, by queries, keys and values.

MiniLMv2, Wang et al. 2021, arXiv 2012.15828, sec. 3: with X the queries (keys, values) of all heads together,
split into relation heads of equal width r, R = softmax(X X^T / sqrt(r)); the loss is the sum over queries,
keys and values of KL(R_teacher || R_student). Head counts and widths may differ, and no layer map is needed.
Shapes: b = batch, s = sequence, w = width of all heads together (may differ between student and teacher).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.losses.attention import log_maps, rows_divergence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["relation_divergence", "relation_heads"]

_MOST = 48  # relation heads of the paper's base-size teachers


def relation_heads(student: int, teacher: int, heads: int | None) -> int:
    """Number of relation heads: as given, or the largest up to 48 that divides both widths.

    Raises:
        ValueError: if the given number doesn't divide both.
    """
    if heads is None:
        return max(n for n in range(1, _MOST + 1) if student % n == 0 and teacher % n == 0)
    if student % heads or teacher % heads:
        fit = [n for n in range(1, _MOST + 1) if student % n == 0 and teacher % n == 0]
        raise ValueError(
            f"relation heads {heads} must divide the widths of the student's and the teacher's queries "
            f"({student} and {teacher}); possible: {', '.join(map(str, fit))}"
        )
    return heads


def relation_divergence(
    student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int, mask: Tensor | None
) -> Tensor:
    """Sum over queries, keys and values of the divergence of their relations.

    Args:
        student, teacher: queries, keys, values: [b, s, w] each.
        heads: relation heads; divides both widths.
        mask: [b, s], 1 = token, 0 = padding.
    """
    total = student[0].new_zeros(())
    for mine, wanted in zip(student, teacher, strict=True):
        maps = [log_maps(x, x, heads, mask) for x in (mine, wanted)]
        total = total + rows_divergence(maps[0], maps[1], mask)
    return total
