"""Bias correction: the mean output stays what it was."""

from __future__ import annotations

import pytest
import torch

from compress.errors import StageError
from compress.quantize.integers.bias import corrected_bias
from compress.quantize.integers.grid import Grid, dequantize, fit_steps, round_to


def test_the_bias_takes_back_what_the_mean_input_loses() -> None:
    exact, quantized = torch.tensor([[1.0, 2.0], [0.5, 0.0]]), torch.tensor([[0.5, 2.0], [1.0, -1.0]])
    mean = torch.tensor([4.0, 10.0])
    assert corrected_bias(exact, quantized, torch.tensor([1.0, 1.0]), mean).tolist() == [3.0, 9.0]


def test_a_layer_without_bias_gets_the_difference_alone() -> None:
    assert corrected_bias(torch.ones(1, 1), torch.zeros(1, 1), None, torch.tensor([3.0])).tolist() == [3.0]


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (1, 33), (7, 33)])
def test_the_mean_output_of_quantized_weights_is_that_of_the_exact_ones(outputs: int, inputs: int) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=draw)
    bias = torch.randn(outputs, generator=draw)
    x = torch.randn(50, inputs, generator=draw) + torch.randn(inputs, generator=draw)
    grid = Grid(3, 16)
    steps = fit_steps(weight, grid)
    near = dequantize(round_to(weight, steps, grid), steps, grid)
    mended = corrected_bias(weight, near, bias, x.mean(0))
    assert mended.dtype == torch.float32
    wanted = (x.double() @ weight.double().T + bias.double()).mean(0)
    before = (x.double() @ near.double().T + bias.double()).mean(0)
    after = (x.double() @ near.double().T + mended.double()).mean(0)
    # The mean input and the bias are float32: 2^-24 of sums of 33 numbers of size 1.
    torch.testing.assert_close(after, wanted, rtol=0, atol=1e-5)
    assert inputs == 1 or (before - wanted).abs().max() > 1e-3


def test_weights_that_quantize_exactly_leave_the_bias_as_it_is() -> None:
    weight, bias = torch.tensor([[7.0, -3.0]]), torch.tensor([0.1])
    assert torch.equal(corrected_bias(weight, weight, bias, torch.tensor([1e6, 1.0])), bias)


def test_what_is_not_a_number_is_refused() -> None:
    one, bad = torch.ones(1, 1), torch.full((1, 1), float("nan"))
    with pytest.raises(StageError, match="NaN"):
        corrected_bias(bad, one, None, one[0])
    with pytest.raises(StageError, match="quantized weights contain NaN"):
        corrected_bias(one, bad, None, one[0])
    with pytest.raises(StageError, match="mean inputs contain NaN"):
        corrected_bias(one, one, None, bad[0])
    with pytest.raises(StageError, match="biases contain NaN"):
        corrected_bias(one, one, bad[0], one[0])
