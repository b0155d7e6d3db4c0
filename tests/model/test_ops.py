"""The quantized layers in eager torch: hand-computed values, shapes, refusals, real encoders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.model.layers.convolution import Int8StaticConv, edges_of
from compress.model.layers.grouped import Int4Embedding, Int4Linear, Int8GroupLinear
from compress.model.layers.int8 import (
    Int8Embedding,
    Int8FittedLinear,
    Int8Linear,
    Int8StaticLinear,
    Int8TensorLinear,
)
from compress.model.layers.kinds import QUANTIZED_KINDS
from compress.model.layers.quantized import QuantizedModule
from compress.model.ops import linear as ops

SHAPES = {
    "int8_linear": {"in_features": 6, "out_features": 3, "bias": True},
    "int8_fitted_linear": {
        "in_features": 6,
        "out_features": 3,
        "bias": True,
        "zero_point": 20,
        "has_factors": True,
    },
    "int8_tensor_linear": {"in_features": 6, "out_features": 3, "bias": True},
    "int8_static_linear": {"in_features": 6, "out_features": 3, "bias": True},
    "int8_static_conv": {
        "in_channels": 6,
        "out_channels": 3,
        "kernel_size": [3, 2],
        "stride": [2, 1],
        "padding": [0, 1, 1, 2],
        "dilation": [1, 2],
        "groups": 3,
        "bias": True,
    },
    "int4_linear": {
        "in_features": 33,
        "out_features": 3,
        "bias": False,
        "group_size": 16,
        "zero_points": False,
        "int8_activations": True,
    },
    "int8_group_linear": {
        "in_features": 33,
        "out_features": 3,
        "bias": True,
        "group_size": 16,
        "zero_points": True,
        "int8_activations": False,
    },
    "int8_lstm": {
        "input_size": 6,
        "hidden_size": 3,
        "num_layers": 1,
        "bias": True,
        "batch_first": False,
        "bidirectional": True,
    },
    "int8_embedding": {"num_embeddings": 5, "embedding_dim": 6, "padding_idx": 0},
    "int4_embedding": {
        "num_embeddings": 5,
        "embedding_dim": 33,
        "padding_idx": None,
        "group_size": 16,
        "zero_points": True,
    },
}
OPERATORS = {
    "int8_linear": "int8_dynamic_linear",
    "int4_linear": "weight_only_linear",
    "int8_group_linear": "weight_only_linear",
}


def test_four_bit_numbers_come_back_from_their_bytes_low_nibble_first() -> None:
    values = torch.tensor([[0, 15, 8, 7, 3]])
    packed = ops.pack_int4(values)
    assert packed.tolist() == [[0xF0, 0x78, 0x03]]
    assert ops.unpack_int4(packed).tolist() == [[0, 15, 8, 7, 3, 0]], "an odd one out is paired with 0"


def test_int8_linear_equals_a_product_computed_by_hand() -> None:
    # Token scale 255 / 127.5 = 2, so q = [round(1.5), 127 (128 clipped), -100] = [2, 127, -100].
    layer = Int8Linear(3, 1).fill_(
        torch.tensor([[10, 1, 2]], dtype=torch.int8), torch.tensor([0.5]), bias=torch.tensor([1.0])
    )
    assert layer(torch.tensor([[3.0, 255.0, -200.0]])).item() == (2 * 10 + 127 - 200) * 0.5 * 2 + 1


def test_int8_tensor_linear_takes_one_range_over_all_tokens() -> None:
    # The range is [-51, 204], its scale 1 and zero point 51; 2.5 is rounded to even.
    layer = Int8TensorLinear(2, 1).fill_(
        torch.tensor([[10, 1]], dtype=torch.int8), torch.tensor([0.5]), bias=torch.tensor([1.0])
    )
    x = torch.tensor([[[2.5, 204.0]], [[-51.0, 0.0]]])
    assert layer(x).flatten().tolist() == [(2 * 10 + 204) * 0.5 + 1, -510 * 0.5 + 1]
    assert layer(torch.zeros(1, 2)).item() == 1.0


def test_int8_fitted_linear_multiplies_inputs_and_rounds_around_its_zero_point() -> None:
    # Multiplied: [401, -55.5]. 200.5 steps fit above 55, and 55.5 below: a step is max(401 / 200.5, 1).
    layer = Int8FittedLinear(2, 1).fill_(
        torch.tensor([[10, 1]], dtype=torch.int8), torch.tensor([0.5]), bias=torch.tensor([1.0])
    )
    layer.fit_(torch.tensor([2.0, 1.0]), 55)
    assert layer(torch.tensor([[200.5, -55.5]])).item() == (200 * 10 - 28) * 2 * 0.5 + 1
    assert layer.activations(torch.tensor([[200.5, -55.5]]))[0].tolist() == [[255, 27]]
    assert layer(torch.zeros(1, 2)).item() == 1.0
    assert layer.dequantize().tolist() == [[10.0, 0.5]]
    assert layer.config() == {**SHAPES["int8_linear"], "in_features": 2, "out_features": 1} | {
        "zero_point": 55,
        "has_factors": True,
    }


def test_int8_static_linear_clips_what_is_out_of_its_range_and_adds_a_whole_bias() -> None:
    # The scale is 2 and the zero point 50: q - 50 = [round(1.5), 205 at the most].
    layer = Int8StaticLinear(2, 1).range_(-100.0, 410.0)
    layer.fill_(torch.tensor([[10, 1]], dtype=torch.int8), torch.tensor([0.5]), bias=torch.tensor([3.2]))
    assert layer.bias is not None and layer.bias.tolist() == [3]
    assert layer(torch.tensor([[3.0, 1000.0]])).item() == 2 * 10 + 205 + 3
    assert layer(torch.tensor([[-1000.0, 0.0]])).item() == -50 * 10 + 3
    with pytest.raises(ValueError, match=r"contain 0; got \[1, 2\]"):
        layer.range_(1, 2)


def test_int8_static_conv_rounds_inputs_and_outputs_and_pads_with_exact_zeros() -> None:
    # Inputs: scale 2, zero point 50, so 3 is 2 (to even) and 410 is the largest, 205. Outputs: scale 100, in
    # [-2500, 23000]. Products are in steps of 2 * 0.5, and so is the bias: 3.2 is 3.
    layer = Int8StaticConv(1, 1, [2], [1], [1, 0], [1]).ranges_((-100, 410), (-2500, 23000))
    layer.fill_(torch.tensor([[10, 100]], dtype=torch.int8), torch.tensor([0.5]), torch.tensor([3.2]))
    found = layer(torch.tensor([[[3.0, 1000.0, -1000.0]]]))
    # 0 * 10 + 2 * 100 + 3 = 203; 2 * 10 + 205 * 100 + 3 = 20523; 205 * 10 - 50 * 100 + 3 = -2947, clipped
    assert found.tolist() == [[[200, 20500, -2500]]]


def test_padding_is_known_by_number_and_by_name() -> None:
    assert edges_of(nn.Conv2d(1, 1, 3, padding=(1, 2))) == [1, 2, 1, 2]
    assert edges_of(nn.Conv2d(1, 1, (3, 4), padding="same", dilation=(2, 1))) == [2, 1, 2, 2]
    assert edges_of(nn.Conv1d(1, 1, 3, padding="valid")) == [0, 0]


def test_a_bias_beyond_32_bits_widens_the_steps_of_its_row_alone() -> None:
    layer = Int8StaticLinear(2, 2).range_(-1, 1)
    scale = torch.tensor([1e-12, 0.5])
    layer.fill_(torch.tensor([[3, 0], [3, 1]], dtype=torch.int8), scale, bias=torch.tensor([5.0, 5.0]))
    found = layer(torch.zeros(1, 2)).flatten()
    assert found[0].item() == pytest.approx(5, rel=1e-6) and found[1].item() == pytest.approx(5, abs=2e-3)
    assert layer.scale[1] == 0.5 and layer.qdata[:, 1].tolist() == [3, 1]


@pytest.mark.parametrize(("cls", "zero"), [(Int4Linear, 8), (Int8GroupLinear, 128)])
def test_groups_have_scales_and_zero_points_of_their_own(cls: type[QuantizedModule], zero: int) -> None:
    values = torch.zeros(1, 48, dtype=torch.int8)
    values[0, 0], values[0, 16], values[0, 32] = 3, -4, 5
    scale = torch.tensor([[1.0, 10.0, 100.0]])
    x = torch.ones(1, 40)
    plain = cls(40, 1, False, group_size=16).fill_(values, scale)
    assert plain(x).item() == 3 - 40 + 500
    points = torch.tensor([[zero, zero + 1, zero - 1]])
    shifted = cls(40, 1, False, group_size=16, zero_points=True).zero_points_(points)  # type: ignore[attr-defined]
    shifted.fill_(values.to(torch.int16) + zero, scale)
    assert shifted(x).item() == 3 - 10 * (4 + 16) + 100 * (5 + 8), "16 whole and 8 real inputs are shifted"


def test_groups_are_rounded_by_their_own_largest_magnitude() -> None:
    x = torch.tensor([[127.0, 0.6, -3.4, 0.0, 0.0, 0.0, 1.27, 0.004]])
    wanted = torch.tensor([[127.0, 1.0, -3.0, 0.0, 0.0, 0.0, 1.27, 0.0]])
    torch.testing.assert_close(ops.rounded_groups(x, 3), wanted)


def test_a_token_of_zeros_gives_the_bias() -> None:
    layer = Int8Linear(4, 2).fill_(
        torch.full((2, 4), 9, dtype=torch.int8), torch.ones(2), bias=torch.tensor([3.0, -1])
    )
    assert layer(torch.zeros(1, 1, 4)).tolist() == [[[3.0, -1.0]]]


def test_int8_answers_do_not_depend_on_batch_mates() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(8, 4, bias=False).fill_(
        torch.randint(-127, 128, (4, 8), dtype=torch.int8), torch.rand(4)
    )
    x = torch.randn(3, 5, 8)
    loud = torch.cat([x, 1e4 * torch.randn(1, 5, 8)])
    assert torch.equal(layer(loud)[:3], layer(x))


def test_the_large_sums_of_the_float_route_equal_the_integer_route() -> None:
    q = torch.randint(-128, 128, (3, 4000)).float()
    w = torch.randint(-127, 128, (4000, 5), dtype=torch.int8)
    assert torch.equal((q.double() @ w.double()).float(), ops._integer_product(q, w))


@pytest.mark.parametrize("kind", SHAPES)
def test_an_empty_layer_takes_the_state_of_a_filled_one(kind: str) -> None:
    cls = QUANTIZED_KINDS[kind]
    filled = cls(**SHAPES[kind])
    torch.manual_seed(1)
    for buffer in filled.buffers():
        buffer.copy_(torch.randint(0, 100, buffer.shape).to(buffer.dtype))
    rebuilt = QUANTIZED_KINDS[filled.kind](**filled.config())
    rebuilt.load_state_dict(filled.state_dict())
    assert torch.equal(rebuilt.dequantize(), filled.dequantize())
    assert not list(rebuilt.parameters())


@pytest.mark.parametrize("kind", SHAPES)
def test_dequantize_has_the_shape_of_the_float_weight(kind: str) -> None:
    shape = SHAPES[kind]
    layer = QUANTIZED_KINDS[kind](**shape)
    expected = (5, shape.get("embedding_dim"))
    if "linear" in kind:
        expected = (shape["out_features"], shape["in_features"])
    elif "conv" in kind:
        expected = (3, 2, 3, 2)
    elif "lstm" in kind:  # of both directions, in one row
        expected = (2 * 12 * (6 + 3),)
    assert layer.dequantize().shape == expected
    assert layer.dequantize().count_nonzero() == 0, "an empty layer holds zeros"


@pytest.mark.parametrize("kind", SHAPES)
def test_fake_and_eager_agree_on_shape_and_type(kind: str) -> None:
    layer = QUANTIZED_KINDS[kind](**SHAPES[kind])
    x = torch.tensor([[0, 4, 1]])
    if "linear" in kind:
        x = torch.randn(2, 3, SHAPES[kind]["in_features"])
    elif "conv" in kind:
        x = torch.randn(2, 6, 7, 8)
    elif "lstm" in kind:
        x = torch.randn(5, 2, 6)
    called: list[tuple[object, tuple[object, ...]]] = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function.namespace == "modelpress":
                called.append((function, args))
            return function(*args, **(kwargs or {}))

    with Record():
        layer(x)
    ((operator, arguments),) = called
    assert str(operator) == f"modelpress.{OPERATORS.get(kind, kind)}.default"
    torch.library.opcheck(operator, arguments)


def test_a_backward_pass_through_a_quantized_layer_raises() -> None:
    x = torch.randn(2, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match="autograd"):
        Int8Linear(6, 3)(x).sum().backward()


def test_filling_with_the_wrong_shape_or_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch.int8.*\[4, 2\].*2\]"):
        Int8Linear(4, 2, bias=False).fill_(torch.zeros(2, 3, dtype=torch.int8), torch.ones(2))
    with pytest.raises(ValueError, match="bias must be none"):
        Int8Linear(4, 2, bias=False).fill_(
            torch.zeros(2, 4, dtype=torch.int8), torch.ones(2), bias=torch.ones(2)
        )


def test_reading_the_float_weight_says_how_to_keep_it() -> None:
    with pytest.raises(AttributeError, match="Int8Embedding.*`skip`"):
        _ = Int8Embedding(4, 4).weight
    assert not hasattr(Int4Linear(4, 4), "weight")


def _replace_(model: nn.Module, embedding: type[QuantizedModule], linear: type[QuantizedModule]) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Embedding):
            new: nn.Module = embedding(module.num_embeddings, module.embedding_dim, module.padding_idx)
        elif isinstance(module, nn.Linear):
            new = linear(module.in_features, module.out_features, module.bias is not None)
        else:
            continue
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, new)


@pytest.mark.parametrize("layers", [(Int8Embedding, Int8Linear), (Int4Embedding, Int4Linear)])
@pytest.mark.parametrize("family", ["Bert", "DistilBert", "Roberta", "Electra"])
def test_encoders_of_transformers_run_with_quantized_layers(
    family: str, layers: tuple[type[QuantizedModule], type[QuantizedModule]]
) -> None:
    import transformers

    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    if family == "DistilBert":
        sizes = {"vocab_size": 50, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    _replace_(model, *layers)
    ids = torch.randint(5, 50, (2, 7))
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert logits.shape == (2, 2)
