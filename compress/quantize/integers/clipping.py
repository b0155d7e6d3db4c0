"""Clip ranges of weights and activations: clipping a few large values makes the steps for the rest finer.

For weights, errors are weighted by the magnitude of their inputs, as in the clipping of AWQ (Lin et al. 2023,
arXiv 2306.00978, section 3.2). For activations a histogram of constant size is updated batch by batch.

Shapes: o = output features, i = input features, g = groups of i, n = bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compress.errors import StageError
from compress.quantize.integers.grid import (
    Grid,
    Steps,
    better_steps,
    check_finite,
    fit_steps,
    grouped,
    steps_between,
    whole_steps,
)

__all__ = ["Histogram", "minmax_range", "mse_clip", "mse_range", "percentile_range"]

# For 4-bit rows of normal weights the best factor is about 0.7, for 2-bit ones 0.4.
_CLIP_STEP = 0.025
_CLIP_TRIES = 29  # 1 down to 0.3
# An activation's maximum may be 100 times all other values, so factors decrease geometrically to 1 %.
_RANGE_RATIO = 0.87
_RANGE_TRIES = 34
_FIRST_EXPONENT = -100  # such narrow bins hold all relevant values, and widening is exact


def mse_clip(weight: Tensor, grid: Grid, importance: Tensor | None) -> Steps:
    """Choose for each group the fraction of its range that gives the smallest error.

    The error is the sum over its inputs of importance * (W - W')^2, and never more than that of `fit_steps`,
    which is tried first. O(29 o i) time.

    Args:
        weight: [o, i].
        importance: mean squared input, [i], 0 or more; None: all equal.

    Raises:
        StageError: weights or importance are empty or not finite.
    """
    groups = grouped(weight, grid)  # [o, g, s]
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    counts = torch.ones_like(groups[:1])
    if importance is not None:
        check_finite(importance, "importance of the inputs")
        # A common factor changes nothing but may overflow.
        largest = importance.max().clamp(min=torch.finfo(torch.float32).tiny)
        counts = grouped((importance / largest)[None], grid)  # [1, g, s]
    best = fit_steps(weight, grid)
    least = _weighted_errors(groups, counts, best, grid)
    for attempt in range(1, _CLIP_TRIES):
        clip = 1 - _CLIP_STEP * attempt
        steps = steps_between(low * clip, high * clip, grid)
        best, least = better_steps(best, least, steps, _weighted_errors(groups, counts, steps, grid))
    return best


def _weighted_errors(groups: Tensor, counts: Tensor, steps: Steps, grid: Grid) -> Tensor:
    """Sum over each group of counts * (W - W')^2, [o, g]."""
    near = whole_steps(groups, steps, grid) * steps.scale.unsqueeze(2)
    return ((groups - near).square() * counts).sum(2)


@dataclass
class Histogram:
    """Histogram of activations with a fixed number of bins.

    Bins are evenly spaced between -limit and limit, where limit is the smallest power of two above all values
    so far. So widening merges whole bins, and the counts depend neither on the order of rows nor on batches.

    Attributes:
        bins: n, a multiple of 4.
        counts: of non-zero values, int64 [n].
        zeros: number of values exactly 0, which every range represents without error.
        low: smallest value so far.
        high: largest value so far.
    """

    bins: int = 4096
    counts: Tensor = field(init=False, repr=False)
    zeros: int = field(default=0, init=False)
    low: float = field(default=math.inf, init=False)
    high: float = field(default=-math.inf, init=False)
    _exponent: int = field(default=_FIRST_EXPONENT, init=False, repr=False)

    def __post_init__(self) -> None:
        """Start with empty bins."""
        if self.bins < 4 or self.bins % 4:
            raise ValueError(f"bins: {self.bins}; allowed: multiples of 4")
        self.counts = torch.zeros(self.bins, dtype=torch.int64)

    @property
    def limit(self) -> float:
        """Upper edge of the last bin; above every |value|."""
        return 2.0**self._exponent

    @property
    def total(self) -> int:
        """Number of values added."""
        return self.zeros + int(self.counts.sum())

    def add_(self, x: Tensor) -> None:
        """Count values, of any shape; the caller must leave out padding.

        Raises:
            StageError: values are not finite, or there are none.
        """
        check_finite(x, "activations")
        values = x.detach().flatten().float()
        low, high = (float(each) for each in values.aminmax())
        self.low, self.high = min(self.low, low), max(self.high, high)
        # frexp: |value| is in [2^exponent / 2, 2^exponent).
        while self._exponent < math.frexp(max(-low, high))[1]:
            self._widen_()
        values = values[values != 0]
        self.zeros += x.numel() - len(values)
        # Dividing by a power of two is exact, so no value falls into a neighbouring bin.
        places = (values.double() / self.limit * (self.bins // 2)).floor().long() + self.bins // 2
        self.counts += torch.bincount(places, minlength=self.bins).cpu()

    def _widen_(self) -> None:
        """Double the range by merging pairs of bins."""
        merged = self.counts.reshape(-1, 2).sum(1)  # [n / 2]
        self.counts = torch.zeros_like(self.counts)
        self.counts[self.bins // 4 : self.bins - self.bins // 4] = merged
        self._exponent += 1

    def edges(self) -> Tensor:
        """Bin edges, float64 [n + 1]."""
        return torch.arange(-self.bins // 2, self.bins // 2 + 1).double() * (2 * self.limit / self.bins)


def minmax_range(histogram: Histogram) -> tuple[float, float]:
    """The range that clips nothing and contains 0.

    Raises:
        StageError: nothing was added.
    """
    _check_values(histogram)
    return min(histogram.low, 0.0), max(histogram.high, 0.0)


def percentile_range(histogram: Histogram, q: float) -> tuple[float, float]:
    """The range that clips few values on each side and contains 0.

    Args:
        q: percentage of values within the range, in (50, 100]; at most half of the others lie below it, and
            half above. Never wider than `minmax_range`, and equal to it for 100.

    Raises:
        StageError: nothing was added, or q is out of range.
    """
    _check_values(histogram)
    if not 50 < q <= 100:
        raise StageError(f"percentile: {q}; allowed: above 50, up to 100")
    outside = math.floor(histogram.total * (100 - q) / 200)
    counts, middle = histogram.counts.clone(), histogram.bins // 2
    counts[middle] += histogram.zeros  # this bin starts at 0
    edges = histogram.edges()
    # The first bin that may not be clipped entirely; its outer edge is the end of the range.
    first = int((counts.cumsum(0) > outside).nonzero()[0, 0])
    last = len(counts) - 1 - int((counts.flip(0).cumsum(0) > outside).nonzero()[0, 0])
    low, high = minmax_range(histogram)
    return min(max(low, float(edges[first])), 0.0), max(min(high, float(edges[last + 1])), 0.0)


def mse_range(histogram: Histogram, bits: int) -> tuple[float, float]:
    """The range whose unsigned integers with a zero point give the smallest mean squared error.

    Both ends are searched, from `minmax_range` to 1 % of it, assuming values are uniform within each bin.
    O(1,156 n) time.

    Args:
        bits: of the integers, 2 to 8.

    Raises:
        StageError: nothing was added.
    """
    low, high = minmax_range(histogram)
    ratios = _RANGE_RATIO ** torch.arange(_RANGE_TRIES).double()
    used = histogram.counts.nonzero()[:, 0]
    if len(used) == 0:
        return low, high
    # From the first to the last non-empty bin.
    edges = histogram.edges()[used[0] : used[-1] + 2]
    counts = histogram.counts[used[0] : used[-1] + 1].double()
    highs = ratios * high if high > 0 else torch.zeros(1).double()
    best, least = (low, high), math.inf
    for tried_low in (ratios * low).tolist() if low < 0 else [0.0]:
        errors = _expected_errors(counts, edges, tried_low, highs, 2**bits - 1)  # one for each high
        at = int(errors.argmin())
        if float(errors[at]) < least:
            best, least = (tried_low, float(highs[at])), float(errors[at])
    return best


def _expected_errors(counts: Tensor, edges: Tensor, low: float, highs: Tensor, steps: int) -> Tensor:
    """Sum over all values of the squared rounding error, for ranges from low to each of highs.

    Within a step the integral of the squared error is r^3 / 3 + n / 12 at n + r steps, |r| <= 1/2; beyond the
    ends it continues with the n of the end and r the distance from there. Its differences over the bins give
    the errors of uniformly distributed values.
    """
    step = ((highs - low) / steps)[:, None]
    zero_point = (-low / step).round()
    at = edges / step  # [highs, n + 1]
    whole = at.round().clamp(-zero_point, steps - zero_point)
    integral = (at - whole) ** 3 / 3 + whole / 12  # in steps^3
    per_bin = integral.diff(dim=1) * step**3 / edges.diff()
    return per_bin @ counts


def _check_values(histogram: Histogram) -> None:
    if histogram.total == 0:
        raise StageError("there are no activations")
