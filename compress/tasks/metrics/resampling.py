"""Bootstrap over rows by weights: intervals of any statistic of weighted rows, also of correlations.

A draw of n rows with replacement is a weight for each row: how often it was drawn. Percentiles are taken a
little further out than 2.5 and 97.5 %, because a bootstrap of few rows is too narrow (Hesterberg 2015,
arXiv 1411.5279, section 4.1.1: the expanded percentile interval).
Where nothing differs, resampling shows no spread at all; so an interval also covers that of the same rows
with made-up ones that differ, if these are given.
numpy and scipy only: the measuring process has no torch.
Shapes: n = rows, d = draws, m = statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Floats",
    "Weighted",
    "intervals",
    "mean_intervals",
    "pearson",
    "ranks_of",
    "weighted_ranks",
    "with_made_up",
]

Floats = NDArray[np.float64]
Weighted = Callable[[Floats], Floats]
"""Statistics [d, m] of the rows, weighted by [d, n]."""

_LEVEL = 0.95
_DRAWS = 2000
_NUMBERS = 1 << 19  # weights that are in memory at once
_LEAST_SPREAD = 1e-9  # of answers, relative to their size: less is rounding
_TINY = 1e-20  # variance of standardized answers


def intervals(rows: int, statistic: Weighted, made_up: tuple[int, Weighted] | None = None) -> Floats:
    """95 % intervals of each statistic, [m, 2], which contain its value for all rows.

    Args:
        made_up: number of rows, and statistic, of the same rows followed by made-up ones.
    """
    given = [(rows, statistic)] if made_up is None else [(rows, statistic), made_up]
    ends = [_ends(count, each) for count, each in given]
    value = statistic(np.ones((1, rows)))[0]
    low = np.minimum(value, np.min([each[0] for each in ends], axis=0))
    high = np.maximum(value, np.max([each[1] for each in ends], axis=0))
    return np.stack((low, high), axis=1)


def mean_intervals(values: Floats, made_up: Floats) -> Floats:
    """Intervals of the means over rows, [m, 2], of values [n, m]; the same with made-up ones count too."""
    if not len(values):
        return np.tile([-1.0, 1.0], (values.shape[1], 1))
    more = np.concatenate((values, made_up))
    return intervals(len(values), _means(values), (len(more), _means(more)))


def _means(values: Floats) -> Weighted:
    return lambda weights: weights @ values / weights.sum(axis=1, keepdims=True)


def with_made_up(labels: Floats, *answers: Floats) -> tuple[Floats, tuple[Floats, ...]]:
    """The rows and, for each model, one at the mean label that it answers one spread off the others."""
    spread = labels.std() or 1.0
    made = len(answers)
    found = []
    for at, each in enumerate(answers):
        usual, own = each.mean(), each.std() or spread
        row = np.full(made, usual)
        row[at] += own
        found.append(np.concatenate((each, row)))
    return np.concatenate((labels, np.full(made, labels.mean()))), tuple(found)


def _ends(rows: int, statistic: Weighted) -> Floats:
    found = np.concatenate([statistic(weights) for weights in _draws(rows)])
    tail = _tail(rows)
    ends: Floats = np.quantile(found, (tail, 1 - tail), axis=0)
    return ends


def _tail(rows: int) -> float:
    from scipy.special import ndtr, stdtrit  # not scipy.stats, which takes half a second to import

    if rows < 2:
        return 0.0
    quantile = float(stdtrit(rows - 1, (1 + _LEVEL) / 2))
    return float(ndtr(-quantile * math.sqrt(rows / (rows - 1))))


def _draws(rows: int) -> Iterator[Floats]:
    draw = np.random.default_rng(0)
    at_once = max(1, min(_DRAWS, _NUMBERS // rows))
    for start in range(0, _DRAWS, at_once):
        picked = draw.integers(0, rows, (min(at_once, _DRAWS - start), rows))
        offsets = rows * np.arange(len(picked))[:, None]
        counted = np.bincount((picked + offsets).ravel(), minlength=picked.size)
        yield counted.reshape(picked.shape).astype(np.float64)


def pearson(weights: Floats, one: Floats, other: Floats) -> Floats:
    """Correlation of two columns for each draw, [d]; 0 where one of them is constant.

    Args:
        weights: [d, n].
        one, other: [n], or [d, n] if they differ between draws.
    """
    total = weights.sum(axis=1)
    # Moved and scaled first, so that differences of large sums lose no digits.
    (a, flat_a), (b, flat_b) = _standardized(one), _standardized(other)
    mean_a, mean_b, square_a, square_b, product = (
        _sums(weights, each) / total for each in (a, b, a * a, b * b, a * b)
    )
    variance_a, variance_b = square_a - mean_a**2, square_b - mean_b**2
    found = (product - mean_a * mean_b) / np.sqrt(np.maximum(variance_a * variance_b, _TINY))
    flat = flat_a | flat_b | (np.minimum(variance_a, variance_b) < _TINY)
    correlation: Floats = np.where(flat, 0.0, np.clip(found, -1.0, 1.0))
    return correlation


def _standardized(values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """A column with mean 0 and spread 1, and whether its spread is only rounding, [] or [d]."""
    mean, spread = values.mean(axis=-1, keepdims=True), values.std(axis=-1, keepdims=True)
    flat = spread <= _LEAST_SPREAD * np.abs(values).max(axis=-1, keepdims=True)
    return (values - mean) / np.where(flat, 1.0, spread), flat[..., 0]


def _sums(weights: Floats, values: Floats) -> Floats:
    """Weighted sums, [d]."""
    found: Floats = weights @ values if values.ndim == 1 else np.einsum("dn,dn->d", weights, values)
    return found


def ranks_of(values: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
    """What `weighted_ranks` needs of a column [n]: its order, and where each group of ties starts in it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return order, starts


def weighted_ranks(weights: Floats, order: NDArray[Any], starts: NDArray[Any]) -> Floats:
    """Mean ranks of the rows in each draw, [d, n], as if each row stood there as often as its weight."""
    ties = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(ties, axis=1) - ties / 2
    sizes = np.diff(np.append(starts, len(order)))
    ranks = np.empty_like(weights)
    ranks[:, order] = np.repeat(middle, sizes, axis=1)
    return ranks
