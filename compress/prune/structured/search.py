"""Choose one candidate per site: the least loss within a budget, with searched coefficients on the losses.

The search of ZipLM (arXiv 2302.04089) and SPDY (Frantar and Alistarh 2022, arXiv 2201.13096): dynamic
programming over (site, cost) finds the best choice for given losses; since losses of different sites are not
additive, each site's is multiplied by a coefficient, and a random search over coefficients minimizes the loss
of the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Found", "best_within", "refine"]

_BUCKETS = 4000
_MUTATED = 0.15  # share of the coefficients that change in a step
_STRIDE = 0.7  # standard deviation of the logarithm of a change

Array = NDArray[np.float64]


def best_within(losses: Sequence[Array], costs: Sequence[Array], budget: float) -> list[int] | None:
    """Choose one candidate per site that minimizes the sum of losses within the budget.

    Costs are rounded up to 1 / 4000 of the budget, so it is never exceeded.

    Args:
        losses, costs: one array per site, one entry per candidate; costs not negative.

    Returns:
        One index per site, or None if even the cheapest candidates exceed the budget.
    """
    if budget <= 0:
        return None
    if sum(float(cost.min()) for cost in costs) > budget:
        return None
    least = np.zeros(_BUCKETS + 1)  # least[t]: the least sum of losses so far at a cost of t or less
    picks = []
    for loss, cost in zip(losses, costs, strict=True):
        steps = np.ceil(cost / budget * _BUCKETS - 1e-9).astype(np.int64)
        table = np.full((len(loss), _BUCKETS + 1), np.inf)
        for index, step in enumerate(steps):
            if step <= _BUCKETS:
                table[index, step:] = least[: _BUCKETS + 1 - step] + loss[index]
        picks.append(table.argmin(axis=0))
        least = table.min(axis=0)
    if not np.isfinite(least[-1]):  # rounding up, with a budget that only just suffices
        return [int(np.argmin(cost)) for cost in costs]
    choice: list[int] = []
    at = _BUCKETS
    for pick, cost in zip(reversed(picks), reversed(costs), strict=True):
        index = int(pick[at])
        choice.append(index)
        at -= int(np.ceil(cost[index] / budget * _BUCKETS - 1e-9))
    return choice[::-1]


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        choice: one index per site.
        coefficients: one per site, [sites]; with them `best_within` returns this choice.
        first_loss, loss: of the whole model, before and after the search.
        evaluations: number of whole models evaluated.
    """

    choice: list[int]
    coefficients: Array
    first_loss: float
    loss: float
    evaluations: int


def refine(
    losses: Sequence[Array],
    costs: Sequence[Array],
    budget: float,
    evaluate: Callable[[list[int]], float],
    *,
    steps: int,
    seed: int,
    on_step: Callable[[float], None] | None = None,
) -> Found | None:
    """Search the coefficients.

    Args:
        evaluate: returns the whole model's loss for a choice; called once per choice.
        steps: number of coefficient vectors to try; 0 leaves all at 1.
        on_step: called after each step with the best loss so far.

    Returns:
        The best choice, or None if the budget can't be met.
    """
    draw = np.random.default_rng(seed)
    seen: dict[tuple[int, ...], float] = {}

    def judged(coefficients: Array) -> tuple[float, list[int]] | None:
        scaled = [loss * factor for loss, factor in zip(losses, coefficients, strict=True)]
        choice = best_within(scaled, costs, budget)
        if choice is None:
            return None
        key = tuple(choice)
        if key not in seen:
            seen[key] = evaluate(choice)
        return seen[key], choice

    best = np.ones(len(losses))
    start = judged(best)
    if start is None:
        return None
    first, (loss, choice) = start[0], start
    for _ in range(steps):
        changed = draw.random(len(losses)) < max(_MUTATED, 1.5 / len(losses))
        tried = best * np.where(changed, np.exp(_STRIDE * draw.standard_normal(len(losses))), 1.0)
        found = judged(tried)
        if found is not None and found[0] < loss:
            best, (loss, choice) = tried, found
        if on_step is not None:
            on_step(loss)
    return Found(choice, best, first, loss, len(seen))
