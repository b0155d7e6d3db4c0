"""The rewrites of the exported graph are made, and change no bit of the answer that the graph defines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from compress.export.lowering.fast_graph import optimize_
from compress.export.lowering.operators import OPSET_VERSION


class Block(nn.Module):
    """One encoder layer, post-norm, on [b, s, 16] with a mask [b, s] of ones and zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = (*x.shape[:2], 4, 4)
        q, k, v = (layer(x).view(heads).transpose(1, 2) for layer in (self.q, self.k, self.v))
        seen = (mask > 0)[:, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        normed: Tensor = self.norm(x + self.out(mixed.transpose(1, 2).reshape(x.shape)))
        return normed


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, int]]:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("block")
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Block().eval(),
        (torch.randn(2, 5, 16), torch.ones(2, 5)),
        input_names=["x", "mask"],
        dynamic_shapes=(dynamic, dynamic),
        opset_version=OPSET_VERSION,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(directory / "before.onnx")
    made = optimize_(program.model)
    program.save(directory / "after.onnx")
    return directory / "before.onnx", directory / "after.onnx", made


def run(file: Path, x: Tensor, mask: Tensor) -> np.ndarray:
    """As the graph is written: ONNX Runtime's own fusions add in another order."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.numpy(), "mask": mask.numpy()})[0]


def test_each_rewrite_is_made_once_for_a_layer(files: tuple[Path, Path, dict[str, int]]) -> None:
    assert files[2] == {
        "sum_before_layer_norm": 1,
        "narrow_nan_guard": 1,
        "one_key_transpose": 1,
        "group_heads": 0,
        "keep_past": 0,
        "whole_heads": 0,
        "joined_products": 0,
        "equal_weights": 0,
    }
    onnx.checker.check_model(onnx.load(files[1]), full_check=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_are_equal_bit_for_bit(files: tuple[Path, Path, dict[str, int]], seed: int) -> None:
    before, after, _ = files
    torch.manual_seed(seed)
    x, mask = torch.randn(3, 6, 16), torch.ones(3, 6)
    mask[1, 2:] = 0
    mask[2] = 0  # nothing to look at
    # Scores of this size overflow, so their row of Softmax is NaN and the guard is what answers.
    x[0, 0] = 1e25
    assert np.array_equal(run(before, x, mask), run(after, x, mask), equal_nan=True)
    single = x[1:2, :1], mask[1:2, :1]
    assert np.array_equal(run(before, *single), run(after, *single))


def test_onnxruntime_leaves_the_norm_alone(files: tuple[Path, Path, dict[str, int]], tmp_path: Path) -> None:
    kept = tmp_path / "optimized.onnx"
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(kept)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(files[1], options, providers=["CPUExecutionProvider"])
    op_types = [node.op_type for node in onnx.load(kept).graph.node]
    assert "LayerNormalization" in op_types and "SkipLayerNormalization" not in op_types


def test_a_broadcast_add_before_a_norm_is_left_alone() -> None:
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2, 3])
    row = ir.val("row", dtype=ir.DataType.FLOAT, shape=[3])
    add = ir.node("Add", [x, row])
    norm = ir.node("LayerNormalization", [add.outputs[0], row])
    graph = ir.Graph([x, row], [norm.outputs[0]], nodes=[add, norm], opset_imports={"": OPSET_VERSION})
    made = optimize_(ir.Model(graph, ir_version=10))
    assert made["sum_before_layer_norm"] == 0 and add.op_type == "Add"


def test_equal_weights_are_stored_once_and_small_ones_are_left_alone() -> None:
    draw = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    tensors = {"a": draw, "b": draw.copy(), "c": draw + 1, "d": draw[:2], "e": draw[:2].copy()}
    weights = {name: ir.val(name, const_value=ir.tensor(array)) for name, array in tensors.items()}
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2, 16])
    nodes, last = [], x
    for name, weight in weights.items():
        nodes.append(ir.node("MatMul" if len(tensors[name]) == 16 else "Add", [last, weight]))
        last = nodes[-1].outputs[0]
    graph = ir.Graph(
        [x], [last], nodes=nodes, initializers=list(weights.values()), opset_imports={"": OPSET_VERSION}
    )
    assert optimize_(ir.Model(graph, ir_version=10))["equal_weights"] == 1
    assert sorted(graph.initializers) == ["a", "c", "d", "e"]
    assert [node.inputs[1] is weights["a"] for node in nodes] == [True, True, False, False, False]
