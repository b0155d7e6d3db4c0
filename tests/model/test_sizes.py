"""Quantized layers of every small size: weights against float ones, modules against products, and files.

Kernels have branches for sizes of 1, for the end of a vector and for odd ones out. So all numbers of inputs,
of outputs and of rows from 1 to 17 are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.export.lowering.operators import OPSET_VERSION
from compress.export.trace import trace
from compress.model.layers.convolution import Int8StaticConv, convolution_arguments
from compress.model.layers.grouped import Int4Linear, Int8GroupLinear, SharedEmbedding
from compress.model.layers.half import HalfConv, HalfLinear
from compress.model.layers.int8 import Int8Linear
from compress.model.layers.quantized import EmbeddingModule, LinearModule, QuantizedModule
from compress.model.observe.gram import Gram
from compress.model.ops import linear as ops
from compress.quantize.float16 import Float16
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.integers.choose import Algorithm, Integers, integers_of
from compress.quantize.integers.grid import Grid, dequantize
from compress.quantize.integers.torchao_weights import int8_by_row
from compress.quantize.recurrent import int8_lstm_of
from compress.quantize.stage import QuantizeLayers
from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly
from compress.stage import Context, Stage

SIZES = range(1, 18)
FEW = (1, 2, 3, 16, 17)
PAIRS = ((1, 1), (1, 17), (3, 5), (16, 1))
RANGE = (-3.0, 3.5)
STAGES: dict[str, Stage] = {
    "int8 per token": Int8Dynamic(),
    "int8 per call": Int8Dynamic(activations="tensor"),
    "int8 static": Int8Static(),
    "int8 weights": Int8WeightOnly(),
    "int8 weights, zero points": Int8WeightOnly(group_size=16, zero_points=True),
    "int4": Int4WeightOnly(),
    "int4 in 16": Int4WeightOnly(group_size=16, zero_points=True),
    "int4, int8 activations": Int4WeightOnly(group_size=16, activations="int8"),
    "float16": Float16(),
    "bfloat16": Float16(dtype="bfloat16"),
}
INTEGERS = ("int8 per token", "int8 per call", "int8 static")
TABLES = ("int8 per token", "int4", "int4 in 16", "float16", "bfloat16")
# Half a step of the largest weight: of 255, 15 and 14 steps to the range; of 11 and 8 bits of a float.
LOSS = {
    "int4": 1 / 14,
    "int4 in 16": 1 / 15,
    "int4, int8 activations": 1 / 14,
    "float16": 2**-11,
    "bfloat16": 2**-8,
}


def linear_of(stage: Stage, layer: nn.Linear, context: Context) -> LinearModule:
    if isinstance(stage, QuantizeLayers):
        integers = Integers(stage.grid(), *integers_of(layer.weight.detach(), stage.grid(), "rtn"))
        return stage.linear(layer, integers, layer.bias, RANGE)
    made = stage.apply(layer, context).model
    assert isinstance(made, HalfLinear)
    return made


def table_of(stage: Stage, layer: nn.Embedding, context: Context) -> EmbeddingModule:
    if isinstance(stage, QuantizeLayers):
        made: nn.Module = stage.embedding(layer, stage.table("table", layer.weight.detach()))
    else:
        made = stage.apply(layer, context).model
    assert isinstance(made, EmbeddingModule)
    return made


def multiplied(layer: LinearModule, x: Tensor) -> Tensor:
    """The numbers that stand for x in the layer's products."""
    if isinstance(layer, Int8Linear):
        integers, scale, zero_point = layer.activations(x)
        return (integers - zero_point) * scale
    return ops.rounded_groups(x, layer.group_size) if getattr(layer, "int8_activations", False) else x  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", [Grid(8, None), Grid(4, 16), Grid(4, 32, symmetric=False)])
def test_integers_of_small_weights_are_near_them_whatever_chooses_them(grid: Grid) -> None:
    torch.manual_seed(0)
    for o, i in product(FEW, FEW):
        weight, x = torch.randn(o, i), torch.cat([torch.randn(40, i), torch.ones(40, 1)], 1)
        gram = Gram((x.t() @ x).double(), None, 40)
        for algorithm in get_args(Algorithm):
            values, steps = integers_of(weight, grid, algorithm, gram)
            off = float((dequantize(values, steps, grid) - weight).abs().max() / weight.abs().max())
            # Clipping, and making up for what was rounded before, may cost some steps.
            assert off <= (0.04 if grid.bits == 8 else 0.5), (o, i, algorithm)


@pytest.mark.parametrize("name", STAGES)
def test_linear_layers_of_all_sizes_equal_the_product_of_what_they_hold(name: str, context: Context) -> None:
    stage, loss = STAGES[name], LOSS.get(name, 1 / 255)
    torch.manual_seed(0)
    for count, (i, o) in enumerate(product(SIZES, SIZES)):
        layer = nn.Linear(i, o, bias=(i + o) % 3 > 0)
        made = linear_of(stage, layer, context)
        near, weight = made.dequantize(), layer.weight.detach()
        assert near.shape == weight.shape, (i, o)
        assert float((near - weight).abs().max()) <= 1.01 * loss * float(weight.abs().max()), (i, o)
        for rows in {SIZES[count % 17], SIZES[(count // 17 + 5) % 17], 1}:
            x = torch.randn(rows, i)
            expected = F.linear(multiplied(made, x).double(), near.double())
            expected = expected if layer.bias is None else expected + layer.bias.detach().double()
            off = float((made(x).double() - expected).abs().max() / (1 + expected.abs().max()))
            assert off <= (1e-3 if name == "int8 static" else 1e-5), (rows, i, o)  # static: a whole bias


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_all_sizes_give_the_rows_that_they_hold(name: str, context: Context) -> None:
    torch.manual_seed(0)
    for v, d in product(SIZES, SIZES):
        layer = nn.Embedding(v, d)
        made, ids = table_of(STAGES[name], layer, context), torch.randint(v, (2, 3))
        assert torch.equal(made(ids), made.dequantize()[ids]), (v, d)
        lost = float((made(ids) - layer(ids)).detach().abs().max())
        assert lost <= 1.01 * LOSS.get(name, 1 / 255) * float(layer.weight.detach().abs().max()), (v, d)


def conv_layers(sizes: tuple[int, ...] = FEW) -> Iterator[nn.Conv1d | nn.Conv2d]:
    torch.manual_seed(0)
    for c in sizes:
        for o in sizes:
            for k in (1, 2):
                yield nn.Conv1d(c, o, k, padding=k // 2, bias=c != o)
            yield nn.Conv2d(c, o, (1, 2))
        yield nn.Conv1d(c, 2 * c, 1, groups=c)
        yield nn.Conv2d(c, c, 3, groups=c, padding=1)


def conv_of(kind: str, layer: nn.Conv1d | nn.Conv2d) -> Int8StaticConv | HalfConv:
    if kind == "half":
        made = HalfConv(**convolution_arguments(layer))
        return made.fill_(layer.weight.detach().half(), bias=layer.bias)
    values, scale = int8_by_row(layer.weight.flatten(1))
    whole = Int8StaticConv(**convolution_arguments(layer)).ranges_(RANGE, (-50, 50))
    return whole.fill_(values, scale, layer.bias)


@pytest.mark.parametrize("kind", ["int8", "half"])
def test_convolutions_of_all_sizes_stay_within_their_steps_of_the_float_ones(kind: str) -> None:
    for layer in conv_layers():
        made = conv_of(kind, layer)
        x = torch.randn(3, layer.in_channels, *(5, 4)[: len(layer.kernel_size)]).clamp(*RANGE)
        weight = layer.weight.detach()
        assert float((made.dequantize() - weight).abs().max()) <= 1.01 / 255 * float(weight.abs().max())
        # Each input and each weight is at most half a step off, and the output half a step of its own.
        inputs = weight[0].numel()
        step = 6.5 / 255 if kind == "int8" else 0
        allowed = inputs * (step / 2 * float(weight.abs().max()) + 3.5 * float(weight.abs().max()) / 255)
        allowed += 100 / 255 / 2 + 0.05 if kind == "int8" else 0
        assert float((made(x) - layer(x)).detach().abs().max()) <= allowed + 1e-4, layer


def test_lstms_of_small_sizes_stay_near_the_float_ones() -> None:
    torch.manual_seed(0)
    for i in FEW:
        for n in FEW:
            layer = nn.LSTM(i, n, bidirectional=n == 2)
            made = int8_lstm_of("lstm", layer, Int8Dynamic().grid(), "rtn")
            x = torch.randn(4, 3, i)
            assert float((made(x)[0] - layer(x)[0]).detach().abs().max()) < 0.05, (i, n)


class Separate(nn.Module):
    """Layers side by side, each with the first columns of x that it can take, or with ids made of them."""

    def __init__(self, layers: list[QuantizedModule]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(self._given(layer, x)).flatten(1) for layer in self.layers], dim=1)

    def _given(self, layer: nn.Module, x: Tensor) -> Tensor:
        if isinstance(layer, LinearModule):
            return x[:, : layer.in_features]
        if isinstance(layer, Int8StaticConv | HalfConv):
            sides = (5, 4)[: len(layer.kernel_size)]
            given = x[:, : layer.in_channels * math.prod(sides)]
            return given.reshape(len(x), layer.in_channels, *sides)
        assert isinstance(layer, EmbeddingModule)
        return (x[:, :2].abs() * 100).long() % layer.num_embeddings


def file_and_module(layers: list[QuantizedModule], width: int, scratch: Path) -> tuple[Any, Any]:
    """The outputs of all layers in one file, and in torch, for 1, 2, 3 and 17 rows."""
    module = Separate(layers).eval()
    x = torch.randn(17, width)
    batch = {0: torch.export.Dim.DYNAMIC}
    program = trace(
        module, (x[:2],), inputs=("x",), outputs=("y",), dynamic_shapes=(batch,), opset=OPSET_VERSION
    )
    program.save(str(scratch / "model.onnx"))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(scratch / "model.onnx", options, providers=["CPUExecutionProvider"])
    rows = [x[:1], x[1:3], x[3:6], x]
    found = [session.run(None, {"x": each.numpy()})[0] for each in rows]
    with torch.no_grad():
        return np.concatenate(found), np.concatenate([module(each).numpy() for each in rows])


def test_a_file_of_linear_layers_of_small_sizes_answers_as_the_modules(
    context: Context, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layers: list[QuantizedModule] = []
    whole = 0  # outputs of layers that are equal bit for bit
    for name in (*INTEGERS, "int8 weights", "int4 in 16", "int4, int8 activations", "float16"):
        for i, o in PAIRS:
            layers.append(linear_of(STAGES[name], nn.Linear(i, o, bias=o != 2), context))
            whole += o if name in INTEGERS else 0
    found, expected = file_and_module(layers, 17, tmp_path)
    assert np.array_equal(found[:, :whole], expected[:, :whole])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_files_of_linear_layers_of_more_sizes_answer_as_the_modules(
    name: str, context: Context, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    pairs = product(FEW, FEW)
    layers: list[QuantizedModule] = [linear_of(STAGES[name], nn.Linear(*each), context) for each in pairs]
    found, expected = file_and_module(layers, 17, tmp_path)
    assert np.array_equal(found, expected) or name not in INTEGERS
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def tables(context: Context) -> list[QuantizedModule]:
    made: list[QuantizedModule] = [
        table_of(STAGES[name], nn.Embedding(*each), context) for name in TABLES for each in PAIRS
    ]
    for name, (d, v) in product(("int4 in 16", "int8 weights"), PAIRS):
        linear = linear_of(STAGES[name], nn.Linear(d, v, bias=False), context)
        assert isinstance(linear, Int4Linear | Int8GroupLinear)
        made.append(SharedEmbedding.of(linear))
    return made


def convolutions(context: Context) -> list[QuantizedModule]:
    return [conv_of("int8", layer) for layer in conv_layers((1, 3))]


def half_convolutions(context: Context) -> list[QuantizedModule]:
    return [conv_of("half", layer) for layer in conv_layers((1, 3))]


@pytest.mark.parametrize(
    "make", [tables, convolutions, pytest.param(half_convolutions, marks=pytest.mark.slow)]
)
def test_a_file_of_other_layers_of_small_sizes_answers_as_the_modules(
    make: Callable[[Context], list[QuantizedModule]], context: Context, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    found, expected = file_and_module(make(context), 3 * 20, tmp_path)
    assert np.array_equal(found, expected) or make is half_convolutions
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
