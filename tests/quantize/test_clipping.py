"""Ranges of weights and of activations: what is clipped, and what is gained by it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from compress.errors import StageError
from compress.quantize.integers.clipping import Histogram, minmax_range, mse_clip, mse_range, percentile_range
from compress.quantize.integers.grid import (
    Grid,
    Steps,
    dequantize,
    fit_steps,
    grouped,
    round_to,
    steps_between,
)

GRIDS = [
    Grid(bits, size, symmetric) for bits in (2, 4, 8) for size in (None, 16) for symmetric in (True, False)
]


def losses(weight: Tensor, steps: Steps, grid: Grid, importance: Tensor | None = None) -> Tensor:
    """Sum over each group of importance * (W - W')^2 in float64, [o, g]."""
    error = weight - dequantize(round_to(weight, steps, grid), steps, grid)
    squares = error.double().square() * (1 if importance is None else importance.double())
    size = grid.group_size or weight.shape[1]
    return torch.stack([part.sum(1) for part in squares.split(size, 1)], 1)


def test_an_outlier_is_clipped_where_its_input_is_quiet_and_kept_where_it_is_loud() -> None:
    grid = Grid(2, None)  # -2, -1, 0, 1
    weight = torch.tensor([[-1.0] * 8 + [-4.0]])
    quiet, loud = torch.tensor([1.0] * 8 + [1e-3]), torch.tensor([1.0] * 8 + [1e3])
    assert fit_steps(weight, grid).scale.item() == 2.0
    # A scale of 1 has the eight exactly, and one of 2 the last. The search goes in steps of 0.05 here.
    assert mse_clip(weight, grid, quiet).scale.item() == pytest.approx(1.0, abs=0.025)
    assert mse_clip(weight, grid, loud).scale.item() == 2.0


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("outputs", "inputs"), [(6, 33), (1, 48), (4, 7)])
def test_no_group_is_worse_than_without_clipping(
    grid: Grid, weighted: bool, outputs: int, inputs: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=draw) * 0.05
    weight[0, 0] = 1e4
    importance = torch.rand(inputs, generator=draw).square() * 1e3 if weighted else None
    steps = mse_clip(weight, grid, importance)
    plain = losses(weight, fit_steps(weight, grid), grid, importance)
    # Sums in float32 were compared, of which these are the float64 sums.
    assert (losses(weight, steps, grid, importance) <= plain * (1 + 1e-5) + 1e-30).all()


@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_of_normal_weights_gain_by_clipping(symmetric: bool) -> None:
    grid = Grid(4, None, symmetric)
    weight = torch.randn(8, 512, generator=torch.Generator().manual_seed(1))
    gained = losses(weight, mse_clip(weight, grid, None), grid) / losses(
        weight, fit_steps(weight, grid), grid
    )
    # Known for 4 bits: the best range is about 2.6 standard deviations, and 512 draws reach 3 to 3.5.
    assert gained.max() < 1 and gained.mean() < 0.85


def test_dead_inputs_and_rows_of_zeros_change_nothing() -> None:
    grid = Grid(4, 16)
    weight = torch.randn(3, 33, generator=torch.Generator().manual_seed(2))
    weight[1] = 0
    steps = mse_clip(weight, grid, torch.zeros(33))
    assert torch.equal(steps.scale, fit_steps(weight, grid).scale)
    alone = mse_clip(weight, grid, None)
    assert torch.isfinite(alone.scale).all() and (alone.scale > 0).all()
    assert dequantize(round_to(weight, alone, grid), alone, grid)[1].count_nonzero() == 0


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_the_unit_of_importance_does_not_matter(unit: float) -> None:
    grid, draw = Grid(3, 16), torch.Generator().manual_seed(3)
    weight, importance = torch.randn(5, 33, generator=draw), torch.rand(33, generator=draw)
    found, there = (mse_clip(weight, grid, importance * factor).scale for factor in (1.0, unit))
    # Two factors may be so near in error that rounding of the products decides.
    assert (found == there).double().mean() > 0.9


def test_weights_and_importance_that_are_not_numbers_are_refused() -> None:
    grid, bad = Grid(4, None), torch.tensor([[float("nan")]])
    with pytest.raises(StageError, match="NaN"):
        mse_clip(bad, grid, None)
    with pytest.raises(StageError, match="importance of the inputs contain NaN"):
        mse_clip(torch.ones(1, 1), grid, bad[0])


def test_values_are_counted_in_bins_that_double() -> None:
    histogram = Histogram(bins=8)
    histogram.add_(torch.tensor([[0.9, -0.9], [0.1, 0.0]]))
    assert histogram.limit == 1 and histogram.edges().tolist() == [
        -1,
        -0.75,
        -0.5,
        -0.25,
        0,
        0.25,
        0.5,
        0.75,
        1,
    ]
    assert histogram.counts.tolist() == [1, 0, 0, 0, 1, 0, 0, 1] and histogram.zeros == 1
    histogram.add_(torch.tensor([3.0]))
    assert histogram.limit == 4 and histogram.edges()[0] == -4
    assert histogram.counts.tolist() == [0, 0, 0, 1, 2, 0, 0, 1]
    assert (histogram.low, histogram.high, histogram.total) == (pytest.approx(-0.9), 3.0, 5)


def test_a_power_of_two_is_below_the_end_of_the_range() -> None:
    histogram = Histogram(bins=8)
    histogram.add_(torch.tensor([1.0, -1.0]))
    assert histogram.limit == 2 and histogram.counts.tolist() == [0, 0, 1, 0, 0, 0, 1, 0]


def test_batches_in_any_order_give_the_same_counts() -> None:
    draw = torch.Generator().manual_seed(4)
    parts = [torch.randn(50, generator=draw) * size for size in (1e-6, 1.0, 300.0)]
    together = Histogram(bins=64)
    together.add_(torch.cat(parts))
    for order in itertools.permutations(parts):
        one_by_one = Histogram(bins=64)
        for part in order:
            one_by_one.add_(part)
        assert torch.equal(one_by_one.counts, together.counts) and one_by_one.limit == together.limit
        assert minmax_range(one_by_one) == minmax_range(together)


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-45], [3e38, -3e38], [5.0]])
def test_ranges_hold_zero_whatever_the_values(values: list[float]) -> None:
    histogram = Histogram(bins=64)
    histogram.add_(torch.tensor(values))
    for low, high in (minmax_range(histogram), percentile_range(histogram, 99), mse_range(histogram, 8)):
        assert low <= 0 <= high and math.isfinite(low) and math.isfinite(high)
        assert low >= min(histogram.low, 0) and high <= max(histogram.high, 0)


def test_a_percentile_leaves_its_share_outside_and_no_more() -> None:
    histogram = Histogram()
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(5))
    histogram.add_(x)
    low, high = percentile_range(histogram, 99)
    # Quantiles of a normal are 2.576; 500 draws beyond them are known to 4 %, 0.02 there; a bin is 0.004.
    assert low == pytest.approx(-2.576, abs=0.06) and high == pytest.approx(2.576, abs=0.06)
    assert (x < low).sum() <= 500 and (x > high).sum() <= 500
    assert percentile_range(histogram, 100) == minmax_range(histogram)


def test_zeros_count_as_values_of_a_percentile() -> None:
    histogram = Histogram()
    histogram.add_(torch.cat((torch.zeros(990), torch.linspace(1, 10, 10))))
    # 2 % of 1,000 on both sides together are 10 above, and all but a bin of them may go.
    assert percentile_range(histogram, 98)[1] < 0.01
    assert percentile_range(histogram, 99.9)[1] == 10.0


def rounded_error(x: Tensor, low: float, high: float, bits: int) -> float:
    """Mean squared error of unsigned integers between low and high."""
    grid = Grid(bits, None, symmetric=False)
    steps = steps_between(torch.tensor([[low]]), torch.tensor([[high]]), grid)
    near = dequantize(round_to(x[None], steps, grid), steps, grid)
    return float((near - x).double().square().mean())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["normal", "relu", "shifted", "outlier"])
def test_the_range_of_least_error_is_no_worse_than_any_other(kind: str, bits: int) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(6))
    if kind == "relu":
        x = x.relu()
    elif kind == "shifted":
        x = x * 0.1 + 3
    elif kind == "outlier":
        x[:3] = 50.0
    histogram = Histogram()
    histogram.add_(x)
    found = rounded_error(x, *mse_range(histogram, bits), bits)
    # Values lie evenly in bins only nearly, and the search goes in steps of 13 %.
    assert found <= 1.02 * rounded_error(x, *minmax_range(histogram), bits)
    for low, high in itertools.product((0.25, 0.5, 0.75, 1), repeat=2):
        widest = minmax_range(histogram)
        assert found <= 1.1 * rounded_error(x, low * widest[0], high * widest[1], bits)
    if kind == "outlier" and bits == 4:
        assert mse_range(histogram, bits)[1] < 25


def test_what_cannot_be_counted_is_refused() -> None:
    histogram = Histogram()
    for choose in (minmax_range, lambda h: percentile_range(h, 99), lambda h: mse_range(h, 8)):
        with pytest.raises(StageError, match="there are no activations"):
            choose(histogram)
    with pytest.raises(StageError, match="NaN"):
        histogram.add_(torch.tensor([1.0, float("nan")]))
    assert histogram.total == 0
    histogram.add_(torch.ones(1))
    with pytest.raises(StageError, match="percentile: 0.99; allowed: above 50"):
        percentile_range(histogram, 0.99)
    with pytest.raises(ValueError, match="bins: 6; allowed: multiples of 4"):
        Histogram(bins=6)


def test_groups_of_the_helper_here_are_those_of_the_grid() -> None:
    weight, grid = torch.randn(2, 33, generator=torch.Generator().manual_seed(7)), Grid(4, 16)
    zero = Steps(torch.full((2, 3), 1e9), None)
    # All weights round to 0, so the loss is their square sum; float32 against float64.
    torch.testing.assert_close(
        losses(weight, zero, grid).float(), grouped(weight, grid).square().sum(2), rtol=1e-5, atol=0
    )
