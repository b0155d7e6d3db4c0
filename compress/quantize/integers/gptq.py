"""GPTQ: round one input after the other, and let the remaining ones compensate for the error.

Frantar et al. 2022, arXiv 2210.17323, algorithm 1. With H the second moments of a layer's inputs and
U'U = H^-1 (U upper triangular), rounding input j to q_j leaves the error (w_j - q_j) / U_jj, and the weights
of the inputs after j change by -error * U_j:. That lowers the mean squared error of the outputs, tr(E H E').
Scales are fixed in advance ("static groups"): inputs can be processed in any order, the largest first, while
a group remains a run of neighbours as the kernels require.

Shapes: o = output features, i = input features, g = groups of i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.errors import StageError
from compress.quantize.integers.grid import (
    Grid,
    Steps,
    as_integers,
    check_finite,
    dequantize,
    per_input,
    round_to,
)

__all__ = ["gptq"]

_DAMPING_TRIES = 5
_DAMPING_GROWTH = 10.0
_WHOLE = 128  # block size where a matrix is processed in pieces


def gptq(
    weight: Tensor,
    second_moment: Tensor,
    steps: Steps,
    grid: Grid,
    *,
    damping: float = 0.01,
    block: int = 128,
    activation_order: bool = True,
) -> Tensor:
    """Choose integers that minimize the error of the outputs instead of the weights.

    Inputs that were never active are rounded to nearest: they can't compensate for anything, and other data
    may need them. So are rows (rare) whose e H e' would otherwise be worse than by rounding to nearest. Takes
    O(o i^2 + i^3) time, and memory for one tensor of [i, i] in float64 and some in float32.

    Args:
        weight: [o, i].
        second_moment: mean over tokens of x x', [i, i].
        steps: scales and zero points of the grid; fixed.
        damping: added to H's diagonal, as a fraction of its mean; ten times as much if H remains singular,
            and so on up to 10,000 times.
        block: inputs to round before the remaining weights are updated at once.
        activation_order: process the largest inputs first; otherwise in their own order.

    Returns:
        [o, i], as from `as_integers`.

    Raises:
        StageError: weights or moments are not finite, or no damping makes the moments positive definite.
    """
    check_finite(second_moment, "second moments of the inputs")
    nearest = round_to(weight, steps, grid)
    exact = weight.detach().float()
    moments = second_moment.float()  # the factorization reads one triangle
    alive = moments.diagonal() != 0
    order = torch.arange(len(moments), device=moments.device)
    if activation_order:
        order = moments.diagonal().argsort(descending=True, stable=True)
    upper = _inverse_factor(moments, order, damping)
    zero_point = torch.zeros_like(steps.scale) if steps.zero_point is None else steps.zero_point
    scale, shift = (
        per_input(each, exact.shape[1], grid).expand_as(exact) for each in (steps.scale, zero_point)
    )
    # Transposed, because rows of a tensor are faster to access than columns.
    columns = exact.T[order].contiguous()  # [i, o]
    whole = torch.empty_like(columns)
    whole[order] = _round_in_turn(columns, upper, scale.T[order], shift.T[order], grid, block)
    values = torch.where(alive, as_integers(whole.T, grid), nearest)
    return _better_rows(exact, values, nearest, steps, grid, moments)


def _inverse_factor(moments: Tensor, order: Tensor, damping: float) -> Tensor:
    """U, upper triangular with U'U = H^-1 where H are the reordered moments, float32 [i, i].

    H = M M' with M upper triangular gives U = M^-1 without inverting H; M is the lower Cholesky factor of H
    with reversed order. float64, because the power of a Transformer's inputs differs by 10^6 and more. Works
    in place on one such tensor: a feed-forward's can be a fifth of a small model's size.
    """
    backwards = order.flip(0)
    diagonal = moments.diagonal()[backwards].double()
    live = diagonal != 0
    mean = float(diagonal[live].mean()) if bool(live.any()) else 1.0
    if mean > 0:
        for attempt in range(_DAMPING_TRIES):
            damped = torch.empty_like(moments, dtype=torch.float64)
            for start in range(0, len(damped), _WHOLE):  # without a second tensor of that size
                damped[start : start + _WHOLE] = moments[backwards[start : start + _WHOLE]][:, backwards]
            damped[~live] = damped[:, ~live] = 0  # an input of zero power has no cross moments
            damped.diagonal()[~live] = mean
            damped.diagonal().add_(damping * _DAMPING_GROWTH**attempt * mean)
            failed = torch.empty((), dtype=torch.int32, device=damped.device)
            torch.linalg.cholesky_ex(damped, out=(damped, failed))
            if not bool(failed):
                _invert_lower_(damped)
                upper: Tensor = damped.float().flip(0, 1)
                return upper
    raise StageError(
        "second moments of the inputs are not positive, even after adding "
        f"{damping * _DAMPING_GROWTH ** (_DAMPING_TRIES - 1):g} of their mean"
    )


def _invert_lower_(factor: Tensor) -> None:
    """Invert a lower triangular matrix in place, recursively by halves.

    The inverse of [[A, 0], [C, D]] is [[A^-1, 0], [-D^-1 C A^-1, D^-1]].
    """
    size = len(factor)
    if size <= _WHOLE:
        identity = torch.eye(size, dtype=factor.dtype, device=factor.device)
        factor.copy_(torch.linalg.solve_triangular(factor, identity, upper=False))
        return
    half = size // 2
    _invert_lower_(factor[:half, :half])
    _invert_lower_(factor[half:, half:])
    factor[half:, :half] = -factor[half:, half:] @ factor[half:, :half] @ factor[:half, :half]


def _round_in_turn(
    columns: Tensor, upper: Tensor, scale: Tensor, shift: Tensor, grid: Grid, block: int
) -> Tensor:
    """Round weights [i, o] to whole numbers in this order; overwrites the weights."""
    whole = torch.empty_like(columns)
    for begin in range(0, len(columns), block):
        end = min(begin + block, len(columns))
        errors = torch.empty_like(columns[begin:end])
        for j in range(begin, end):
            whole[j] = ((columns[j] / scale[j]).round() + shift[j]).clamp(grid.low, grid.high)
            errors[j - begin] = (columns[j] - (whole[j] - shift[j]) * scale[j]) / upper[j, j]
            columns[j + 1 : end].addr_(upper[j, j + 1 : end], errors[j - begin], alpha=-1)
        columns[end:].addmm_(upper[begin:end, end:].T, errors, alpha=-1)
    return whole


def _better_rows(
    exact: Tensor, values: Tensor, nearest: Tensor, steps: Steps, grid: Grid, moments: Tensor
) -> Tensor:
    """For each row, the values with the smaller output error."""

    def losses(chosen: Tensor) -> Tensor:
        error = dequantize(chosen, steps, grid) - exact
        return ((error @ moments) * error).sum(1, keepdim=True)  # [o, 1]

    return torch.where(losses(values) <= losses(nearest), values, nearest)
