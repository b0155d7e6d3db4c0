"""What stands around the Attention of a decoder goes into it, and the file answers as before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from compress.data.split import Split
from compress.export import export_onnx
from compress.export.lowering.fast_graph import optimize_
from compress.export.lowering.nodes import SCOPES
from compress.model import Definition
from compress.quantize.weight_only import Int4WeightOnly
from compress.stage import Context
from compress.tasks import InputSpec, LanguageModelling

INPUTS = tuple(InputSpec(name, "int64", ("sequence_length",)) for name in ("input_ids", "attention_mask"))
ROW = {"input_ids": np.arange(12, dtype=np.int64), "attention_mask": np.ones(12, dtype=np.int64)}
ROWS = Split("validation", (ROW, ROW), np.zeros((2, 12), dtype=np.int64), INPUTS)
TASK = LanguageModelling(INPUTS, vocabulary=64)
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SIZES, "intermediate_size": 48, "pad_token_id": None, "max_position_embeddings": 64}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {**LLAMA, "model_type": "qwen2", "num_key_value_heads": 2, "use_sliding_window": False},
    "gpt2": {
        **{
            "model_type": "gpt2",
            "vocab_size": 64,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
        },
        **{"bos_token_id": None, "eos_token_id": None},
    },
}


@pytest.fixture(scope="module", params=MODELS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A decoder's file without any rewrite, and as it is shipped."""
    folder = tmp_path_factory.mktemp("decoder")
    model = Definition("hf", MODELS[request.param], head="language-modelling").build(seed=0).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.export.trace.optimize_", lambda graph: None)
        export_onnx(model, ROWS, TASK, folder / "before.onnx", opset=23)
    export_onnx(model, ROWS, TASK, folder / "after.onnx", opset=23)
    return folder / "before.onnx", folder / "after.onnx"


def _answers(file: Path, batch: int, new: int, before: int) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0)
    feed: dict[str, np.ndarray] = {}
    for given in session.get_inputs():
        if given.name == "input_ids":
            feed[given.name] = draw.integers(0, 64, (batch, new))
        elif given.name == "attention_mask":
            mask = np.ones((batch, before + new), dtype=np.int64)
            mask[1:, -1] = 0  # padding behind all rows but the first
            feed[given.name] = mask
        else:
            shape = (batch, given.shape[1], before, given.shape[3])
            feed[given.name] = draw.normal(size=shape).astype(np.float32)
    return session.run(None, feed)


@pytest.mark.parametrize(("batch", "new", "before"), [(1, 6, 0), (1, 1, 9), (3, 2, 5), (2, 1, 1)])
def test_a_decoder_answers_as_before_the_rewrites(
    files: tuple[Path, Path], batch: int, new: int, before: int
) -> None:
    plain, shipped = (_answers(file, batch, new, before) for file in files)
    for old, made in zip(plain, shipped, strict=True):
        # Sums over a head's 8 numbers and over at most 10 tokens, perhaps in another order.
        np.testing.assert_allclose(made, old, rtol=1e-5, atol=1e-5)


def test_nothing_is_left_of_what_attention_does_by_itself(files: tuple[Path, Path]) -> None:
    graphs = [onnx.load(file).graph.node for file in files]
    plain, shipped = (Counter(node.op_type for node in nodes) for nodes in graphs)
    assert shipped["Attention"] == plain["Attention"] == 2
    past = [
        sum(name.startswith("past") for x in nodes if x.op_type == "Concat" for name in x.input)
        for nodes in graphs
    ]
    assert past == [4, 0]
    assert shipped["Expand"] == shipped["Transpose"] == 0
    assert shipped["Reshape"] <= plain["Reshape"] - 2 * 4, "heads were split, and joined, four times a layer"
    onnx.checker.check_model(onnx.load(shipped_file := files[1]), full_check=True)
    assert [value.name for value in onnx.load(shipped_file).graph.output][:3] == [
        "logits",
        "present.0.key",
        "present.0.value",
    ]


def test_nodes_name_the_modules_as_the_model_does(files: tuple[Path, Path]) -> None:
    noted = [
        entry.value
        for node in onnx.load(files[1]).graph.node
        for entry in node.metadata_props
        if entry.key == SCOPES and node.op_type == "Attention"
    ]
    assert len(noted) == 2 and not any("slice" in each for each in noted)
    assert any(
        f"'module.{name}'" in noted[1] for name in ("model.layers.1.self_attn", "transformer.h.1.attn")
    )


def _graph(uses: int) -> ir.Model:
    """Attention behind a past, whose keys are read by so many nodes."""
    past, new, query, mask = (
        ir.val(name, dtype=ir.DataType.FLOAT, shape=[1, 2, size, 4])
        for name, size in (("past", 3), ("new", 1), ("query", 1), ("mask", 1))
    )
    values = ir.val("values", dtype=ir.DataType.FLOAT, shape=[1, 2, 3, 4])
    key, value = (ir.node("Concat", [before, new], {"axis": 2}) for before in (past, values))
    attention = ir.node("Attention", [query, key.outputs[0], value.outputs[0], mask])
    more = [ir.node("Neg", [key.outputs[0]]) for _ in range(uses - 1)]
    graph = ir.Graph(
        [past, values, new, query, mask],
        [attention.outputs[0], key.outputs[0], value.outputs[0], *(each.outputs[0] for each in more)],
        nodes=[key, value, *more, attention],
        opset_imports={"": 23},
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(("uses", "made"), [(1, 1), (2, 0)])
def test_keys_that_are_read_elsewhere_too_stay_where_they_are(uses: int, made: int) -> None:
    model = _graph(uses)
    assert optimize_(model)["keep_past"] == made
    (attention,) = (node for node in model.graph if node.op_type == "Attention")
    assert len(attention.inputs) == (6 if made else 4)
    assert [each is None for each in model.graph.outputs] == [False] * (2 + uses)


def test_weights_of_few_bits_with_one_input_are_one_product_to_the_bit(tmp_path: Path) -> None:
    model = Definition("hf", MODELS["qwen2"], head="language-modelling").build(seed=0).eval()
    settings = {"group_size": 16, "zero_points": True, "activations": "int8", "int8_layers": ("*.v_proj",)}
    small = Int4WeightOnly.model_validate(settings).apply(model, Context(TASK, ROWS, ROWS)).model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.export.lowering.fast_graph.join_products_", lambda graph: 0)
        export_onnx(small, ROWS, TASK, tmp_path / "apart.onnx", opset=23)
    export_onnx(small, ROWS, TASK, tmp_path / "joined.onnx", opset=23)
    apart, joined = (onnx.load(tmp_path / f"{name}.onnx").graph for name in ("apart", "joined"))
    products = [sum(node.op_type == "MatMulNBits" for node in graph.node) for graph in (apart, joined)]
    # Queries and keys of 4 bits, gate and up: two fewer a layer; values of 8 bits stay apart.
    assert products == [2 * 7 + 1, 2 * 5 + 1]
    held = [sum(len(tensor.raw_data) for tensor in graph.initializer) for graph in (apart, joined)]
    assert held[1] <= held[0] + 200, "no weight is stored twice; the sizes of the parts are new"
    for old, made in zip(
        *(_answers(tmp_path / f"{n}.onnx", 2, 3, 4) for n in ("apart", "joined")), strict=True
    ):
        np.testing.assert_array_equal(made, old)


def test_a_weight_that_is_used_elsewhere_too_is_not_joined() -> None:
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[2, 64])
    form = {"K": 64, "N": 64, "bits": 4, "block_size": 16, "accuracy_level": 4}
    held, nodes = [], []
    for name in "ab":
        qdata = ir.val(f"{name}.qdata", const_value=ir.tensor(np.zeros((64, 4, 8), np.uint8)))
        scale = ir.val(f"{name}.scale", const_value=ir.tensor(np.ones((64, 4), np.float32)))
        held += [qdata, scale]
        nodes.append(ir.node("MatMulNBits", [x, qdata, scale], form, domain="com.microsoft"))
    lookup = ir.node("Reshape", [held[0], ir.val("shape", const_value=ir.tensor(np.array([64, 32])))])
    graph = ir.Graph(
        [x],
        [node.outputs[0] for node in (*nodes, lookup)],
        nodes=[*nodes, lookup],
        initializers=held,
        opset_imports={"": 23, "com.microsoft": 1},
    )
    assert optimize_(ir.Model(graph, ir_version=10))["joined_products"] == 0
