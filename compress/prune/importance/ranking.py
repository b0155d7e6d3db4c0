"""Ranking units by importance: across layers, and how few of a layer's units hold most of it.

Layers compare once each is divided by its L2 norm (Michel et al. 2019, arXiv 1905.10650, sec. 4.1, after
Molchanov et al. 2017).
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
    """Rank the units of all sites together, after each site's norm is divided out.

    Args:
        importance: one tensor [u] a site.

    Returns:
        (site, unit) of every unit, least important first; of equal ones the earlier stands first.
    """
    scored = (
        (float(score), site, unit)
        for site, scores in enumerate(importance)
        for unit, score in enumerate(normalised(scores))
    )
    return [(site, unit) for _, site, unit in sorted(scored)]


def held_by_top(importance: Tensor, fraction: float) -> float:
    """Say which share of the total importance [u] the top `fraction` of units has (rounded up to a unit)."""
    total = float(importance.double().sum())
    count = -int(-len(importance) * fraction // 1)
    top = float(importance.double().sort(descending=True).values[:count].sum())
    return top / total if total > 0 else 0.0


def units_holding(importance: Tensor, share: float) -> int:
    """Count the fewest units [u] that together have at least `share` of the total importance."""
    ranked = importance.double().sort(descending=True).values
    total = float(ranked.sum())
    if total <= 0:
        return 0
    # A sum of doubles may miss the share by its last digits, and would then ask for one unit more.
    return int((ranked.cumsum(0) < share * total * (1 - 1e-12)).sum()) + 1
