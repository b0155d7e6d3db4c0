"""Rankings of candidates in groups: nDCG, reciprocal rank, kept order, and losses within a group.

nDCG: Järvelin and Kekäläinen 2002, ACM TOIS 20, 422-446, with the relevance itself as gain; tied candidates
share the mean of their places (McSherry and Najork 2008, ECIR, section 2.6), as in scikit-learn.
List-wise softmax: ListNet's top-one probability, Cao et al. 2007, ICML, section 4.
Margin MSE: Hofstätter et al. 2020, arXiv 2010.02666, eq. 3, over all pairs of a group.
Shapes: n = rows, b = batch, q = groups, c = candidates of one group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "group_rows",
    "list_loss",
    "margin_distance",
    "ndcg",
    "order_kept_in_groups",
    "positions_of",
    "reciprocal_rank",
]

Floats = NDArray[np.float64]
_TOP = 10


def group_rows(relevance: Floats, groups: Floats) -> list[NDArray[np.int64]]:
    """Rows of each group that can be ranked: those with candidates of different relevance.

    Args:
        relevance, groups: of each row, [n]; rows where either is NaN are left out.
    """
    known = np.flatnonzero(np.isfinite(relevance) & np.isfinite(groups))
    order = known[np.argsort(groups[known], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    parts = np.split(order, starts) if len(order) else []
    return [np.sort(part) for part in parts if np.ptp(relevance[part]) > 0]


def ndcg(relevance: Floats, scores: Floats, top: int = _TOP) -> float:
    """nDCG of the first places of one group, [c] each, in [0, 1]; candidates must differ in relevance."""
    discounts = 1 / np.log2(np.arange(2, len(scores) + 2))
    discounts[top:] = 0
    _, tie, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    sums = np.append(0.0, np.cumsum(discounts))
    of_tie = (sums[ends] - sums[ends - sizes]) / sizes
    best = np.sort(relevance)[::-1] @ discounts
    return float(relevance @ of_tie[tie] / best)


def reciprocal_rank(relevance: Floats, scores: Floats) -> float:
    """1 / place of the first relevant candidate, [c] each; it comes last among candidates of its score."""
    relevant = relevance > 0
    best = scores[relevant].max()
    return 1 / (1 + int((scores[~relevant] >= best).sum()))


def order_kept_in_groups(one: Floats, other: Floats, groups: Floats) -> float:
    """Share of pairs of candidates of one group in the same order by both; 1 if there is no pair."""
    kept, pairs = 0, 0
    order = np.argsort(groups, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        first, second = (part[each] for each in np.triu_indices(len(part), 1))
        kept += int((np.sign(one[first] - one[second]) == np.sign(other[first] - other[second])).sum())
        pairs += len(first)
    return kept / pairs if pairs else 1.0


def list_loss(scores: Tensor, relevance: Tensor, groups: Tensor) -> Tensor:
    """Mean cross-entropy of each group's softmax over scores, from its shares of relevance; [b] each.

    0 if no group has two rows and something relevant; NaN in groups is left out.
    """
    known = (groups.isfinite() & relevance.isfinite()).nonzero()[:, 0]
    scores, relevance, groups = scores[known].float(), relevance[known].float(), groups[known]
    same = groups[:, None] == groups[None, :]  # [b, b]
    total = same.float() @ relevance
    counts = (same.sum(1) > 1) & (total > 0)
    if not bool(counts.any()):
        return scores.sum() * 0
    logs = scores[None, :].expand_as(same).masked_fill(~same, -float("inf")).logsumexp(1)
    losses = relevance[counts] / total[counts] * (logs - scores)[counts]
    lists = (1 / same.sum(1)[counts]).sum()  # rows of a group add up to 1
    found: Tensor = losses.sum() / lists
    return found


def margin_distance(student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
    """Mean squared difference of margins between two rows of one group, by student and teacher; [b] each."""
    off = student.float() - teacher.float()
    pairs = (groups[:, None] == groups[None, :]).triu(1)  # NaN equals nothing
    if not bool(pairs.any()):
        return student.sum() * 0
    return (off[:, None] - off[None, :])[pairs].square().mean()


def positions_of(groups: list[Any]) -> Floats:
    """A number for each distinct group, in order of appearance, [n]."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.float64)
