"""The LSTM of int8 in eager torch: by hand, against nn.LSTM, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model.counts import weight_counts
from compress.model.layers.recurrent import Int8LSTM
from compress.model.ops.recurrent import int8_lstm
from compress.quantize.integers.grid import Grid
from compress.quantize.recurrent import int8_lstm_of

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "three layers": {"num_layers": 3},
    "two ways": {"bidirectional": True},
    "all at once": {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
}


def _pair(**form: Any) -> tuple[nn.LSTM, Int8LSTM]:
    torch.manual_seed(0)
    layer = nn.LSTM(5, 8, **form).eval()
    return layer, int8_lstm_of("lstm", layer, Grid(8, None), "rtn")


def _all(answer: tuple[Tensor, tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [answer[0], *answer[1]]


def test_one_step_of_one_unit_by_hand() -> None:
    # x = 2 is 255 steps of 2/255; h0 = -0.5 is 255 steps of 0.5/255 below zero: both stand for themselves.
    read, told = torch.tensor([[[2, 4, 6, 8]]]), torch.tensor([[[1, 2, 3, 4]]])  # in, out, forget, cell
    y, h, c = int8_lstm(
        torch.tensor([[[2.0]]]),
        read.to(torch.int8),
        told.to(torch.int8),
        torch.full((1, 4), 0.25),
        torch.full((1, 4), 0.1),
        torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.01, 0.02, 0.03, 0.04]]),
        torch.tensor([[[-0.5]]]),
        torch.tensor([[[0.7]]]),
    )
    gates = [2 * 0.25 * r - 0.5 * 0.1 * t + 0.11 * t for r, t in zip((2, 4, 6, 8), (1, 2, 3, 4), strict=True)]
    enter, leave, keep = (1 / (1 + math.exp(-gate)) for gate in gates[:3])
    cell = 0.7 * keep + enter * math.tanh(gates[3])
    # float32: a few times 1e-7.
    assert float(c) == pytest.approx(cell, rel=1e-6)
    assert float(h) == float(y) == pytest.approx(math.tanh(cell) * leave, rel=1e-6)


def test_activations_are_rounded_to_steps_of_their_whole_range() -> None:
    # From -1 to 1.55 there are 255 steps of 0.01, and zero is step 100: 0.004 is rounded to 0, 0.006 to 0.01.
    x = torch.tensor([-1.0, 1.55, 0.004, 0.006]).reshape(4, 1, 1)
    weight = torch.tensor([[[0, 0, 0, 100]]], dtype=torch.int8)
    none = torch.zeros(1, 1, 4, dtype=torch.int8)
    ones = torch.ones(1, 4)
    shut = torch.tensor([[0.0, 100, -100, 0, 0, 0, 0, 0]])  # all leaves, nothing is kept
    y, _, _ = int8_lstm(x, weight, none, ones, ones, shut, None, None)
    expected = [math.tanh(0.5 * math.tanh(100 * value)) for value in (-1.0, 1.55, 0.0, 0.01)]
    torch.testing.assert_close(y.flatten(), torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_it_gives_what_an_lstm_gives_but_for_rounding(form: str) -> None:
    layer, new = _pair(**FORMS[form])
    x = torch.randn(4, 3, 5)
    states = 3 if not new.batch_first else 4
    hx = tuple(torch.randn(new.directions * new.num_layers, states, 8) for _ in range(2))
    for given in (None, hx):
        for found, wanted in zip(_all(new(x, given)), _all(layer(x, given)), strict=True):
            assert found.shape == wanted.shape
            # Half a step of 255 for each of 13 activations and weights; outputs are up to 1.
            torch.testing.assert_close(found, wanted, rtol=0, atol=0.03)
            assert not torch.equal(found, wanted)


@pytest.mark.parametrize("form", FORMS)
def test_a_single_sequence_is_a_batch_of_one_without_its_dimension(form: str) -> None:
    layer, new = _pair(**FORMS[form])
    x, state = torch.randn(4, 5), torch.randn(new.directions * new.num_layers, 8)
    for given in (None, (state, -state)):
        for found, wanted in zip(_all(new(x, given)), _all(layer(x, given)), strict=True):
            assert found.shape == wanted.shape
            torch.testing.assert_close(found, wanted, rtol=0, atol=0.03)


@pytest.mark.parametrize("form", FORMS)
def test_its_weights_are_those_of_the_lstm_to_half_a_step(form: str) -> None:
    layer, new = _pair(**FORMS[form])
    names = [name for name in layer._flat_weights_names if name.startswith("weight")]
    assert [name for name, _, _ in new.weights()] == names
    flat = torch.cat([getattr(layer, name).detach().flatten() for name in names])
    off = (new.dequantize() - flat).abs()
    # A scale is the largest weight of its row over 127.5, and the largest weight may be clipped by half
    # a step more.
    assert float(off.max()) <= 1.01 * float(flat.abs().max()) / 127.5
    assert weight_counts(new)[0] == weight_counts(layer)[0]


def test_a_model_may_ask_it_what_it_asks_an_lstm() -> None:
    layer, new = _pair(num_layers=2, bidirectional=True)
    for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional"):
        assert getattr(new, name) == getattr(layer, name)
    new.flatten_parameters()
    with pytest.raises(AttributeError, match="Int8LSTM has no float weight.*`skip`"):
        _ = new.weight_ih_l0


def test_packed_sequences_are_refused_in_plain_words() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 5), torch.randn(2, 5)])
    with pytest.raises(ModelError, match="PackedSequence"):
        _pair()[1](packed)


def test_integers_of_another_shape_or_type_are_refused() -> None:
    new = Int8LSTM(5, 8)
    with pytest.raises(ValueError, match=r"qdata_ih_l0.*int8.*int8 \[32.*8\]"):
        new.fill_part_("ih", 0, 0, torch.zeros(32, 8, dtype=torch.int8), torch.ones(32))
    with pytest.raises(ValueError, match=r"not torch.int32 \[32, 5\]"):
        new.fill_part_("ih", 0, 0, torch.zeros(32, 5, dtype=torch.int32), torch.ones(32))


def test_sequences_of_a_batch_share_their_range() -> None:
    """What a kernel with one scale a call costs, and why the stage says so."""
    new = _pair()[1]
    x = torch.randn(4, 2, 5)
    loud = torch.cat([x, 100 * torch.randn(4, 1, 5)], dim=1)
    assert not torch.equal(new(loud)[0][:, :2], new(x)[0])
