"""Integers and scales: by hand, and what must hold for any weight of any shape."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from compress.errors import StageError
from compress.quantize.integers.grid import (
    Grid,
    Steps,
    better_steps,
    dequantize,
    fit_steps,
    grouped,
    per_input,
    round_to,
    whole_steps,
)

GRIDS = [
    Grid(bits, group_size, symmetric)
    for bits in (2, 3, 4, 8)
    for group_size in (None, 16)
    for symmetric in (True, False)
]


def weights(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def test_a_grid_has_the_integers_of_its_bits() -> None:
    assert (Grid(4, 32).low, Grid(4, 32).high) == (-8, 7)
    assert (Grid(8, None, reduce_range=True).low, Grid(8, None, reduce_range=True).high) == (-64, 63)
    assert (Grid(4, 32, symmetric=False).low, Grid(4, 32, symmetric=False).high) == (0, 15)
    assert Grid(8, None, symmetric=False, reduce_range=True).high == 127


@pytest.mark.parametrize(("bits", "reduce_range"), [(1, False), (9, False), (2, True)])
def test_a_grid_of_too_few_or_too_many_bits_is_refused(bits: int, reduce_range: bool) -> None:
    with pytest.raises(ValueError, match="allowed: 2 to 8"):
        Grid(bits, None, reduce_range=reduce_range)


def test_groups_without_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="group_size: 0"):
        Grid(4, 0)


def test_the_symmetric_scale_is_the_smallest_that_clips_nothing() -> None:
    grid = Grid(4, None)
    weight = torch.tensor([[-8.0, 1.0, 2.5, 3.5], [7.0, -7.0, 0.5, 1.5]])
    steps = fit_steps(weight, grid)
    assert steps.zero_point is None
    assert steps.scale.tolist() == [[1.0], [1.0]]
    values = round_to(weight, steps, grid)
    assert values.tolist() == [[-8, 1, 2, 4], [7, -7, 0, 2]], "a half goes to the even number"
    assert values.dtype == torch.int8
    assert torch.equal(dequantize(values, steps, grid), values.float())


def test_zero_points_shift_the_range_to_where_the_weights_are() -> None:
    grid = Grid(4, None, symmetric=False)
    weight = torch.tensor([[-1.0, 0.0, 6.5, 14.0], [3.0, 0.0, 15.0, 7.5], [-15.0, -7.0, -0.5, 0.0]])
    steps = fit_steps(weight, grid)
    assert steps.zero_point is not None
    assert steps.scale.tolist() == [[1.0]] * 3 and steps.zero_point.tolist() == [[1.0], [0.0], [15.0]]
    values = round_to(weight, steps, grid)
    # Rounded before the shift: 6.5 to 6, then 1 more.
    assert values.tolist() == [[0, 1, 7, 15], [3, 0, 15, 8], [0, 8, 15, 15]]
    assert values.dtype == torch.uint8


def test_clipping_shrinks_the_range_of_every_group_or_of_one() -> None:
    grid = Grid(4, 2)
    weight = torch.tensor([[7.0, 1.0, 14.0, 1.0]])
    assert fit_steps(weight, grid, 0.5).scale.tolist() == [[0.5, 1.0]]
    one = fit_steps(weight, grid, torch.tensor([[1.0, 0.5]]))
    assert one.scale.tolist() == [[1.0, 1.0]]
    assert round_to(weight, one, grid).tolist() == [[7, 1, 7, 1]]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("outputs", "inputs"), [(5, 33), (1, 64), (3, 7), (2, 1)])
def test_no_weight_is_further_than_half_a_step_from_its_integer(
    grid: Grid, outputs: int, inputs: int
) -> None:
    weight = weights(outputs, inputs)
    weight[0, 0] = 1e6  # an outlier
    steps = fit_steps(weight, grid)
    assert steps.scale.shape == (outputs, -(-inputs // (grid.group_size or inputs)))
    values = round_to(weight, steps, grid)
    assert values.shape == weight.shape
    assert values.min() >= grid.low and values.max() <= grid.high
    half = per_input(steps.scale, inputs, grid) / 2
    # A quotient near 255 carries 255 * 2^-24 of rounding, which is 1.5e-5 steps.
    assert ((dequantize(values, steps, grid) - weight).abs() <= half * (1 + 1e-4)).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_each_group_reaches_an_end_of_the_range_so_a_smaller_scale_would_clip(grid: Grid) -> None:
    weight = weights(4, 33)
    values = grouped(round_to(weight, fit_steps(weight, grid), grid), grid)
    assert ((values == grid.low) | (values == grid.high)).any(2).all()
    assert (fit_steps(weight, grid, 0.99).scale < fit_steps(weight, grid).scale).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_zero_is_exact_and_rows_of_zeros_have_a_sound_scale(grid: Grid) -> None:
    weight = weights(4, 33)
    weight[1] = 0
    weight[2] = 1e-42  # below the smallest normal number
    weight[:, 5] = 0
    steps = fit_steps(weight, grid)
    assert torch.isfinite(steps.scale).all() and (steps.scale > 0).all()
    back = dequantize(round_to(weight, steps, grid), steps, grid)
    assert back[1].count_nonzero() == 0 and back[2].count_nonzero() == 0
    assert back[:, 5].count_nonzero() == 0


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("constant", [0.3, -0.3, 3e38])
def test_a_constant_group_comes_back_as_it_was(grid: Grid, constant: float) -> None:
    weight = torch.full((1, 20), constant)
    steps = fit_steps(weight, grid)
    back = dequantize(round_to(weight, steps, grid), steps, grid)
    # One quotient and one product, each rounded once.
    torch.testing.assert_close(back, weight, rtol=1e-6, atol=0)


def test_filling_the_last_group_changes_no_scale() -> None:
    grid = Grid(4, 16, symmetric=False)
    weight = weights(3, 33).abs() + 1
    padded = torch.cat((weight, torch.zeros(3, 15)), 1)
    for name in ("scale", "zero_point"):
        assert torch.equal(getattr(fit_steps(weight, grid), name), getattr(fit_steps(padded, grid), name))
    assert grouped(weight, grid).shape == (3, 3, 16)
    assert torch.equal(grouped(weight, grid).flatten(1)[:, :33], weight)


def test_rounding_steps_given_by_hand_saturates() -> None:
    steps = Steps(torch.tensor([[1.0]]), torch.tensor([[8.0]]))
    assert round_to(torch.tensor([[-100.0, 100.0]]), steps, Grid(4, None, False)).tolist() == [[0, 15]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(bad: float) -> None:
    grid = Grid(4, None)
    weight = torch.tensor([[1.0, bad]])
    with pytest.raises(StageError, match="NaN"):
        fit_steps(weight, grid)
    with pytest.raises(StageError, match="NaN"):
        round_to(weight, fit_steps(torch.ones(1, 2), grid), grid)
    with pytest.raises(StageError, match="there are no weights"):
        fit_steps(torch.empty(3, 0), grid)


@pytest.mark.parametrize("grid", GRIDS)
def test_steps_from_zero_are_the_integers_less_their_zero_points(grid: Grid) -> None:
    weight = weights(3, 33) + 0.5
    steps = fit_steps(weight, grid, 0.7)
    whole = whole_steps(grouped(weight, grid), steps, grid)
    back = (whole * steps.scale.unsqueeze(2)).flatten(1)[:, :33]
    assert torch.equal(back, dequantize(round_to(weight, steps, grid), steps, grid))


def test_the_better_steps_are_taken_group_by_group_and_the_first_of_equals() -> None:
    first = Steps(torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 1.0]]))
    other = Steps(torch.tensor([[2.0, 2.0, 2.0]]), torch.tensor([[3.0, 3.0, 3.0]]))
    steps, losses = better_steps(
        first, torch.tensor([[5.0, 5.0, 5.0]]), other, torch.tensor([[4.0, 6.0, 5.0]])
    )
    assert steps.zero_point is not None
    assert steps.scale.tolist() == [[2.0, 1.0, 1.0]] and steps.zero_point.tolist() == [[3.0, 1.0, 1.0]]
    assert losses.tolist() == [[4.0, 5.0, 5.0]]


def test_a_grid_can_be_made_without_torch() -> None:
    code = (
        "import sys; from compress.quantize.integers.grid import Grid;"
        "Grid(4, 32); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
