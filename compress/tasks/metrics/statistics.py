"""95 % intervals of a proportion, of a mean over rows, and of a paired difference.

Clopper and Pearson 1934, Biometrika 26, 404-413, for a proportion; Tango 1998, Statistics in Medicine 17,
891-908, for a paired difference; Student's t over rows if a row has several answers; percentiles of a
bootstrap (Efron and Tibshirani 1993, chapter 13) for any other statistic.
numpy and scipy only: the measuring process has no torch.
Shapes: n = rows, u = units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "bootstrap_interval",
    "clustered_interval",
    "interval_with",
    "mean_interval",
    "paired_interval",
    "proportion_interval",
    "resampled_interval",
    "wider",
]

_LEVEL = 0.95
_Z95 = 1.959963984540054
_DRAWS, _DRAWS_AT_ONCE = 2000, 200
_BISECTIONS = 60  # reduces an interval of length 2 to below the spacing of doubles


def proportion_interval(correct: int, units: int, *, level: float = _LEVEL) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson 1934), whose coverage is never below the nominal.

    With 100 rows, Wilson's covers only 90.5 to 92 % at true shares of 0.99 and above, typical of good models.
    """
    from scipy.special import betaincinv  # not scipy.stats, which takes half a second to import

    tail = (1 - level) / 2
    low = 0.0 if correct == 0 else float(betaincinv(correct, units - correct + 1, tail))
    high = 1.0 if correct == units else float(betaincinv(correct + 1, units - correct, 1 - tail))
    return low, high


def mean_interval(values: NDArray[np.float64], *, level: float = _LEVEL) -> tuple[float, float]:
    """Student's t interval of the mean of independent values [n]; infinite for a single value.

    With the normal quantile instead, five values would be covered 88 % of the time, not 95 %.
    """
    if len(values) < 2:
        return -math.inf, math.inf
    from scipy.special import stdtrit  # imported here because generate does without scipy

    mean = float(values.mean())
    quantile = float(stdtrit(len(values) - 1, (1 + level) / 2))
    half = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def clustered_interval(values: NDArray[Any], lengths: NDArray[np.int64]) -> tuple[float, float]:
    """Student's t interval of the mean over units, where rows are independent but units of a row are not.

    Args:
        values: of all units, row after row, [u].
        lengths: units per row, [n].
    """
    if len(set(lengths.tolist())) == 1:
        return mean_interval(values.reshape(len(lengths), -1).mean(axis=1, dtype=np.float64))
    # A ratio of two sums over rows: the linearised contribution of each row (Cochran 1977, eq. 2.39).
    sums = np.add.reduceat(np.append(values, 0.0), np.cumsum(lengths) - lengths) * (lengths > 0)
    mean = float(sums.sum() / lengths.sum())
    return mean_interval(mean + (sums - mean * lengths) / lengths.mean())


def bootstrap_interval(
    rows: NDArray[np.int64], statistic: Callable[[NDArray[Any]], NDArray[Any]], *, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a statistic of sums over rows, which are drawn with replacement.

    Args:
        rows: counts of each row, [n, k].
        statistic: of sums [b, k], one value each, [b].
        seed: of the draws.
    """
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    return resampled_interval(counts, lambda times: statistic(times @ kinds), seed=seed)


def resampled_interval(
    counts: NDArray[Any], statistic: Callable[[NDArray[np.float64]], NDArray[Any]], *, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a statistic of rows of k kinds, which are drawn with replacement.

    Args:
        counts: rows of each kind, [k].
        statistic: of how often each kind was drawn, [b, k]; one value each, [b].
        seed: of the draws.
    """
    draw, rows = np.random.default_rng(seed), round(counts.sum())
    found = []
    for _ in range(_DRAWS // _DRAWS_AT_ONCE):
        times = draw.multinomial(rows, counts / counts.sum(), size=_DRAWS_AT_ONCE)
        found.append(statistic(times.astype(np.float64)))
    low, high = np.quantile(np.concatenate(found), ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return float(low), float(high)


def interval_with(
    rows: NDArray[Any],
    made_up: NDArray[Any],
    statistic: Callable[[NDArray[Any]], NDArray[Any]],
    value: float,
    *,
    least: float,
) -> tuple[float, float]:
    """The wider of the bootstrap intervals of rows and of the same with made-up ones; it holds the value.

    Where all rows are alike, resampling shows no spread at all; the made-up rows give it some.

    Args:
        rows, made_up: counts of each row, [n, k] and [m, k].
        value: the statistic of the rows.
        least: the lowest possible value; the highest is 1.
    """
    plain = bootstrap_interval(rows, statistic)
    both = wider(plain, bootstrap_interval(np.concatenate((rows, made_up)), statistic), least=least)
    return min(both[0], value), max(both[1], value)


def wider(first: tuple[float, float], second: tuple[float, float], *, least: float) -> tuple[float, float]:
    """The lower of both lower ends and the higher of both upper ends, clipped to [least, 1]."""
    return max(min(first[0], second[0]), least), min(max(first[1], second[1]), 1.0)


def paired_interval(gained: int, lost: int, rows: int, *, z: float = _Z95) -> tuple[float, float]:
    """Score interval of the paired difference (gained - lost) / rows (Tango 1998).

    It keeps its coverage with few or no discordant rows: with none it is +-z^2 / (rows + z^2). A Wald
    interval has width 0 there, and would treat eight equal answers as proof.

    Args:
        gained: rows that only the second answers correctly.
        lost: rows that only the first answers correctly.
        rows: all rows, including concordant ones.
        z: normal quantile; the default gives 95 %.
    """
    estimate = (gained - lost) / rows
    low = _solve(gained, lost, rows, z, inside=estimate, outside=-1.0)
    high = _solve(gained, lost, rows, z, inside=estimate, outside=1.0)
    return low, high


def _solve(gained: int, lost: int, rows: int, z: float, *, inside: float, outside: float) -> float:
    """Bisect for the difference whose |score| is z; the score decreases and is 0 at the estimate."""
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        if abs(_score(gained, lost, rows, middle)) <= z:
            inside = middle
        else:
            outside = middle
    return inside


def _score(gained: int, lost: int, rows: int, difference: float) -> float:
    """Tango's score statistic; at difference 0 it is McNemar's (gained - lost) / sqrt(gained + lost)."""
    b, c, n, d = gained, lost, rows, difference
    # q: maximum likelihood estimate of P(lost) if the difference is d
    A = 2 * n
    B = -b - c + (2 * n - b + c) * d
    C = -c * d * (1 - d)
    q = (math.sqrt(max(B * B - 4 * A * C, 0.0)) - B) / (2 * A)
    variance = n * (2 * q + d * (1 - d))
    distance = b - c - n * d
    if variance <= 0.0:  # at -1 and 1, and at 0 with no discordant row
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)
