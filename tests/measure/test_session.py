from __future__ import annotations

import numpy as np
import pytest

from compress.errors import MeasureError
from compress.measure import create_session
from compress.measure.explain.operators import count_operators, operators_of
from compress.measure.runtimes.session import answer, feeds, session_options


def test_create_session_sets_what_session_options_says(token_model):
    session = create_session(token_model(), threads=1)
    options = session.get_session_options()
    said = session_options([1])
    assert session.get_providers() == [said["providers"]]
    assert str(options.intra_op_num_threads) == said["intra_op_num_threads"]
    assert str(options.inter_op_num_threads) == said["inter_op_num_threads"]
    assert options.graph_optimization_level.name == said["graph_optimization_level"]
    key = "session.intra_op.allow_spinning"
    assert options.get_session_config_entry(key) == said[key] == "0"


def test_create_session_names_a_file_that_onnxruntime_refuses(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(MeasureError, match=r"broken\.onnx"):
        create_session(path, threads=1)


def test_feeds_leaves_out_inputs_and_labels_that_the_file_does_not_take(token_model, token_split):
    session = create_session(token_model(masked=False), threads=1)
    batch = next(token_split.batches(2))
    assert list(feeds(batch, session)) == ["input_ids"]


def test_feeds_names_an_input_that_the_data_lacks(token_model, feature_split):
    session = create_session(token_model(), threads=1)
    with pytest.raises(MeasureError, match="'input_ids', 'attention_mask'.*features"):
        feeds(next(feature_split.batches(1)), session)


def test_answer_returns_logits_worked_out_by_hand(feature_model):
    weight = np.array([[1, 0]] * 3 + [[0, 1]] * 3, dtype=np.float32)
    session = create_session(feature_model(weight=weight), threads=1)
    logits = answer(session, {"features": np.full((2, 3, 2), 2, dtype=np.float32)})
    assert logits.tolist() == [[7.0, 5.0], [7.0, 5.0]]  # 3 * 2 + 1 and 3 * 2 - 1


def test_operators_of_counts_what_runs_after_fusion(feature_model, feature_split, tmp_path):
    batch = next(feature_split.batches(1))
    found = operators_of(feature_model(), batch, threads=1, folder=tmp_path)
    # ONNX Runtime makes one Gemm of MatMul and Add; Flatten stays.
    assert found == {"Flatten": 1, "Gemm": 1}


def test_count_operators_counts_a_node_of_a_loop_once_and_ignores_other_events():
    def node(name, kind, index, ts=0, dur=1):
        args = {"op_name": kind, "node_index": index}
        return {"cat": "Node", "name": name, "ts": ts, "dur": dur, "args": args}

    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        node("a_fence_before", "MatMul", "0"),
        node("a_kernel_time", "MatMul", "0"),
        node("a_kernel_time", "MatMul", "0"),
        node("b_kernel_time", "MatMul", "1"),
        node("c_kernel_time", "Add", "2"),
    ]
    assert count_operators(events) == {"MatMul": 2, "Add": 1}
    # In the branch of an If names and indices begin anew.
    events += [node("a_kernel_time", "MatMul", "0", 11), node("if_kernel_time", "If", "3", 10, 5)]
    assert count_operators(events) == {"MatMul": 3, "Add": 1, "If": 1}
