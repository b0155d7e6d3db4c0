"""Figures to shares and bounds by hand, and each rule of the advice on figures made for it."""

from __future__ import annotations

import json
import tempfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import ModelError
from compress.measure import Explanation, explain_file
from compress.measure.explain.advice import RULES, Figures, advice, instruction_words
from compress.measure.explain.explanation import FileExplanation, describe, with_integer_rate
from compress.measure.explain.graph import Graph, Product
from compress.measure.explain.products import ROLES
from compress.measure.explain.profile import NodeTime, Profile
from compress.measure.made_inputs import inputs_of, made_batch


def _described(*nodes, wall_ms=10.0) -> FileExplanation:
    """Nodes as (kind, role, ms, macs), or with numbers given out as a fifth."""
    roles, times, products = {}, {}, []
    for index, (kind, role, ms, macs, *numbers) in enumerate(nodes):
        key = (f"layer.{index}", str(index))
        roles[key], times[key] = role, NodeTime(kind, ms, numbers[0] if numbers else 1)
        if macs:
            bits = 4 if role == "low_bit" else None
            products.append(Product(key, f"layer.{index}", kind, role, macs, bits))
    graph = Graph(tuple(products), roles, len(roles), {}, {})
    return describe("m.onnx", Profile(times, graph, 0.003, wall_ms, wall_ms + 0.5, 9))


def _advice(*nodes, threads=1, cores=2, wall_ms=10.0) -> tuple[str, str]:
    """The rule that matched, and its sentence."""
    return advice(Figures(_described(*nodes, wall_ms=wall_ms), threads=threads, cores=cores))


# figures


def test_shares_bounds_and_rates_are_worked_out_by_hand():
    found = _described(
        ("MatMulInteger", "integer", 2.0, 8_000_000),
        ("MatMul", "float_weight", 5.0, 2_000_000),
        ("Add", "other", 1.0, 0),
    )
    integer, floats = found.part("integer"), found.part("float_weight")
    assert (integer.macs_share, integer.share, integer.bound) == (0.8, 0.2, 1.25)
    assert integer.gmacs_per_s == pytest.approx(4.0)  # 8e6 in 2 ms
    assert (floats.macs_share, floats.share, floats.bound) == (0.2, 0.5, 2.0)
    assert (found.between_ms, found.between_share) == (2.0, 0.2)
    assert found.around_share == pytest.approx(0.3)
    assert found.profiling_ms == 0.5
    assert found.part("low_bit").nodes == 0
    assert [each.name for each in found.float_products] == ["layer.1"]


def test_shares_of_a_file_add_up_to_one():
    found = _described(*((f"K{i}", role, 1.0 + i, 0) for i, role in enumerate(ROLES)), wall_ms=40.0)
    assert sum(part.share for part in found.parts) + found.between_share == pytest.approx(1)
    assert sum(kind.share for kind in found.kinds) + found.between_share == pytest.approx(1)


def test_a_file_that_is_one_part_alone_has_no_bound():
    assert _described(("MatMul", "float_weight", 10.0, 5)).part("float_weight").bound is None


def test_quantizing_the_rest_is_estimated_at_the_integer_rate_of_the_file_or_of_the_other():
    both = _described(("A", "integer", 1.0, 8_000_000), ("B", "float_weight", 5.0, 8_000_000))
    assert with_integer_rate(both).if_quantized == pytest.approx(10 / (10 - 5 + 1))
    alone = _described(("B", "float_weight", 5.0, 8_000_000))
    assert with_integer_rate(alone).if_quantized is None
    assert with_integer_rate(alone, both).if_quantized == pytest.approx(10 / 6)
    slow = _described(("A", "integer", 9.0, 1_000))
    assert with_integer_rate(alone, slow).if_quantized == 1.0  # what would be slower is left as it is


# advice


def test_weights_unpacked_in_each_call_come_first():
    rule, said = _advice(("DequantizeLinear", "unpacking", 2.0, 0), ("MatMul", "float_weight", 6.0, 9))
    assert rule == "unpacking" and "20 %" in said and "quantize/int8_dynamic" in said
    assert _advice(("Cos", "unpacking", 2.0, 0), ("MatMul", "float_weight", 6.0, 9))[0] != "unpacking"


def test_float_weights_beside_quantized_ones_are_named():
    rule, said = _advice(("MatMul", "float_weight", 3.7, 9), ("MatMulInteger", "integer", 2.0, 90))
    assert rule == "float_weights" and "37 %" in said and "layer.0" in said
    assert "quantize/int8_dynamic" not in said  # it is applied already


def test_a_float_file_is_advised_int8_and_three_layers_are_named():
    rule, said = _advice(*(("MatMul", "float_weight", 2.0 - i / 10, 9) for i in range(5)))
    assert rule == "float_weights" and "90 %" in said and "quantize/int8_dynamic" in said
    assert "layer.0, layer.1, layer.2" in said and "layer.3" not in said


def test_a_gru_is_not_advised_int8_which_it_cannot_have():
    _, said = _advice(("GRU", "float_weight", 8.0, 90), ("Add", "other", 1.0, 0))
    assert "prune/channels" in said and "int8" not in said
    assert "quantize/int8_dynamic" in _advice(("LSTM", "float_weight", 8.0, 90))[1]


def test_convolutions_are_advised_the_stage_that_quantizes_them():
    for kind in ("Conv", "FusedConv", "NhwcFusedConv"):
        _, said = _advice((kind, "float_weight", 6.0, 90), ("MatMul", "float_weight", 2.0, 9))
        assert "quantize/int8_static" in said
        _, beside = _advice((kind, "float_weight", 6.0, 90), ("MatMulInteger", "integer", 2.0, 9))
        assert "quantize/int8_static" in beside
    _, mostly = _advice(("Conv", "float_weight", 2.0, 90), ("MatMul", "float_weight", 6.0, 9))
    assert "quantize/int8_static" not in mostly and "quantize/int8_dynamic" in mostly
    rule, transposed = _advice(("ConvTranspose", "float_weight", 8.0, 90))
    assert rule == "float_weights" and "int8" not in transposed and "distill/student" in transposed


def test_products_that_are_not_known_are_not_called_none():
    file = _described(("MatMul", "other", 8.0, 0), ("Add", "other", 1.0, 0))
    assert file.around_share == pytest.approx(1)
    unknown = file.model_copy(update={"uncounted": {"MatMul": 1}})
    assert (unknown.uncounted_share, unknown.around_share) == pytest.approx((0.8, 0.2))
    assert advice(Figures(unknown, threads=1, cores=1))[0] != "around"


def test_low_bit_products_save_size():
    rule, said = _advice(("MatMulNBits", "low_bit", 8.0, 90), ("Add", "other", 1.0, 0))
    assert rule == "low_bit" and "80 %" in said and "4-bit" in said and "quantize/int8_dynamic" in said


def test_a_slow_fused_norm_is_named_only_where_it_is_measured_to_be_slow():
    slow = ("SkipLayerNormalization", "other", 3.0, 0, 1000), ("LayerNormalization", "other", 0.1, 0, 100)
    product = ("MatMulInteger", "integer", 5.0, 9)
    rule, said = _advice(*slow, product)
    assert rule == "fused_norm" and "30 %" in said and "3.0 times" in said
    even = ("SkipLayerNormalization", "other", 1.5, 0, 1000), ("LayerNormalization", "other", 0.1, 0, 100)
    assert _advice(*even, product)[0] != "fused_norm"
    assert _advice(slow[0], product)[0] != "fused_norm"  # with nothing to compare it with


def test_a_file_of_many_small_nodes_is_the_runtimes_own_time():
    rule, said = _advice(("MatMulInteger", "integer", 3.0, 9), ("Add", "other", 2.0, 0))
    assert rule == "between" and "50 %" in said and "2 nodes" in said


def test_a_call_shorter_than_its_launches_is_reported_in_microseconds():
    rule, said = _advice(("MatMulInteger", "integer", 0.0006, 9), ("Add", "other", 0.0002, 0), wall_ms=0.0012)
    assert rule == "between" and "1 µs" in said and "0.6 µs" in said


def test_time_between_nodes_that_a_profile_hides_is_not_made_up():
    assert _described(("Add", "other", 10.0 * (1 - 1e-15), 0)).between_ms == 0


def test_attention_cannot_be_quantized_away():
    rule, said = _advice(("MatMul", "activations", 4.0, 9), ("MatMulInteger", "integer", 5.0, 9))
    assert rule == "attention" and "40 %" in said


def test_rounding_and_scaling_are_weighed_against_the_products():
    rule, said = _advice(
        ("Mul", "quantizing", 3.0, 0), ("MatMulInteger", "integer", 5.0, 9), ("Add", "other", 2.0, 0)
    )
    assert rule == "quantizing" and "30 %" in said and "50 %" in said


def test_time_outside_products_asks_for_threads_only_where_there_are_more():
    nodes = ("Softmax", "other", 6.2, 0), ("MatMulInteger", "integer", 3.0, 9)
    rule, said = _advice(*nodes)
    assert rule == "around" and "70 %" in said and "Softmax, 62 %" in said
    assert "threads" in said and "threads" not in _advice(*nodes, threads=2)[1]


def test_integer_products_alone_leave_fewer_multiply_adds():
    rule, said = _advice(("MatMulInteger", "integer", 8.0, 9), ("Add", "other", 1.0, 0))
    assert rule == "no_dominant_part" and "80 %" in said and "multiply-adds" in said


def test_where_no_part_dominates_that_is_the_advice_and_no_rule_fails_on_an_empty_file():
    rule, said = _advice(
        ("A", "float_weight", 1.0, 9), ("B", "low_bit", 2.0, 9), ("C", "activations", 2.5, 9),
        ("D", "quantizing", 2.0, 0), ("E", "other", 2.0, 0),
    )  # fmt: skip
    assert rule == "no_dominant_part" and "%" not in said
    figures = Figures(_described(), threads=1, cores=1)
    assert advice(figures)[1]
    assert RULES["unpacking"](figures) is None


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("avx2", "avx512_vnni", "amx_int8"), "amx_int8"),
        (("avx2", "avx512_vnni"), "avx512_vnni"),
        (("avx2", "avx_vnni"), "avx_vnni"),
        (("avx2", "avx512f"), "reduce_range"),
        (("asimd", "asimddp"), "asimddp"),
        ((), "unknown"),
    ],
)
def test_instruction_sets_are_put_in_words(sets, words):
    assert words in instruction_words(sets)


# files


@pytest.fixture
def save(tmp_path):
    """Write an ONNX file that returns its inputs' types: inputs as name -> (type, shape)."""

    def make(inputs, name="bare.onnx"):
        graph = helper.make_graph(
            [helper.make_node("Identity", [key], [f"{key}_out"]) for key in inputs],
            "g",
            [helper.make_tensor_value_info(key, *each) for key, each in inputs.items()],
            [helper.make_tensor_value_info(f"{key}_out", each[0], None) for key, each in inputs.items()],
        )
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10),
            tmp_path / name,
        )
        return tmp_path / name

    return make


def test_inputs_are_made_by_their_names_types_and_shapes(save):
    path = save(
        {
            "input_ids": (TensorProto.INT64, ["b", "s"]),
            "attention_mask": (TensorProto.INT64, ["b", "s"]),
            "token_type_ids": (TensorProto.INT64, ["b", "s"]),
            "position_ids": (TensorProto.INT32, ["b", "s"]),
            "pixels": (TensorProto.FLOAT, ["b", 3, None]),
            "flag": (TensorProto.BOOL, []),
        }
    )
    made, _ = made_batch(path, inputs_of(path), batch=2, sequence=4)
    assert {key: (value.shape, value.dtype.name) for key, value in made.items()} == {
        "input_ids": ((2, 4), "int64"),
        "attention_mask": ((2, 4), "int64"),
        "token_type_ids": ((2, 4), "int64"),
        "position_ids": ((2, 4), "int32"),
        "pixels": ((2, 3, 4), "float32"),
        "flag": ((), "bool"),
    }
    assert made["attention_mask"].all() and not made["token_type_ids"].any()
    assert made["position_ids"].tolist() == [[0, 1, 2, 3]] * 2
    assert made["input_ids"].min() >= 0 and made["input_ids"].max() < 100


def test_images_and_vectors_have_no_sequence(save):
    path = save({"pixels": (TensorProto.FLOAT, ["b", 3, 8, 8]), "about": (TensorProto.FLOAT, ["b", 5])})
    assert made_batch(path, inputs_of(path), batch=2, sequence=128)[1] is None
    with pytest.raises(ModelError, match="--sequence 4"):
        made_batch(path, inputs_of(path), batch=2, sequence=4, fixed=True)
    made_batch(path, inputs_of(path), batch=2, sequence=1, fixed=True)  # as earlier versions called it


def test_ids_stay_within_a_table_that_has_fewer_than_100_rows(token_model):
    path = token_model()
    (ids, mask) = inputs_of(path)
    assert (ids.limit, mask.limit) == (4, None)
    found = explain_file(path, sequence=50)
    assert (found.batch, found.sequence, found.baseline) == (1, 50, None)


def test_a_length_that_the_file_fixes_is_taken_and_another_is_refused(save):
    path = save({"x": (TensorProto.INT64, ["b", 6])})
    assert explain_file(path).sequence == 6
    with pytest.raises(ModelError, match=r"--sequence 7: .*bare\.onnx takes sequence 6"):
        explain_file(path, sequence=7)
    vector = save({"x": (TensorProto.FLOAT, ["b", 6])}, "vector.onnx")
    assert explain_file(vector).sequence is None and explain_file(vector, sequence=6).sequence is None
    with pytest.raises(ModelError, match=r"--sequence 7: "):
        explain_file(vector, sequence=7)
    fixed = save({"x": (TensorProto.FLOAT, [1, 6])}, "one.onnx")
    with pytest.raises(ModelError, match=r"--batch 2: .*one\.onnx takes batch 1 .*'x'"):
        explain_file(fixed, batch=2)


def test_a_file_beside_another_is_profiled_on_the_same_batch(token_model, tmp_path, monkeypatch):
    own = tmp_path / "temp"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    small = token_model("small.onnx", evidence=np.ones((2, 2), dtype=np.float32))
    found = explain_file(small, token_model(), batch=3, sequence=5)
    assert found.baseline is not None
    assert found.candidate.file.endswith("small.onnx") and found.baseline.file.endswith("model.onnx")
    assert found.advice and found.made_up
    assert Explanation.model_validate_json(found.model_dump_json()) == found
    assert list(own.iterdir()) == []


def test_a_bundle_says_its_longest_text_and_what_its_report_measured(token_model, tmp_path):
    bundle = tmp_path / "bundle"
    (bundle / "onnx").mkdir(parents=True)
    token_model().rename(bundle / "onnx" / "model.onnx")
    (bundle / "manifest.json").write_text(json.dumps({"max_length": 16}))
    assert explain_file(bundle).sequence == 16
    (bundle / "report.json").write_text(json.dumps({"measurement": {"latency": [{"sequence": 7}]}}))
    assert explain_file(bundle).sequence == 7
    with pytest.raises(ModelError, match="--sequence 17: .* 16 tokens"):
        explain_file(bundle, sequence=17)
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match=r"manifest\.json"):
        explain_file(bundle)


def test_what_cannot_be_explained_is_refused_by_file_and_input(save, token_model, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.onnx").write_bytes(b"")
    words = save({"x": (TensorProto.STRING, ["b"])}, "words.onnx")
    unsaid = save({"x": (TensorProto.FLOAT, None)}, "unsaid.onnx")
    for path, match in (
        (tmp_path / "gone.onnx", r"gone\.onnx"),
        (tmp_path / "empty", r"empty.*onnx/model\.onnx"),
        (tmp_path / "text.onnx", r"text\.onnx"),
        (tmp_path / "empty.onnx", r"empty\.onnx"),
        (words, r"words\.onnx.*'x'.*tensor"),
        (unsaid, r"unsaid\.onnx.*'x'.*shape"),
    ):
        with pytest.raises(ModelError, match=match):
            explain_file(path)
    with pytest.raises(ModelError, match="--threads 4096"):
        explain_file(token_model(), threads=4096)
    other = save({"input_ids": (TensorProto.FLOAT, ["b", 6])}, "other.onnx")
    with pytest.raises(ModelError, match=r"'input_ids' is float32 \[1, 6\] in .*other\.onnx and int64"):
        explain_file(token_model(), other)


def test_a_sequence_that_a_model_has_no_positions_for_is_refused_before_it_is_timed(tmp_path):
    table = numpy_helper.from_array(np.ones((1, 8, 2), dtype=np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "table"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "s", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [table],
    )
    path = tmp_path / "positions.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    assert explain_file(path, sequence=8).sequence == 8
    with pytest.raises(ModelError, match=r"positions\.onnx: .*batch 1, sequence 9"):
        explain_file(path, sequence=9)
