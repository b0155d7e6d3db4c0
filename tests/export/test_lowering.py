"""Each quantized operator gives in ONNX Runtime's fully optimized graph what it gives in eager torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from compress.export.lowering.fast_graph import optimize_
from compress.export.lowering.operators import OPSET_VERSION, translation_table
from compress.model.layers.convolution import Int8StaticConv, convolution_arguments
from compress.model.layers.grouped import Int4Embedding, Int4Linear, Int8GroupLinear, SharedEmbedding
from compress.model.layers.int8 import (
    Int8Embedding,
    Int8FittedLinear,
    Int8Linear,
    Int8StaticLinear,
    Int8TensorLinear,
)
from compress.quantize.integers.torchao_weights import int4_by_group, int8_by_row

WIDTHS = {"whole": (64, 24), "odd": (33, 5), "one": (48, 1)}
ROWS = 7


@dataclass(frozen=True)
class Exported:
    """A module and the file that was made from it."""

    module: nn.Module
    file: Path

    def run(self, x: Tensor, optimized: bool = True) -> np.ndarray:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        if not optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x.numpy()})[0]

    def eager(self, x: Tensor) -> np.ndarray:
        with torch.no_grad():
            return self.module(x).numpy()

    def initializers(self) -> dict[str, np.ndarray]:
        graph = onnx.load(self.file).graph
        return {each.name: numpy_helper.to_array(each) for each in graph.initializer}

    def optimized_op_types(self, scratch: Path) -> list[str]:
        """The graph that ONNX Runtime makes of it."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(scratch / "optimized.onnx")
        ort.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(scratch / "optimized.onnx").graph.node]

    def op_types(self) -> list[str]:
        return [node.op_type for node in onnx.load(self.file).graph.node]


def export(
    module: nn.Module, x: Tensor, file: Path, fast: bool = False, fixed: int | None = None
) -> Exported:
    """Export with every dimension dynamic, but for the features of floats, which are the last or `fixed`."""
    features = -1 if x.dtype == torch.int64 else x.ndim - 1 if fixed is None else fixed
    program = torch.onnx.export(
        module.eval(),
        (x,),
        input_names=["x"],
        dynamic_shapes=({axis: torch.export.Dim.DYNAMIC for axis in range(x.ndim) if axis != features},),
        opset_version=OPSET_VERSION,
        dynamo=True,
        custom_translation_table=translation_table(),
        verbose=False,
    )
    assert program is not None
    if fast:
        optimize_(program.model)
    program.save(file)
    return Exported(module, file)


class Both(nn.Module):
    """A layer with a bias and one without, next to each other, so that one export tests both."""

    def __init__(self, make: Callable[[bool], nn.Module]) -> None:
        super().__init__()
        self.with_bias, self.without = make(True), make(False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.with_bias(x), self.without(x)], dim=-1)


INT8 = (Int8Linear, Int8FittedLinear, Int8TensorLinear, Int8StaticLinear)


def int8_linear(cls: type[Int8Linear], i: int, o: int, bias: bool) -> Int8Linear:
    layer = cls(i, o, bias)
    if isinstance(layer, Int8StaticLinear):
        layer.range_(-2.5, 3.1)  # some inputs lie beyond it
    if isinstance(layer, Int8FittedLinear):
        layer.fit_(torch.linspace(0.1, 2, i), 40)
    return layer.fill_(*int8_by_row(torch.randn(o, i)), bias=torch.randn(o) if bias else None)


def int4_linear(i: int, o: int, bias: bool) -> Int4Linear:
    weight = torch.randn(o, i)
    return Int4Linear(i, o, bias).fill_(*int4_by_group(weight, 32), bias=torch.randn(o) if bias else None)


@pytest.fixture(scope="module", params=[(cls, width) for cls in INT8 for width in WIDTHS], ids=str)
def int8(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    cls, width = request.param
    i, o = WIDTHS[width]
    file = tmp_path_factory.mktemp("int8") / "model.onnx"
    return export(Both(lambda bias: int8_linear(cls, i, o, bias)), torch.randn(2, 3, i), file)


@pytest.fixture(scope="module", params=WIDTHS)
def int4(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    i, o = WIDTHS[request.param]
    file = tmp_path_factory.mktemp("int4") / "model.onnx"
    return export(Both(lambda bias: int4_linear(i, o, bias)), torch.randn(2, 3, i), file)


class Groups(nn.Module):
    """Weight-only layers and tables of every form side by side: [b, s, 150] or ids to one long row."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


def random_groups(
    layer: nn.Module, rows: int, columns: int, group: int, bits: int, points: bool
) -> nn.Module:
    """Fill with random integers, scales and zero points; a row of zeros, and one of the largest."""
    padded = -(-columns // group)
    low = 0 if points else -(2 ** (bits - 1))
    values = torch.randint(low, low + 2**bits, (rows, padded * group))
    zeros = torch.randint(0, 2**bits, (rows, padded))
    values[0] = zeros[0].repeat_interleave(group) if points else 0
    values[1] = low + 2**bits - 1
    if points:
        layer.zero_points_(zeros)  # type: ignore[operator]
    bias = {"bias": torch.randn(rows)} if getattr(layer, "bias", None) is not None else {}
    return layer.fill_(values, torch.rand(rows, padded) + 0.1, **bias)  # type: ignore[operator,no-any-return]


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    layers = []
    for cls, bits in ((Int4Linear, 4), (Int8GroupLinear, 8)):
        for group in (16, 32, 64, 128):
            for points in (False, True):
                layer = cls(150, 3, group != 32, group, points)
                layers.append(random_groups(layer, 3, 150, group, bits, points))
    return export(Groups(layers), torch.randn(2, 3, 150), tmp_path_factory.mktemp("groups") / "model.onnx")


@pytest.fixture(scope="module", params=[*INT8, Int4Linear], ids=lambda cls: cls.kind)
def flat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A layer whose inputs have two dimensions: ONNX Runtime makes a Gemm of a MatMul there."""
    torch.manual_seed(0)
    if request.param is Int4Linear:
        layer: nn.Module = int4_linear(33, 5, True)
    else:
        layer = int8_linear(request.param, 33, 5, True)
    return export(layer, torch.randn(2, 33), tmp_path_factory.mktemp("flat") / "model.onnx")


@pytest.fixture(scope="module", params=[64, 33, 50])
def tables(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Exported, Exported]:
    torch.manual_seed(0)
    d, directory = request.param, tmp_path_factory.mktemp("tables")
    weight, ids = torch.randn(ROWS, d), torch.randint(0, ROWS, (2, 3))
    return (
        export(Int8Embedding(ROWS, d, 0).fill_(*int8_by_row(weight)), ids, directory / "int8.onnx"),
        export(Int4Embedding(ROWS, d).fill_(*int4_by_group(weight, 32)), ids, directory / "int4.onnx"),
    )


def inputs(width: int, seed: int) -> dict[str, Tensor]:
    """Odd shapes and values: one token, a token of zeros, one huge value, a huge and a tiny token."""
    torch.manual_seed(seed)
    x = torch.randn(3, 5, width)
    zero, outlier, scales, ties = x.clone(), x.clone(), x.clone(), x.clone()
    zero[1, 2] = 0
    outlier[0, 0, 3] = 1e6
    scales[0], scales[1] = 1e30 * x[0], 1e-20 * x[1]
    # The scale of these tokens is 1, and each value lies halfway between two integers.
    ties = torch.randint(-127, 127, x.shape) + 0.5
    ties[..., 0] = 127.5
    return {
        "plain": x,
        "one token": x[:1, :1],
        "zero": zero,
        "outlier": outlier,
        "scales": scales,
        "ties": ties,
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_int8_linear_is_equal_bit_for_bit(int8: Exported, seed: int) -> None:
    for name, x in inputs(int8.module.with_bias.in_features, seed).items():
        assert np.array_equal(int8.run(x), int8.eager(x)), name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_int4_linear_agrees_to_the_order_of_a_float_sum(int4: Exported, seed: int) -> None:
    for name, x in inputs(int4.module.with_bias.in_features, seed).items():
        got, expected = int4.run(x), int4.eager(x)
        # 64 float32 products are summed in another order: some 1e-7 of a token's largest sum.
        allowed = 3e-6 * (np.abs(expected).max(-1, keepdims=True) + x.abs().amax(-1, keepdim=True).numpy())
        assert (np.abs(got - expected) <= allowed).all(), name


def test_inputs_of_rank_two_work_too(flat: Exported) -> None:
    x = torch.randn(7, 33)
    for rows in (x, x[:1], 0 * x[:2]):
        got, expected = flat.run(rows), flat.eager(rows)
        if isinstance(flat.module, Int4Linear):
            np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6 * np.abs(flat.eager(x)).max())
        else:
            assert np.array_equal(got, expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_products_with_int8_activations_agree_to_the_order_of_a_float_sum(bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    cls = {4: Int4Linear, 8: Int8GroupLinear}[bits]
    layers = [
        random_groups(cls(150, 3, True, group, points, True), 3, 150, group, bits, points)
        for group in (16, 128)
        for points in (False, True)
    ]
    found = export(Groups(layers), torch.randn(2, 3, 150), tmp_path / "model.onnx")
    for name in ("plain", "one token", "zero", "outlier"):
        x = inputs(150, 0)[name]
        got, expected = found.run(x), found.eager(x)
        # One rounded the other way would be 1/127 of a group's largest, times a weight: far above this.
        allowed = 3e-6 * (np.abs(expected).max() + float(x.abs().max()))
        assert (np.abs(got - expected) <= allowed).all(), name


@pytest.mark.parametrize("seed", [0, 1])
def test_weight_only_products_of_every_group_agree_to_the_order_of_a_float_sum(
    groups: Exported, seed: int
) -> None:
    for name, x in inputs(150, seed).items():
        got, expected = groups.run(x), groups.eager(x)
        # Up to 150 products of numbers up to 255 are summed in another order: 1e-7 of the largest product.
        allowed = 1e-5 * 255 * x.abs().amax(-1, keepdim=True).numpy() + 1e-5
        assert (np.abs(got - expected) <= allowed).all(), name
    assert groups.op_types().count("MatMulNBits") == 16
    assert not {"MatMul", "DequantizeLinear"} & {*groups.op_types()}


def test_tables_of_every_group_are_equal_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [
        random_groups(Int4Embedding(ROWS, 50, None, group, points), ROWS, 50, group, 4, points)
        for group in (16, 32, 64, 128)
        for points in (False, True)
    ]
    made = export(Groups(layers), torch.randint(0, ROWS, (2, 3)), tmp_path / "model.onnx")
    for ids in (torch.arange(ROWS).unsqueeze(0), torch.tensor([[3]]), torch.randint(0, ROWS, (4, 6))):
        assert np.array_equal(made.run(ids), made.eager(ids))
    assert made.op_types().count("GatherBlockQuantized") == 8


def test_tables_that_are_a_linear_layers_weight_are_equal_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [
        SharedEmbedding.of(
            random_groups(cls(50, ROWS, False, group, points), ROWS, 50, group, cls.bits, points)
        )
        for cls in (Int4Linear, Int8GroupLinear)
        for group in (16, 128)
        for points in (False, True)
    ]
    made = export(Groups(layers), torch.randint(0, ROWS, (2, 3)), tmp_path / "model.onnx")
    for ids in (torch.arange(ROWS).unsqueeze(0), torch.tensor([[3]]), torch.randint(0, ROWS, (4, 6))):
        assert np.array_equal(made.run(ids), made.eager(ids))


def test_embeddings_are_equal_bit_for_bit(tables: tuple[Exported, Exported]) -> None:
    for table in tables:
        for ids in (torch.arange(ROWS).unsqueeze(0), torch.tensor([[3]]), torch.randint(0, ROWS, (4, 6))):
            assert np.array_equal(table.run(ids), table.eager(ids))


CONVOLUTIONS = {
    "plain": nn.Conv2d(3, 5, 3, padding=1),
    "wide": nn.Conv2d(32, 64, 3, padding=1),
    "by channel": nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "by channel, twice": nn.Conv2d(16, 32, 3, padding=1, groups=16),
    "groups, steps, uneven": nn.Conv2d(8, 12, (3, 2), stride=(2, 1), padding=(0, 2), groups=4),
    "points": nn.Conv2d(16, 16, 1, bias=False),
    "holes": nn.Conv2d(6, 7, 3, dilation=2, padding="same"),
    "one side": nn.Conv2d(6, 7, 2, padding="same"),
    "one dimension": nn.Conv1d(7, 5, 3, padding=1),
    "one dimension by channel": nn.Conv1d(16, 16, 5, groups=16, stride=3, padding=2),
    "one dimension, one side": nn.Conv1d(33, 32, 2, padding="same", bias=False),
}


def int8_conv(layer: nn.Conv1d | nn.Conv2d, outputs: tuple[float, float]) -> Int8StaticConv:
    new = Int8StaticConv(**convolution_arguments(layer))
    values, scale = int8_by_row(layer.weight.flatten(1))
    return new.ranges_((-2.5, 3.1), outputs).fill_(values, scale, layer.bias)  # some lie beyond the ranges


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_int8_convolution_is_equal_bit_for_bit_and_one_kernel(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = CONVOLUTIONS[name]
    channels, spatial = layer.in_channels, len(layer.kernel_size)
    sizes = [(9, 11)[:spatial], (7, 16)[:spatial], (8, 8)[:spatial]]
    conv = int8_conv(layer, (-0.7, 1.3))
    made = export(conv, torch.randn(2, channels, *sizes[0]), tmp_path / "model.onnx", fixed=1)
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(3, channels, *sizes[0])
        outlier = x.clone()
        outlier[0, 0, 3] = 1e6
        for given in (x, x[:1], torch.randn(1, channels, *sizes[1]), 0 * x, outlier, 1e30 * x, 1e-20 * x):
            got, expected = made.run(given), made.eager(given)
            assert np.array_equal(got, expected)
            assert got.shape[0] == len(given) and got.shape[1] == layer.out_channels
    assert made.initializers()["qdata"].nbytes == layer.weight.numel()
    ran = made.optimized_op_types(tmp_path)
    assert ran.count("QLinearConv") == 1 and "Conv" not in ran


def test_convolutions_that_share_a_range_stay_integers_between_each_other(tmp_path: Path) -> None:
    """Where the range of an output is that of the next input, nothing is made float in between."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
    ranges = (0.0, 1.3)
    last = int8_conv(second, (-0.7, 1.3)).ranges_(ranges, (-0.7, 1.3))
    values, scale = int8_by_row(second.weight.flatten(1))
    last.fill_(values, scale, second.bias)
    model = nn.Sequential(int8_conv(first, ranges), nn.ReLU(), nn.MaxPool2d(2), last)
    made = export(model, torch.randn(2, 3, 8, 8), tmp_path / "model.onnx", fixed=1)
    ran = made.optimized_op_types(tmp_path)
    kinds = ("QLinearConv", "QuantizeLinear", "DequantizeLinear", "Relu")
    assert [ran.count(kind) for kind in kinds] == [2, 1, 1, 0]
    for seed in range(3):
        torch.manual_seed(seed)
        x = torch.randn(3, 3, 8, 10)
        assert np.array_equal(made.run(x), made.eager(x))


def test_the_int8_file_holds_the_integers_that_were_chosen(int8: Exported) -> None:
    held = int8.initializers()
    layer = int8.module.with_bias
    qdata = held["with_bias.qdata"]
    assert qdata.dtype == np.int8 and qdata.nbytes == layer.in_features * layer.out_features
    assert np.array_equal(qdata, layer.qdata.numpy())
    assert np.array_equal(held["with_bias.scale"], layer.scale.numpy())
    if isinstance(layer, Int8StaticLinear):
        assert held["with_bias.bias"].dtype == np.int32
    assert not [name for name, each in held.items() if each.dtype == np.float32 and each.size > 64]


def test_the_int4_file_holds_half_a_byte_a_weight(int4: Exported) -> None:
    held = int4.initializers()
    layer = int4.module.without
    qdata = held["without.qdata"]
    assert qdata.dtype == np.uint8 and qdata.nbytes == layer.out_features * -(-layer.in_features // 32) * 16
    assert np.array_equal(qdata, layer.qdata.numpy())
    assert sum(each.nbytes for each in held.values()) == sum(
        buffer.nbytes for buffer in int4.module.buffers()
    ), "nothing else is stored"


def test_embedding_files_hold_a_byte_and_half_a_byte_a_number(tables: tuple[Exported, Exported]) -> None:
    int8, int4 = (table.initializers()["qdata"] for table in tables)
    d = tables[0].module.embedding_dim
    assert int8.dtype == np.int8 and int8.nbytes == ROWS * d
    assert int4.dtype == np.uint8 and int4.nbytes == ROWS * -(-d // 32) * 16


def test_the_graph_uses_the_kernels_that_were_meant(int8: Exported, int4: Exported, tmp_path: Path) -> None:
    kernels, shared = {
        Int8Linear: ("MatMulInteger", "QuantizeLinear"),
        Int8FittedLinear: ("MatMulInteger", "QuantizeLinear"),
        Int8TensorLinear: ("MatMulIntegerToFloat", "DynamicQuantizeLinear"),
        Int8StaticLinear: ("QGemm", "QuantizeLinear"),
    }[type(int8.module.with_bias)]
    ran = int8.optimized_op_types(tmp_path)
    assert ran.count(kernels) == 2
    assert ran.count(shared) == 1, "layers with one input share its quantization"
    assert not {"MatMul", "Gemm", "DequantizeLinear"} & {*ran}
    assert int4.op_types().count("MatMulNBits") == 2
    assert not {"MatMul", "DequantizeLinear"} & {*int4.op_types()}


def test_integer_files_are_written_in_standard_operators(int8: Exported) -> None:
    assert {domain.domain for domain in onnx.load(int8.file).opset_import} == {""}


def test_the_table_covers_every_operator_of_the_namespace() -> None:
    named = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("modelpress::")}
    assert {each.name() for each in translation_table()} == named
