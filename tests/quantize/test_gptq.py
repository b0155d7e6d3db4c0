"""GPTQ: against a case by hand, and against rounding each weight on its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.errors import StageError
from compress.quantize.integers.gptq import gptq
from compress.quantize.integers.grid import Grid, Steps, dequantize, fit_steps, round_to

GRIDS = [Grid(bits, size, symmetric) for bits in (3, 4) for size in (None, 16) for symmetric in (True, False)]


def moments(inputs: int, seed: int = 0) -> Tensor:
    """Of correlated inputs, some of them louder than others by far."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(400, inputs, generator=draw) @ torch.randn(inputs, inputs, generator=draw)
    x = mixed * torch.logspace(-0.7, 0.7, inputs)[torch.randperm(inputs, generator=draw)]
    return x.T @ x / 400


def losses(weight: Tensor, values: Tensor, steps: Steps, grid: Grid, second_moment: Tensor) -> Tensor:
    """Mean squared error of each output, [o]."""
    error = (dequantize(values, steps, grid) - weight).double()
    return ((error @ second_moment.double()) * error).sum(1)


def test_a_twin_makes_up_for_what_rounding_the_first_loses() -> None:
    steps, grid = Steps(torch.ones(1, 1), None), Grid(4, None)
    weight, twins = torch.tensor([[0.4, 0.4]]), torch.ones(2, 2)
    assert round_to(weight, steps, grid).tolist() == [[0, 0]]
    # 0.4 of the first is rounded away, and its twin, whose input is the same, takes it: 0.8 is nearest to 1.
    assert gptq(weight, twins, steps, grid).tolist() == [[0, 1]]


def test_uncorrelated_inputs_are_rounded_to_nearest() -> None:
    grid = Grid(4, 16)
    weight = torch.randn(5, 33, generator=torch.Generator().manual_seed(0))
    steps = fit_steps(weight, grid)
    diagonal = torch.diag(torch.rand(33, generator=torch.Generator().manual_seed(1)) + 0.1)
    assert torch.equal(gptq(weight, diagonal, steps, grid), round_to(weight, steps, grid))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("activation_order", [True, False])
@pytest.mark.parametrize(("outputs", "inputs"), [(12, 33), (1, 64), (6, 9)])
def test_outputs_are_nearer_than_with_rounding(
    grid: Grid, activation_order: bool, outputs: int, inputs: int
) -> None:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(2))
    steps, second = fit_steps(weight, grid), moments(inputs)
    values = gptq(weight, second, steps, grid, block=8, activation_order=activation_order)
    assert values.dtype == round_to(weight, steps, grid).dtype and values.shape == weight.shape
    assert values.min() >= grid.low and values.max() <= grid.high
    nearest = losses(weight, round_to(weight, steps, grid), steps, grid, second)
    found = losses(weight, values, steps, grid, second)
    # The rows are compared in float32.
    assert (found <= nearest * (1 + 1e-4)).all()
    # In an order of its own, and alone, a row may have no luck.
    assert outputs == 1 or found.sum() < (0.8 if activation_order else 0.95) * nearest.sum()


def test_the_size_of_blocks_changes_nothing_but_the_order_of_sums() -> None:
    grid = Grid(4, None)
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(3))
    steps, second = fit_steps(weight, grid), moments(40)
    one, all_at_once = (gptq(weight, second, steps, grid, block=block) for block in (1, 64))
    # A sum that falls on the other side of a half changes an integer, and with it all after it in its row.
    assert (one == all_at_once).all(1).double().mean() > 0.7
    assert losses(weight, one, steps, grid, second).sum() == pytest.approx(
        float(losses(weight, all_at_once, steps, grid, second).sum()), rel=0.05
    )


def test_the_equations_are_those_of_the_paper() -> None:
    grid, inputs = Grid(3, None), 6
    weight = torch.randn(2, inputs, generator=torch.Generator().manual_seed(4)).double()
    steps, second = fit_steps(weight, grid), moments(inputs).double()
    damped = second + 0.01 * second.diagonal().mean() * torch.eye(inputs).double()
    work, values = weight.clone(), torch.zeros(2, inputs)
    # One input at a time, by the inverse of what is left (eq. 2 and 3), instead of by one factor.
    for j in range(inputs):
        inverse = torch.linalg.inv(damped[j:, j:])
        values[:, j] = round_to(work.float(), steps, grid)[:, j]
        error = (work[:, j] - values[:, j] * steps.scale[:, 0]) / inverse[0, 0]
        work[:, j:] -= error[:, None] * inverse[0]
    assert torch.equal(gptq(weight.float(), second, steps, grid, activation_order=False).float(), values)


def test_inputs_that_were_never_active_are_rounded_to_nearest() -> None:
    grid = Grid(4, 16)
    weight = torch.randn(4, 33, generator=torch.Generator().manual_seed(5))
    steps, second = fit_steps(weight, grid), moments(33)
    dead = torch.tensor([0, 7, 32])
    second[dead] = second[:, dead] = 0
    values, nearest = gptq(weight, second, steps, grid), round_to(weight, steps, grid)
    assert torch.equal(values[:, dead], nearest[:, dead])
    assert (
        losses(weight, values, steps, grid, second).sum() < losses(weight, nearest, steps, grid, second).sum()
    )
    assert torch.equal(gptq(weight, torch.zeros(33, 33), steps, grid), nearest)


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_unit_of_the_inputs_does_not_matter(unit: float) -> None:
    grid = Grid(4, None)
    weight = torch.randn(4, 24, generator=torch.Generator().manual_seed(6))
    steps, second = fit_steps(weight, grid), moments(24)
    second[3] = second[:, 3] = 0  # a dead input must not set the damping of the others
    found, there = (gptq(weight, second * factor, steps, grid) for factor in (1.0, unit))
    # A factor that isn't a power of 2 rounds the moments, and an integer may fall on the other side.
    assert (found == there).double().mean() > 0.9


def test_damping_grows_until_moments_of_few_tokens_can_be_factored() -> None:
    grid = Grid(4, None)
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(7))
    steps, second = fit_steps(weight, grid), moments(20)
    # Rounded moments may have a negative direction: here one as large as the mean of the diagonal.
    direction = torch.ones(20) / 20**0.5
    second = second - (direction @ second @ direction + second.diagonal().mean()) * torch.outer(
        direction, direction
    )
    assert torch.linalg.eigvalsh(second)[0] < -0.05 * second.diagonal().mean()
    assert gptq(weight, second, steps, grid).shape == (3, 20)


@pytest.mark.parametrize("bad", [-torch.eye(4), torch.diag(torch.tensor([1.0, 1.0, 1.0, -2000.0]))])
def test_moments_that_no_damping_makes_positive_are_refused(bad: Tensor) -> None:
    steps, grid = Steps(torch.ones(1, 1), None), Grid(4, None)
    with pytest.raises(StageError, match="adding 100 of"):
        gptq(torch.ones(1, 4), bad, steps, grid)


def test_what_is_not_a_number_is_refused() -> None:
    steps, grid = Steps(torch.ones(1, 1), None), Grid(4, None)
    bad = torch.full((1, 1), float("nan"))
    with pytest.raises(StageError, match="NaN"):
        gptq(bad, torch.eye(1), steps, grid)
    with pytest.raises(StageError, match="second moments of the inputs contain NaN"):
        gptq(torch.ones(1, 1), bad, steps, grid)
