"""Tiny graphs whose multiply-adds are counted by hand."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import MeasureError
from compress.measure.explain.events import Call, NodeRun, calls_of
from compress.measure.explain.graph import graph_of, read_graph
from compress.measure.explain.nodes import read_nodes
from compress.measure.explain.products import Node, macs_of

BATCH, TOKENS, WIDTH = 2, 5, 32
X = {"x": np.ones((BATCH, TOKENS, WIDTH), dtype=np.float32)}
SHAPE = ["batch", "tokens", WIDTH]
CONTRIB = "com.microsoft"


@pytest.fixture
def save(tmp_path):
    """Write an ONNX file of nodes, constants and one output; input x is [batch, tokens, 32] unless given."""

    def make(nodes, constants, output="y", shape=None, name="model.onnx") -> Path:
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or SHAPE)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, key) for key, value in constants.items()],
        )
        domains = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
        onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), tmp_path / name)
        return tmp_path / name

    return make


def _only(graph):
    (product,) = graph.products
    return product


def weight(*shape: int, dtype=np.float32):
    return np.full(shape, 3, dtype=dtype)


def test_a_product_with_a_float_weight_is_counted_and_named_after_its_layer(save):
    path = save([helper.make_node("MatMul", ["x", "encoder.dense.weight"], ["y"], "n")], {
        "encoder.dense.weight": weight(WIDTH, 7)
    })  # fmt: skip
    product = _only(graph_of(path, X))
    assert (product.role, product.macs) == ("float_weight", BATCH * TOKENS * WIDTH * 7)
    assert (product.kind, product.name, product.made) == ("MatMul", "encoder.dense", False)


def test_a_layer_that_torch_noted_wins_over_the_names_of_nodes(save):
    path = save([helper.make_node("MatMul", ["x", "val_85"], ["y"], "node_1")], {"val_85": weight(WIDTH, 7)})
    model = onnx.load(path)
    note = model.graph.node[0].metadata_props.add()
    note.key, note.value = "pkg.torch.onnx.name_scopes", "['', 'module', 'module.pooler.dense', 'linear']"
    onnx.save(model, path)
    assert _only(graph_of(path, X)).name == "pooler.dense"


def test_a_gemm_that_is_given_a_transposed_input_sums_over_its_first_dimension(save):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)]
    path = save(nodes, {"w": weight(4, 6)}, shape=[4, "columns"])
    product = _only(graph_of(path, {"x": np.ones((4, 3), dtype=np.float32)}))
    assert product.macs == 3 * 4 * 6


def test_a_product_of_two_activations_is_no_product_of_a_weight(save):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    graph = graph_of(save(nodes, {}), X)
    assert graph.macs("activations") == graph.macs() == BATCH * TOKENS * TOKENS * WIDTH
    assert graph.share("activations") == 1


def test_dynamic_int8_is_a_product_of_integers_and_its_rounding_serves_it(save):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["i"], "product"),
        helper.make_node("Cast", ["i"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "column"], ["g"], "scale"),
        helper.make_node("Relu", ["g"], ["y"], "relu"),
    ]
    column = np.linspace(1, 2, 6, dtype=np.float32)
    constants = {"w": weight(WIDTH, 6, dtype=np.int8), "wz": np.array(0, np.int8), "column": column}
    graph = graph_of(save(nodes, constants), X)
    assert _only(graph).role == "integer"
    assert graph.macs() == BATCH * TOKENS * WIDTH * 6
    assert graph.counts["DynamicQuantizeLinear"] == 1
    roles = {key[0]: role for key, role in graph.roles.items()}
    assert (roles["cast"], roles["scale"], roles["relu"]) == ("quantizing", "quantizing", "other")


def test_onnxruntimes_fused_dynamic_int8_is_counted_all_the_same(save):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["both"]),
        helper.make_node("Mul", ["f", "both"], ["y"]),
    ]
    constants = {"w": weight(WIDTH, 6, dtype=np.int8), "ws": np.array(0.5, np.float32)}
    product = _only(graph_of(save(nodes, constants), X))
    assert (product.kind, product.role) == ("DynamicQuantizeMatMul", "integer")
    assert product.macs == BATCH * TOKENS * WIDTH * 6


@pytest.mark.parametrize(("level", "by_block"), [(0, False), (4, True)])
def test_four_bit_weights_are_low_bit_and_only_level_4_rounds_activations(save, level, by_block):
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain=CONTRIB,
        K=WIDTH, N=8, bits=4, block_size=32, accuracy_level=level,
    )  # fmt: skip
    constants = {"w": weight(8, 1, 16, dtype=np.uint8), "s": weight(8)}
    product = _only(graph_of(save([node], constants), X))
    assert (product.role, product.bits, product.by_block) == ("low_bit", 4, by_block)
    assert product.macs == BATCH * TOKENS * WIDTH * 8


def test_a_convolution_counts_its_kernel_at_every_place_of_its_output(save):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    # 32 of each: a multiple of every vector's width, so no channels are filled up.
    path = save(nodes, {"w": weight(32, 32, 3, 3)}, shape=["batch", 32, 8, 8])
    product = _only(graph_of(path, {"x": np.ones((1, 32, 8, 8), dtype=np.float32)}))
    assert (product.role, product.macs) == ("float_weight", 32 * 6 * 6 * 32 * 3 * 3)


def test_a_weight_that_is_made_float_in_each_call_is_said_to_be(save):
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wf"], "unpack"),
        # Between the two a node that keeps ONNX Runtime from fusing them.
        helper.make_node("Sin", ["wf"], ["wg"]),
        helper.make_node("MatMul", ["x", "wg"], ["y"]),
    ]
    graph = graph_of(save(nodes, {"w": weight(WIDTH, 6, dtype=np.int8), "s": np.array(0.5, np.float32)}), X)
    product = _only(graph)
    assert (product.role, product.made, product.macs) == ("float_weight", True, BATCH * TOKENS * WIDTH * 6)
    assert {key[0]: role for key, role in graph.roles.items()}["unpack"] == "unpacking"


def test_an_lstm_counts_its_gates_for_input_and_state(save):
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=3, direction="bidirectional")]
    path = save(nodes, {"w": weight(2, 12, WIDTH), "r": weight(2, 12, 3)})
    product = _only(graph_of(path, X))
    assert product.macs == BATCH * TOKENS * 2 * 4 * 3 * (WIDTH + 3)


def test_an_lstm_of_int8_counts_the_same_as_products_of_integers(save):
    given = ["x", "w", "r", "", "", "", "", "", "ws", "wz", "rs", "rz"]
    nodes = [
        helper.make_node(
            "DynamicQuantizeLSTM", given, ["y"], domain=CONTRIB, hidden_size=3, direction="bidirectional"
        )
    ]
    weights = {"w": weight(2, WIDTH, 12, dtype=np.int8), "r": weight(2, 3, 12, dtype=np.int8)}
    scales = {name: weight(2, 12) for name in ("ws", "rs")}
    zeros = {name: np.zeros((2, 12), np.int8) for name in ("wz", "rz")}
    product = _only(graph_of(save(nodes, weights | scales | zeros), X))
    assert (product.role, product.macs) == ("integer", BATCH * TOKENS * 2 * 4 * 3 * (WIDTH + 3))


def test_fused_attention_is_split_into_projection_and_scores():
    node = _node("Attention", ["x", "w", "b"], [None, (32, 96), (96,)], domain=CONTRIB)
    run = _run("Attention", inputs=((2, 5, 32), (96,)), outputs=((2, 5, 32),))
    assert macs_of(node, run) == [("float_weight", 2 * 5 * 32 * 96), ("activations", 2 * 5 * 5 * (32 + 32))]
    node = _node("QAttention", ["x", "w", "b"], [None, (32, 96), (96,)], domain=CONTRIB)
    assert macs_of(node, run)[0] == ("integer", 2 * 5 * 32 * 96)


def test_attention_of_the_standard_and_of_onnxruntime_over_other_keys_have_no_weights():
    inputs = ((2, 5, 32), (2, 7, 32), (2, 7, 32))
    standard = _node("Attention", ["q", "k", "v"], [None] * 3)
    own = _node("MultiHeadAttention", ["q", "k", "v"], [None] * 3, domain=CONTRIB)
    for node in (standard, own):
        run = _run(node.kind, inputs=inputs, outputs=((2, 5, 32),))
        assert macs_of(node, run) == [("activations", 2 * 2 * 5 * 7 * 32)]


def test_a_product_whose_shapes_say_too_little_is_named_and_not_guessed():
    node = _node("Einsum", ["a", "b"], [None, None])
    graph = read_graph([node], Call(1.0, (_run("Einsum", inputs=((2, 2),), outputs=((2, 2),)),)), {})
    assert graph.uncounted == {"Einsum": 1}
    assert graph.products == ()
    assert macs_of(_node("Relu", ["a"], [None]), _run("Relu", inputs=((2,),), outputs=((2,),))) is None


def test_nodes_without_a_name_are_found_by_the_order_in_which_they_run(save):
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["u"]),
        helper.make_node("Relu", ["u"], ["v"]),
        helper.make_node("MatMul", ["v", "b"], ["y"]),
    ]
    path = save(nodes, {"first.a": weight(WIDTH, 16), "second.b": weight(16, 4)} | {})
    model = onnx.load(path)
    model.graph.node[0].input[1], model.graph.node[2].input[1] = "first.a", "second.b"
    onnx.save(model, path)
    found = [(p.name, p.macs) for p in graph_of(path, X).products]
    assert found == [("first", BATCH * TOKENS * WIDTH * 16), ("second", BATCH * TOKENS * 16 * 4)]


def test_a_body_that_a_loop_runs_three_times_counts_three_times(save):
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["next"], "inner"),
            helper.make_node("Identity", ["more"], ["again"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["three", "", "x"], ["y"], body=body)]
    path = save(nodes, {"three": np.array(3, np.int64), "w": weight(WIDTH, WIDTH)})
    product = _only(graph_of(path, X))
    assert (product.role, product.macs) == ("float_weight", 3 * BATCH * TOKENS * WIDTH * WIDTH)


def test_no_file_stays_behind_and_a_wrong_batch_is_a_measure_error(save, tmp_path, monkeypatch):
    own = tmp_path / "temp"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    path = save([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight(WIDTH, 64)})
    assert graph_of(path, X).nodes == 1
    with pytest.raises(MeasureError, match=r"model\.onnx"):
        graph_of(path, {"x": np.ones((1, 1, 3), dtype=np.float32)})
    with pytest.raises(MeasureError, match="input 'x'"):
        graph_of(path, {"other": X["x"]})
    assert list(own.iterdir()) == []


def test_nodes_are_read_without_the_weights_beside_the_file(save, tmp_path):
    path = save([helper.make_node("MatMul", ["x", "w"], ["y"], "n")], {"w": weight(WIDTH, 64)})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="data", size_threshold=50)
    (tmp_path / "data").unlink()
    (node,) = read_nodes(path)
    assert (node.name, node.constants) == ("n", (None, (WIDTH, 64)))


def test_calls_hold_their_own_nodes_and_leave_out_what_only_holds_others():
    def node(name, kind, ts, dur):
        args = {"op_name": kind, "node_index": "3", "input_type_shape": [{"float": [2]}, {"int64": []}]}
        return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}

    events = [
        {"cat": "Session", "name": "model_run", "ts": 100, "dur": 50},
        {"cat": "Session", "name": "model_run", "ts": 10, "dur": 40},
        node("b", "Add", 110, 5),
        node("a", "MatMul", 12, 7),
        node("l", "Loop", 11, 30),
        {"cat": "Node", "name": "a_fence_before", "ts": 12, "dur": 1, "args": {}},
    ]
    first, second = calls_of(events)
    assert (first.ms, second.ms) == (0.04, 0.05)
    (a,), (b,) = first.nodes, second.nodes
    assert (a.name, a.index, a.ms, a.inputs, a.outputs) == ("a", "3", 0.007, ((2,), ()), ())
    (loop,) = first.holders
    assert loop.kind == "Loop" and a.inside == loop.within != b.inside == ""
    assert b.name == "b"


def _branch(tag, names, products):
    """x through products of 32 x 32 weights, one after the other."""
    weights = [numpy_helper.from_array(weight(WIDTH, WIDTH), f"{tag}.w{i}") for i in range(products)]
    nodes, last = [], "x"
    for i, name in enumerate(names):
        nodes.append(helper.make_node("MatMul", [last, f"{tag}.w{i}"], [f"{tag}.y{i}"], name))
        last = f"{tag}.y{i}"
    return helper.make_graph(
        nodes, tag, [], [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)], weights
    )


@pytest.mark.parametrize(
    ("then", "other"),
    [
        (("", ""), ("", "", "")),  # only kind and index tell them apart, which both branches have
        (("a", "b"), ("a", "b", "c")),
        (("a", "b"), ("c", "d")),
        (("MatMul_0", "a"), ("", "")),  # as the profile calls what has no name
    ],
)
@pytest.mark.parametrize("taken", [True, False])
def test_products_in_the_branch_that_ran_are_counted(save, then, other, taken):
    nodes = [
        helper.make_node("MatMul", ["x", "outer"], ["z"], ""),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater" if taken else "Less", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If",
            ["positive"],
            ["p"],
            then_branch=_branch("then", then, len(then)),
            else_branch=_branch("else", other, len(other)),
        ),
        helper.make_node("Add", ["p", "z"], ["y"]),
    ]
    graph = graph_of(save(nodes, {"zero": np.array(0, np.float32), "outer": weight(WIDTH, WIDTH)}), X)
    ran = then if taken else other
    assert graph.uncounted == {} and len(graph.products) == 1 + len(ran)
    assert {product.role for product in graph.products} == {"float_weight"}
    assert graph.macs() == (1 + len(ran)) * BATCH * TOKENS * WIDTH * WIDTH
    names = [product.name for product in graph.products]
    assert sum("then" in name for name in names) == (len(then) if taken else 0)


def test_a_layer_in_a_branch_has_the_name_that_torch_noted(save):
    branches = {"then_branch": _branch("then", ("n",), 1), "else_branch": _branch("else", ("n", "m"), 2)}
    for node in branches["then_branch"].node:
        note = node.metadata_props.add()
        note.key, note.value = "pkg.torch.onnx.name_scopes", "['', 'module', 'module.pooler.dense', 'linear']"
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], **branches),
    ]
    assert _only(graph_of(save(nodes, {"zero": np.array(0, np.float32)}), X)).name == "pooler.dense"


def test_a_product_in_a_loop_is_counted_each_time(save):
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["next"], ""),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, SHAPE),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, SHAPE),
        ],
    )
    path = save(
        [helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)],
        {"times": np.array(3, np.int64), "w": weight(WIDTH, WIDTH)},
    )
    product = _only(graph_of(path, X))
    assert (product.role, product.macs) == ("float_weight", 3 * BATCH * TOKENS * WIDTH * WIDTH)


def test_a_product_that_is_not_found_in_the_file_is_not_called_something_else():
    graph = read_graph(
        [], Call(1.0, (_run("MatMul", ((2, 2),), ((2, 2),)), _run("Relu", ((2,),), ((2,),)))), {}
    )
    assert graph.uncounted == {"MatMul": 1} and graph.products == ()


def _node(kind, inputs, constants, domain="") -> Node:
    return Node("n", domain, kind, tuple(inputs), ("y",), {}, tuple(constants), made=False, unpacks=False)


def _run(kind, inputs, outputs) -> NodeRun:
    return NodeRun("n", "0", kind, 1.0, inputs, outputs)
