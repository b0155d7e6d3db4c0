"""Half-quadratic quantization: robust scales and zero points, without any data.

Badri and Shaji 2023, "Half-quadratic quantization of large machine learning models": minimize the sum of
|W - W'|^p with p < 1, which tolerates a few large errors so that most are small, by alternating
    E = shrink(W - W')        large errors are excluded
    z = mean(Q - (W - E) / s)        over each group, in closed form.
Two departures. The kernels need whole zero points, and rounding z undoes nearly every such step (on MiniLM
all of them), so the scale is updated too, by least squares of W - E on Q - z; a symmetric grid has only that
update. And errors are measured in steps of their group: in units of the weights, as published, shrink gives 0
for every error as small as those of a trained model's weights. HQQ helps with few bits; with 8 bits and one
scale per row it clips the few largest weights, which costs the outputs more than all the small ones gain
(error on MiniLM: 0.0084, and 0.0068 by rounding to nearest).

Shapes: o = output features, i = input features, g = groups of i, s = inputs of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.quantize.integers.grid import (
    Grid,
    Steps,
    better_steps,
    fit_steps,
    grouped,
    round_to,
    whole_steps,
)

__all__ = ["hqq"]

_P = 0.7
_BETA = 10.0  # of the first iteration; the published values
_BETA_GROWTH = 1.01
_SMALLEST_ERROR = 1e-6  # in steps; |x|^(p - 1) is infinite at 0


def hqq(
    weight: Tensor, grid: Grid, *, refit_scale: bool = True, iterations: int = 20
) -> tuple[Tensor, Steps]:
    """Choose integers, scales and whole zero points by the half-quadratic method.

    Each group keeps the best steps found, starting from rounding to nearest with `fit_steps`, so none is
    worse than that by the sum of |W - W'|^0.7. O(iterations o i) time.

    Args:
        weight: [o, i].
        refit_scale: update the scale of a grid with zero points too; with whole zero points almost all of the
            gain comes from it. A symmetric grid always updates it.

    Returns:
        values [o, i], as from `as_integers` and equal to `round_to` with these steps; and the steps.

    Raises:
        StageError: the weights are empty or not finite.
    """
    groups = grouped(weight, grid)  # [o, g, s]
    filled = grouped(torch.ones_like(weight[:1]), grid)  # 0 for padding, [1, g, s]
    best = steps = fit_steps(weight, grid)
    least = _losses(groups, best, grid)
    shift = _exact_zero_points(groups, steps)
    beta = _BETA
    for _ in range(iterations):
        if grid.symmetric or refit_scale:
            steps = Steps(_scale_step(groups, steps, grid, beta), steps.zero_point)
            best, least = better_steps(best, least, steps, _losses(groups, steps, grid))
        if shift is not None:
            shift = _zero_point_step(groups, filled, steps.scale, shift, grid, beta)
            steps = Steps(steps.scale, shift.round().clamp(grid.low, grid.high))
            best, least = better_steps(best, least, steps, _losses(groups, steps, grid))
        beta *= _BETA_GROWTH
    return round_to(weight, best, grid), best


def _exact_zero_points(groups: Tensor, steps: Steps) -> Tensor | None:
    """Zero points before rounding, [o, g]; the iteration updates these, and rounds them only for the loss."""
    return None if steps.zero_point is None else 0 - groups.amin(2).clamp(max=0) / steps.scale


def _scale_step(groups: Tensor, steps: Steps, grid: Grid, beta: float) -> Tensor:
    """Least squares of W - E on the integers, [o, g]."""
    whole = whole_steps(groups, steps, grid)  # [o, g, s]
    scale = steps.scale.unsqueeze(2)
    error = _shrink(groups / scale - whole, beta)  # in steps
    power = whole.square().sum(2)
    new = ((groups / scale - error) * whole).sum(2) / power.clamp(min=1) * steps.scale
    # Keep the scale if a group's integers are all 0, or if its scale would vanish or change sign.
    return torch.where((power > 0) & (new > 0.1 * steps.scale), new, steps.scale)


def _zero_point_step(
    groups: Tensor, filled: Tensor, scale: Tensor, shift: Tensor, grid: Grid, beta: float
) -> Tensor:
    """Mean over each group of Q - (W - E) / s, with a fractional zero point, [o, g]."""
    shifted = groups / scale.unsqueeze(2) + shift.unsqueeze(2)
    off = shifted - shifted.round().clamp(grid.low, grid.high)  # [o, g, s]
    return shift - ((off - _shrink(off, beta)) * filled).sum(2) / filled.sum(2)


def _shrink(x: Tensor, beta: float) -> Tensor:
    """Generalized soft threshold: sign(x) max(0, |x| - |x|^(p - 1) / beta)."""
    size = x.abs().clamp(min=_SMALLEST_ERROR)
    return x.sign() * (size - size.pow(_P - 1) / beta).clamp(min=0)


def _losses(groups: Tensor, steps: Steps, grid: Grid) -> Tensor:
    """Sum over each group of |W - W'|^p, [o, g]."""
    return (groups - whole_steps(groups, steps, grid) * steps.scale.unsqueeze(2)).abs().pow(_P).sum(2)
