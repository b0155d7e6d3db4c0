"""Rank units by importance across layers, and measure how concentrated importance is in a layer.

Scores are divided by each layer's L2 norm to make layers comparable (Michel et al. 2019, arXiv 1905.10650,
sec. 4.1, after Molchanov et al. 2017).
Shapes: u = units of a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["held_by_top", "normalised", "units_holding", "weakest_first"]


def normalised(importance: Tensor) -> Tensor:
    """Divide the scores of one site [u] by their L2 norm; scores that are all zero stay zero."""
    scaled: Tensor = importance / (importance.norm() + 1e-12)
    return scaled


def weakest_first(importance: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Rank the units of all sites together, after dividing each site's scores by their norm.

    Args:
        importance: one tensor [u] per site.

    Returns:
        (site, unit) of every unit, least important first; ties in order of site and unit.
    """
    scored = (
        (float(score), site, unit)
        for site, scores in enumerate(importance)
        for unit, score in enumerate(normalised(scores))
    )
    return [(site, unit) for _, site, unit in sorted(scored)]


def held_by_top(importance: Tensor, fraction: float) -> float:
    """Share of the total importance [u] held by the top `fraction` of units (rounded up to a unit)."""
    total = float(importance.double().sum())
    count = -int(-len(importance) * fraction // 1)
    top = float(importance.double().sort(descending=True).values[:count].sum())
    return top / total if total > 0 else 0.0


def units_holding(importance: Tensor, share: float) -> int:
    """Smallest number of units [u] that together hold at least `share` of the total importance."""
    ranked = importance.double().sort(descending=True).values
    total = float(ranked.sum())
    if total <= 0:
        return 0
    # Rounding can leave a sum of doubles just below the share, which would add one unit too many.
    return int((ranked.cumsum(0) < share * total * (1 - 1e-12)).sum()) + 1
