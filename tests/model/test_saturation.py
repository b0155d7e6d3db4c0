"""What is lost where pairs of products are added in 16 bits: by hand, then against a plain loop."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress.data import from_arrays
from compress.model.layers.convolution import Int8StaticConv
from compress.model.layers.int8 import Int8FittedLinear, Int8Linear, Int8StaticLinear, Int8TensorLinear
from compress.model.saturation import AtRisk, pairs_at_risk, saturation_risk
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.stage import Context


def _column(*weights: int) -> torch.Tensor:
    return torch.tensor(weights, dtype=torch.int8).unsqueeze(1)


@pytest.mark.parametrize(
    ("first", "second", "risk"),
    [
        (64, 64, False),  # 255 x 128 = 32,640, within 32,767
        (65, 64, True),  # 255 x 129 = 32,895
        (-64, -64, False),
        (-64, -65, True),  # -32,895 is below -32,768
        (127, -128, False),  # one product at a time counts: 255 x 127 = 32,385 and 255 x -128 = -32,640
        (127, 2, True),
        (-128, 0, False),
    ],
)
def test_a_pair_is_at_risk_where_its_products_of_one_sign_leave_int16(first, second, risk):
    assert pairs_at_risk(_column(first, second)).tolist() == [[risk]]


def test_pairs_are_inputs_of_even_and_next_odd_number_and_an_odd_one_out_is_alone():
    # 100 + 100 is at risk as a pair (0, 1); as neighbours (1, 2) they are not added in 16 bits.
    assert pairs_at_risk(_column(100, 100, 100)).tolist() == [[True], [False]]
    assert pairs_at_risk(_column(0, 100, 100)).tolist() == [[False], [False]]


def test_what_is_lost_is_the_part_beyond_int16():
    activations = torch.tensor([[255, 255], [100, 100], [0, 255]])
    # (100 + 100) x 255 = 51,000, which is 18,233 above 32,767; 20,000 and 25,500 are within.
    assert AtRisk.of(_column(100, 100)).lost(activations).tolist() == [[18233], [0], [0]]
    assert AtRisk.of(_column(-100, -100)).lost(activations).tolist() == [[-18232], [0], [0]]


def test_losses_equal_those_of_a_plain_loop_in_chunks_too(monkeypatch):
    monkeypatch.setattr("compress.model.saturation._CHUNK", 7)
    torch.manual_seed(0)
    activations = torch.randint(128, 256, (5, 9))
    qdata = torch.randint(60, 128, (9, 4), dtype=torch.int8) * torch.tensor([1, -1, 1, -1], dtype=torch.int8)
    expected = torch.zeros(5, 4, dtype=torch.int32)
    for t in range(5):
        for o in range(4):
            for i in range(0, 9, 2):
                products = [int(activations[t, j]) * int(qdata[j, o]) for j in range(i, min(i + 2, 9))]
                expected[t, o] += sum(products) - min(max(sum(products), -(2**15)), 2**15 - 1)
    found = AtRisk.of(qdata).lost(activations)
    assert torch.equal(found, expected)
    assert (found > 0).any() and (found < 0).any()


@pytest.mark.parametrize("make", [Int8Linear, Int8FittedLinear, Int8TensorLinear, Int8StaticLinear])
def test_activations_are_the_integers_that_the_layer_multiplies(make):
    torch.manual_seed(0)
    layer = make(6, 3)
    if isinstance(layer, Int8StaticLinear):
        layer.range_(-1.5, 2.0)
    layer.fill_(torch.randint(-127, 128, (3, 6), dtype=torch.int8), torch.rand(3) / 100, torch.randn(3))
    x = torch.randn(2, 4, 6)
    integers, step, zero = layer.activations(x)
    assert integers.min() >= 0 and integers.max() <= 255
    expected = ((integers - zero) * step) @ (layer.qdata.float() * layer.scale)
    bias = layer.bias if layer.bias.is_floating_point() else layer.bias * layer.scale * layer.input_scale
    # The layer sums integers exactly and this floats: 24 bits of the largest product of 6.
    assert torch.allclose(layer(x), expected + bias, atol=1e-4)


def _model_and_data():
    torch.manual_seed(0)
    x = torch.rand(64, 32).numpy()
    rows = {"features": x, "labels": (x.sum(1) > 16).astype("int64")}
    data = from_arrays({k: v[:40] for k, v in rows.items()}, {k: v[40:] for k, v in rows.items()})

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = nn.Linear(32, 16), nn.Linear(16, 2)

        def forward(self, features):
            return self.out(self.hidden(features).relu())

    model = Model()
    with torch.no_grad():
        model.hidden.weight.fill_(0.5)  # all at the end of the range: every pair is 127 + 127
    return model, data


def test_the_risk_of_a_model_counts_pairs_sums_and_answers():
    model, data = _model_and_data()
    int8 = (
        Int8Dynamic()
        .apply(model, Context(task=data.task, train=data.train, validation=data.validation))
        .model
    )
    before = copy.deepcopy(int8.state_dict())
    found = saturation_risk(int8, data.validation, data.task)
    assert found is not None
    assert (found.layers, found.pairs, found.outputs) == (2, 16 * 16 + 8 * 2, 18)
    assert found.pairs_at_risk >= 16 * 16  # all of the first layer
    assert found.outputs_at_risk >= 16
    assert (found.rows, found.sums) == (24, 24 * 18)
    # Inputs in [0, 1] are integers from 128 on: 2 x 127 x 129 is beyond int16 already, so all 16 lose.
    assert found.sums_cut >= 24 * 16
    assert 0 <= found.answers_changed <= 24
    assert all(torch.equal(before[name], value) for name, value in int8.state_dict().items())
    assert not any(module._forward_hooks for module in int8.modules())


def test_reduce_range_leaves_no_pair_at_risk_and_no_row_is_needed():
    model, data = _model_and_data()
    context = Context(task=data.task, train=data.train, validation=data.validation)
    found = saturation_risk(
        Int8Dynamic(reduce_range=True).apply(model, context).model, data.validation, data.task
    )
    assert found is not None
    assert (found.pairs_at_risk, found.outputs_at_risk, found.rows, found.sums_cut) == (0, 0, 0, 0)
    assert found.layers == 2


def test_a_float_model_has_no_such_risk():
    model, data = _model_and_data()
    assert saturation_risk(model, data.validation, data.task) is None


@pytest.mark.parametrize(("weights", "at_risk"), [((100, 0, 0, 100), 1), ((64, 64, -64, -64), 0)])
def test_a_convolution_is_at_risk_if_any_two_weights_of_an_output_are_large(weights, at_risk):
    conv = Int8StaticConv(1, 1, [2, 2], [1, 1], [0, 0, 0, 0], [1, 1], bias=False)
    conv.qdata = torch.tensor(weights, dtype=torch.int8).reshape(1, 1, 2, 2)
    rows, task = _model_and_data()[1].validation, _model_and_data()[1].task
    found = saturation_risk(conv, rows, task)
    assert found is not None
    assert (found.layers, found.convolutions, found.convolutions_at_risk) == (0, 1, at_risk)
    assert found.rows == 0  # nothing is run where only convolutions could lose
