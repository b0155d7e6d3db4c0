"""Half-quadratic quantization: never worse than rounding by its own measure, and better where it can be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.errors import StageError
from compress.quantize.integers.grid import Grid, Steps, dequantize, fit_steps, grouped, round_to
from compress.quantize.integers.hqq import hqq

GRIDS = [
    Grid(bits, size, symmetric) for bits in (2, 4, 8) for size in (None, 16) for symmetric in (True, False)
]


def losses(weight: Tensor, steps: Steps, grid: Grid) -> Tensor:
    """Sum over each group of |W - W'|^0.7, [o, g]."""
    error = weight - dequantize(round_to(weight, steps, grid), steps, grid)
    return grouped(error, grid).abs().double().pow(0.7).sum(2)


def test_one_weight_may_be_clipped_so_that_all_others_fit() -> None:
    grid = Grid(4, None)
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, 7.4]])
    values, steps = hqq(weight, grid)
    # The largest asks for a scale of 7.4 / 7; all others fit a scale of 1 exactly, and it is 0.4 off then.
    # Shrinking leaves some of that 0.4 in the fit, in proportion to its square among sums of squares.
    assert steps.scale.item() == pytest.approx(1.0, abs=0.01)
    assert values.tolist() == [[1, 2, 3, 4, 5, 6, -1, -2, -3, -4, -5, -6, 7]]
    assert losses(weight, steps, grid) < 0.7 * losses(weight, fit_steps(weight, grid), grid)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("outputs", "inputs"), [(6, 33), (1, 48), (4, 7)])
def test_no_group_is_worse_than_rounded_to_nearest(grid: Grid, outputs: int, inputs: int) -> None:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)) * 0.05
    weight[-1, 0] = 1e4
    values, steps = hqq(weight, grid)
    assert torch.equal(values, round_to(weight, steps, grid))
    assert steps.scale.shape == (outputs, -(-inputs // (grid.group_size or inputs)))
    plain = losses(weight, fit_steps(weight, grid), grid)
    # Sums of |error|^0.7 in float32, of which this is the float64 sum.
    assert (losses(weight, steps, grid) <= plain * (1 + 1e-5)).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_most_groups_of_four_bits_get_better(symmetric: bool) -> None:
    grid = Grid(4, 32, symmetric)
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(2)) * 0.05
    plain = losses(weight, fit_steps(weight, grid), grid)
    found = losses(weight, hqq(weight, grid)[1], grid)
    assert (found < plain).double().mean() > 0.5
    # Measured on trained weights: 4 to 6 %.
    assert found.sum() < 0.98 * plain.sum()


def test_zero_points_are_whole_and_in_range() -> None:
    grid = Grid(4, 16, symmetric=False)
    weight = torch.randn(8, 33, generator=torch.Generator().manual_seed(3)) + 1.5
    zero_point = hqq(weight, grid)[1].zero_point
    assert zero_point is not None and torch.equal(zero_point, zero_point.round())
    assert zero_point.min() >= 0 and zero_point.max() <= 15


def test_without_refitting_the_scales_are_those_of_rounding() -> None:
    grid = Grid(4, 16, symmetric=False)
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(4))
    assert torch.equal(hqq(weight, grid, refit_scale=False)[1].scale, fit_steps(weight, grid).scale)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_choice_does_not_depend_on_the_unit_of_the_weights(factor: float) -> None:
    grid = Grid(4, 16)
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(5))
    # Not exact: a factor rounds weights, and some quotient may then fall on the other side of a half.
    same = hqq(weight, grid)[0] == hqq(weight * factor, grid)[0]
    assert same.double().mean() > 0.99


@pytest.mark.parametrize("grid", GRIDS)
def test_rows_of_zeros_stay_zero(grid: Grid) -> None:
    weight = torch.randn(3, 33, generator=torch.Generator().manual_seed(6))
    weight[1] = 0
    values, steps = hqq(weight, grid)
    assert torch.isfinite(steps.scale).all() and (steps.scale > 0).all()
    assert dequantize(values, steps, grid)[1].count_nonzero() == 0


def test_weights_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(StageError, match="weights contain NaN"):
        hqq(torch.tensor([[float("nan")]]), Grid(4, None))
