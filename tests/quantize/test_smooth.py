"""SmoothQuant of two layers: the same answers, and activations that are easier to quantize."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.errors import StageError
from compress.quantize.grid import Grid, dequantize, fit_steps, round_to
from compress.quantize.smooth import smooth_pair


def test_a_loud_channel_is_halved_and_its_reader_doubled() -> None:
    producer, bias = torch.tensor([[4.0, 8.0], [1.0, 1.0]]), torch.tensor([2.0, 3.0])
    consumer = torch.tensor([[1.0, 2.0], [-4.0, 0.5]])
    # sqrt(16 / 4) and sqrt(2 / 2)
    made = smooth_pair(producer, bias, consumer, torch.tensor([16.0, 2.0]))
    assert made[0].tolist() == [[2.0, 4.0], [1.0, 1.0]]
    assert made[1] is not None and made[1].tolist() == [1.0, 3.0]
    assert made[2].tolist() == [[2.0, 2.0], [-8.0, 0.5]]
    assert producer[0, 0] == 4 and consumer[0, 0] == 1, "what was given is left as it was"


def test_strength_says_which_side_is_evened_out() -> None:
    producer, consumer = torch.eye(2), torch.tensor([[2.0, 4.0]])
    loudness = torch.tensor([8.0, 1.0])
    even_weights = smooth_pair(producer, None, consumer, loudness, strength=0)[2]
    assert even_weights.abs().amax(0).tolist() == [1.0, 1.0]
    even_activations = smooth_pair(producer, None, consumer, loudness, strength=1)[0]
    assert (even_activations.diagonal() * loudness).tolist() == [1.0, 1.0]


def pair(
    inputs: int, channels: int, outputs: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    producer = torch.randn(channels, inputs, generator=draw, dtype=dtype)
    producer[0] *= 1e3
    return (
        producer,
        torch.randn(channels, generator=draw, dtype=dtype),
        torch.randn(outputs, channels, generator=draw, dtype=dtype),
        torch.randn(40, inputs, generator=draw, dtype=dtype),
    )


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("inputs", "channels", "outputs"), [(5, 33, 7), (1, 1, 1), (16, 2, 3)])
def test_answers_are_the_same_through_a_relu(
    strength: float, inputs: int, channels: int, outputs: int
) -> None:
    producer, bias, consumer, x = pair(inputs, channels, outputs, torch.float64)
    hidden = torch.relu(x @ producer.T + bias)
    a, b, c = smooth_pair(producer, bias, consumer, hidden.abs().amax(0), strength)
    assert b is not None and {a.dtype, b.dtype, c.dtype} == {torch.float64}
    again = torch.relu(x @ a.T + b) @ c.T
    # float64: each factor is divided by and multiplied with once, so only rounding of 1e-16 is left.
    torch.testing.assert_close(again, hidden @ consumer.T, rtol=1e-11, atol=1e-11)


def test_dead_channels_are_left_as_they_are() -> None:
    producer, bias, consumer, _ = pair(3, 4, 2, torch.float32)
    consumer[:, 1] = 0
    a, b, c = smooth_pair(producer, bias, consumer, torch.tensor([0.0, 5.0, 1e-30, 1e30]))
    assert b is not None
    assert torch.equal(a[:2], producer[:2]) and torch.equal(b[:2], bias[:2])
    assert torch.equal(c[:, :2], consumer[:, :2])
    assert all(torch.isfinite(each).all() for each in (a, b, c))


def test_smoothing_lowers_the_error_of_int8_activations_with_one_loud_channel() -> None:
    producer, bias, consumer, x = pair(16, 32, 8, torch.float32)

    def error(a: Tensor, b: Tensor, c: Tensor) -> float:
        """One scale for each token, as the int8 kernels take it; the weights stay exact."""
        hidden, per_token = x @ a.T + b, Grid(8, None)
        steps = fit_steps(hidden, per_token)
        near = dequantize(round_to(hidden, steps, per_token), steps, per_token)
        return float(((near - hidden) @ c.T).norm())

    plain = error(producer, bias, consumer)
    a, b, c = smooth_pair(producer, bias, consumer, (x @ producer.T + bias).abs().amax(0))
    assert b is not None
    # The loud channel is 1,000 times the others, and its factor about sqrt(1,000); half of that is left.
    assert error(a, b, c) < plain / 5


def test_what_cannot_be_done_is_refused() -> None:
    one, bad = torch.ones(1, 1), torch.full((1, 1), float("nan"))
    with pytest.raises(StageError, match="strength is 2; allowed: 0 to 1"):
        smooth_pair(one, None, one, one[0], strength=2)
    with pytest.raises(StageError, match="weights hold NaN"):
        smooth_pair(one, None, bad, one[0])
    with pytest.raises(StageError, match="activation maxima hold NaN"):
        smooth_pair(one, None, one, bad[0])
