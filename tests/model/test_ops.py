"""The quantized layers in eager torch: hand-computed values, shapes, refusals, real encoders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.model import ops
from compress.model.quantized import (
    QUANTIZED_KINDS,
    Int4Embedding,
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    QuantizedModule,
)

SHAPES = {
    "int8_linear": {"in_features": 6, "out_features": 3, "bias": True},
    "int4_linear": {"in_features": 33, "out_features": 3, "bias": False},
    "int8_embedding": {"num_embeddings": 5, "embedding_dim": 6, "padding_idx": 0},
    "int4_embedding": {"num_embeddings": 5, "embedding_dim": 33, "padding_idx": None},
}


def test_four_bit_numbers_come_back_from_their_bytes_low_nibble_first() -> None:
    values = torch.tensor([[-8, 7, 0, -1]], dtype=torch.int8)
    packed = ops.pack_int4(values)
    assert packed.tolist() == [[0xF0, 0x78]]
    assert torch.equal(ops.unpack_int4(packed), values.float())


def test_int8_linear_equals_a_product_computed_by_hand() -> None:
    # Token scale 255 / 127.5 = 2, so q = [round(1.5), 127 (128 clipped), -100] = [2, 127, -100].
    layer = Int8Linear(3, 1).fill_(
        torch.tensor([[10, 1, 2]], dtype=torch.int8), torch.tensor([0.5]), bias=torch.tensor([1.0])
    )
    assert layer(torch.tensor([[3.0, 255.0, -200.0]])).item() == (2 * 10 + 127 - 200) * 0.5 * 2 + 1


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
    linear = "linear" in kind
    expected = (shape["out_features"], shape["in_features"]) if linear else (5, shape["embedding_dim"])
    assert layer.dequantize().shape == expected
    assert layer.dequantize().count_nonzero() == 0, "an empty layer holds zeros"


@pytest.mark.parametrize("kind", SHAPES)
def test_fake_and_eager_agree_on_shape_and_type(kind: str) -> None:
    layer = QUANTIZED_KINDS[kind](**SHAPES[kind])
    x = torch.randn(2, 3, SHAPES[kind]["in_features"]) if "linear" in kind else torch.tensor([[0, 4, 1]])
    buffers = dict(layer.named_buffers())
    if kind == "int8_linear":
        arguments = (x, buffers["qdata"], buffers["scale"], layer.bias)
        operator = torch.ops.modelpress.int8_dynamic_linear.default
    elif kind == "int4_linear":
        arguments = (x, buffers["qdata"], buffers["scale"], None)
        operator = torch.ops.modelpress.int4_linear.default
    elif kind == "int8_embedding":
        arguments = (x, buffers["qdata"], buffers["scale"])
        operator = torch.ops.modelpress.int8_embedding.default
    else:
        arguments = (x, buffers["qdata"], buffers["scale"], layer.embedding_dim)
        operator = torch.ops.modelpress.int4_embedding.default
    torch.library.opcheck(operator, arguments)


def test_a_backward_pass_through_a_quantized_layer_raises() -> None:
    x = torch.randn(2, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match="autograd"):
        Int8Linear(6, 3)(x).sum().backward()


def test_filling_with_the_wrong_shape_or_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"qdata takes torch.int8 \[4, 2\], not torch.int8 \[3, 2\]"):
        Int8Linear(4, 2, bias=False).fill_(torch.zeros(2, 3, dtype=torch.int8), torch.ones(2))
    with pytest.raises(ValueError, match="bias takes none"):
        Int8Linear(4, 2, bias=False).fill_(
            torch.zeros(2, 4, dtype=torch.int8), torch.ones(2), bias=torch.ones(2)
        )


def test_reading_the_float_weight_says_how_to_keep_it() -> None:
    with pytest.raises(AttributeError, match="name it under the stage's `skip`"):
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
