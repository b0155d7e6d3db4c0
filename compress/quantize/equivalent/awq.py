"""AWQ's factors: finer steps for the weights that read large channels.

Lin et al. 2023, arXiv 2306.00978, section 3.1: channel j of the weights is multiplied by s_j = a_j^strength
before rounding, and its activations are divided by it; the strength is searched. Here a_j is the root mean
square of the channel (the paper uses the mean of |x|), so the inputs' second moments give both it and the
exact output error, without a second pass over the data.
Shapes: m = channels, o = outputs of a reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.quantize.integers.grid import Grid, check_finite, dequantize, fit_steps, round_to

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["awq_factors"]

_TRIES = 20  # strengths of 0 to 0.95, as in the paper's code
_QUIETEST = 1e-4  # smallest factor, as in the paper's code


def awq_factors(weights: Sequence[Tensor], moments: Tensor, grid: Grid) -> Tensor:
    """Choose each channel's divisor: the strength, of 20, whose rounded weights lose least.

    The loss is the mean squared error of the readers' outputs; a strength of 0 changes nothing and is tried
    first. O(20 o m^2) time.

    Args:
        weights: of each reader, [o, m].
        moments: mean of x x' over tokens, [m, m].
        grid: grid that the weights will be rounded to.

    Returns:
        [m].

    Raises:
        StageError: a value is not finite.
    """
    import torch

    check_finite(moments, "second moments of the activations")
    loudness = moments.diagonal().clamp(min=0).sqrt()
    best, least = torch.ones_like(loudness), float("inf")
    for attempt in range(_TRIES):
        factors = (loudness ** (attempt / _TRIES)).clamp(min=_QUIETEST)
        factors = factors / (factors.max() * factors.min()).sqrt()
        loss = sum(_loss(weight, factors, moments, grid) for weight in weights)
        if loss < least:
            best, least = factors, loss
    return best


def _loss(weight: Tensor, factors: Tensor, moments: Tensor, grid: Grid) -> float:
    scaled = weight.detach().float() * factors
    steps = fit_steps(scaled, grid)
    error = dequantize(round_to(scaled, steps, grid), steps, grid) / factors - weight  # [o, m]
    return float((error @ moments * error).sum())
