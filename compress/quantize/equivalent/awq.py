"""AWQ's factors: give the weights that read loud channels finer steps.

Lin et al. 2023, arXiv 2306.00978, section 3.1: channel j of the weights is multiplied by s_j = a_j^strength
before it is rounded, and its activations are divided by it; the strength is searched. Here a_j is the root
mean square of the channel (the paper takes the mean of |x|), so that the second moments of the inputs tell
both it and the error of the outputs, exactly, without a second look at the data.
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
_QUIETEST = 1e-4  # of a factor, as there


def awq_factors(weights: Sequence[Tensor], moments: Tensor, grid: Grid) -> Tensor:
    """Choose what each channel is divided by: of 20 strengths that whose rounded weights lose least.

    The loss is the mean squared error of the readers' outputs; a strength of 0 changes nothing and is tried
    first. O(20 o m^2) time.

    Args:
        weights: of each reader, [o, m].
        moments: mean of x x' over tokens, [m, m].
        grid: what the weights will be rounded to.

    Returns:
        [m].

    Raises:
        StageError: something isn't a finite number.
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
