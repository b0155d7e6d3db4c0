"""Layers of integers in training: they answer as what is exported, and gradients go through the rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compress.model.layers.int8 import Int8Linear
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.integers.choose import Integers, integers_of
from compress.quantize.integers.grid import Grid, Steps, dequantize, per_input
from compress.quantize.stage import QuantizeLayers
from compress.quantize.trainable import TrainableEmbedding, TrainableLinear
from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly

RANGE = (-1.5, 2.0)
STAGES = [
    Int8Dynamic(),
    Int8Dynamic(activations="tensor", reduce_range=True),
    Int8Static(),
    Int8WeightOnly(group_size=16),
    Int4WeightOnly(group_size=16),
    Int4WeightOnly(group_size=32, zero_points=True),
]


def trainable(stage: QuantizeLayers, layer: nn.Linear, integers: Integers | None = None) -> TrainableLinear:
    integers = integers or Integers(stage.grid(), *integers_of(layer.weight.detach(), stage.grid(), "rtn"))
    return TrainableLinear(
        layer, integers, layer.bias, lambda shape, whole, bias: stage.linear(shape, whole, bias, RANGE)
    )


def linear(inputs: int = 40, outputs: int = 6, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


def test_two_weights_by_hand() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.6, -70.0]]))
        layer.bias.fill_(1.0)
    grid = Grid(8, 16)
    integers = Integers(grid, torch.tensor([[1, -128]], dtype=torch.int8), Steps(torch.tensor([[0.5]]), None))
    learning = trainable(Int8WeightOnly(group_size=16), layer, integers)
    x = torch.tensor([[3.0, 2.0]], requires_grad=True)
    y = learning(x)
    # 0.6 is 1 step of 0.5; -70 would be -140 steps, and there are none beyond -128.
    assert y.item() == 3 * 0.5 + 2 * -64 + 1
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[0.5, -64.0]]
    assert learning.weight.grad is not None and learning.bias.grad is not None
    assert learning.weight.grad.tolist() == [[3.0, 0.0]], "what is clipped doesn't learn"
    assert learning.bias.grad.tolist() == [1.0]


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_the_answer_is_that_of_the_exported_layer_bit_for_bit(stage: QuantizeLayers, bias: bool) -> None:
    learning = trainable(stage, linear(bias=bias))
    x = torch.randn(2, 3, 40)
    for _ in range(3):
        assert torch.equal(learning(x), learning.exported()(x))
        with torch.no_grad():
            learning.weight.add_(0.02 * torch.randn_like(learning.weight))
    assert not list(learning.exported().parameters()), "nothing in it can be trained any more"


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_the_gradient_is_that_of_the_float_product_at_what_is_multiplied(stage: QuantizeLayers) -> None:
    learning = trainable(stage, linear())
    x = (torch.rand(2, 3, 40) - 0.4).requires_grad_()  # within the range of the static layer
    direction = torch.randn(2, 3, 6)
    (learning(x) * direction).sum().backward()
    exported = learning.exported()
    near = exported.dequantize().requires_grad_()
    multiplied = x.detach()
    if isinstance(exported, Int8Linear):
        whole, scale, zero_point = exported.activations(multiplied)
        multiplied = (whole - zero_point) * scale
    multiplied.requires_grad_()
    (F.linear(multiplied, near) * direction).sum().backward()
    # The same sums of 6 or 40 floats near 1, perhaps in another order.
    for found, wanted in ((x.grad, multiplied.grad), (learning.weight.grad, near.grad)):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(learning.bias.grad, direction.sum((0, 1)), rtol=1e-5, atol=1e-5)


def test_what_a_fixed_range_clips_gives_no_gradient() -> None:
    learning = trainable(Int8Static(), linear())
    x = torch.rand(4, 40)
    x[0, 0], x[1, 1], x[2, 2] = 2.5, -1.7, 1.9  # the range ends at 2.0 and -1.5
    x.requires_grad_()
    learning(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0] == 0 and x.grad[1, 1] == 0 and x.grad[2, 2] != 0
    assert int((x.grad == 0).sum()) == 2


def test_it_begins_with_the_integers_that_were_chosen_also_where_rounding_gives_others() -> None:
    layer, grid = linear(), Grid(4, 16)
    values, steps = integers_of(layer.weight.detach(), grid, "rtn")
    values[0, 0] += 1 if values[0, 0] < 0 else -1  # as an algorithm that makes up for another's rounding
    learning = trainable(Int4WeightOnly(group_size=16), layer, Integers(grid, values, steps))
    assert torch.equal(learning.exported().dequantize(), dequantize(values, steps, grid))
    changed = learning.weight.detach() != layer.weight.detach()
    assert changed[0, 0] and int(changed.sum()) == 1, "the others keep their digits"


def test_pruned_weights_stay_zero() -> None:
    layer = linear()
    with torch.no_grad():
        layer.weight[:, ::2] = 0
    learning = trainable(Int8Dynamic(), layer)
    optimizer = torch.optim.AdamW(learning.parameters(), lr=0.01)
    for _ in range(3):
        learning(torch.randn(8, 40)).square().sum().backward()
        optimizer.step()
    assert (learning.weight[:, ::2] == 0).all() and (learning.weight[:, 1::2] != layer.weight[:, 1::2]).any()


def test_no_weight_is_taken_for_pruned_because_its_integer_is_zero() -> None:
    learning = trainable(Int4WeightOnly(group_size=16), linear())
    learning(torch.randn(8, 40)).square().sum().backward()
    assert learning.weight.grad is not None
    zeros = learning.exported().dequantize() == 0
    assert zeros.any() and (learning.weight.grad[zeros] != 0).all()


def table_of(stage: QuantizeLayers, layer: nn.Embedding) -> TrainableEmbedding:
    return TrainableEmbedding(layer, stage.table("table", layer.weight.detach()), stage.embedding)


@pytest.mark.parametrize("stage", [Int8Dynamic(), STAGES[-2], STAGES[-1]], ids=str)
def test_a_table_answers_as_its_exported_one_and_the_rows_that_were_asked_for_learn(
    stage: QuantizeLayers,
) -> None:
    torch.manual_seed(0)
    learning = table_of(stage, nn.Embedding(9, 40, padding_idx=0))
    ids = torch.tensor([[1, 2, 2], [8, 0, 1]])
    for _ in range(2):
        assert torch.equal(learning(ids), learning.exported()(ids))
        with torch.no_grad():
            learning.weight.add_(0.02 * torch.randn_like(learning.weight))
    with torch.no_grad():
        learning.weight[1, 3] = 1000.0  # far outside of the row's range
    direction = torch.randn(2, 3, 40)
    (learning(ids) * direction).sum().backward()
    wanted = torch.zeros(9, 40).index_add_(0, ids.flatten(), direction.flatten(0, 1))
    wanted[0] = 0  # padding doesn't learn
    gradient: Any = learning.weight.grad
    assert gradient[1, 3] == 0 and wanted[1, 3] != 0
    step = per_input(learning.scale, 40, stage.table("table", learning.weight.detach()).grid)
    inside = (learning.weight - learning.exported().dequantize()).abs() <= 0.5001 * step
    # Sums of at most two numbers: exact.
    assert torch.equal(gradient, wanted * inside)
    assert inside[[1, 2, 8]].float().mean() > 0.95, "moved by 0.02, few have left their range"


def test_under_autocast_it_answers_in_float32_from_bf16() -> None:
    learning = trainable(Int8Dynamic(), linear())
    x = torch.randn(3, 40).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = learning(x)
    assert torch.equal(y, learning.exported()(x.float()))
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16


def _torchao() -> Any:
    from compress.quantize.integers.torchao_weights import _quiet

    with _quiet():
        import torchao.quantization.qat as qat
        from torchao.quantization.granularity import PerGroup, PerToken
    return qat, PerGroup, PerToken


def test_torchaos_fake_quantizers_choose_other_numbers_than_our_layers_multiply() -> None:
    """Why they are not trained with: at the same weights and inputs they are up to a step away."""
    qat, per_group, per_token = _torchao()
    layer = linear(32, 6)
    learning = trainable(Int4WeightOnly(group_size=16), layer)
    weights = qat.IntxFakeQuantizer(qat.IntxFakeQuantizeConfig(torch.int4, per_group(16), is_symmetric=True))
    theirs, ours = weights(layer.weight.detach()), learning.exported().dequantize()
    assert (theirs - ours).abs().max() > 0.1 * learning.scale.min()
    x = torch.randn(5, 32)
    tokens = qat.IntxFakeQuantizer(qat.IntxFakeQuantizeConfig(torch.int8, per_token(), is_symmetric=False))
    exported = trainable(Int8Dynamic(), layer).exported()
    assert isinstance(exported, Int8Linear)
    whole, scale, zero_point = exported.activations(x)
    assert not torch.allclose(tokens(x), (whole - zero_point) * scale, atol=1e-4)


def test_with_our_scales_torchaos_rounding_is_ours() -> None:
    _torchao()
    from torchao.quantization.qat.utils import _fake_quantize_per_channel_group

    learning = trainable(Int4WeightOnly(group_size=16), linear(32, 6))
    with torch.no_grad():
        learning.weight.add_(0.02 * torch.randn_like(learning.weight))
    zeros = torch.zeros_like(learning.scale, dtype=torch.int32)
    theirs = _fake_quantize_per_channel_group(learning.weight.detach(), learning.scale, zeros, -8, 7, 16)
    # It multiplies by the inverse of a scale where we divide: a weight near a tie may go the other way.
    assert ((theirs - learning.exported().dequantize()).abs() > 1e-6).float().mean() < 0.01
