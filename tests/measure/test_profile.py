from __future__ import annotations

import tempfile

import numpy as np
import pytest

from compress.errors import MeasureError
from compress.measure.explain.profile import charge, profile_in_turns


def test_a_profile_holds_every_node_and_no_file_stays_behind(token_model, token_split, tmp_path, monkeypatch):
    own = tmp_path / "temp"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    batch = next(token_split.batches(4))
    masked, bare = profile_in_turns(
        [token_model(), token_model("bare.onnx", masked=False)], batch, threads=1, turns=2, turn_seconds=0.001
    )
    assert sorted(node.kind for node in masked.nodes.values()) == [
        "Cast", "Gather", "Mul", "ReduceSum", "Unsqueeze",
    ]  # fmt: skip
    assert sorted(node.kind for node in bare.nodes.values()) == ["Gather", "ReduceSum"]
    assert masked.nodes.keys() == masked.graph.roles.keys()
    assert masked.nodes_ms <= masked.wall_ms * (1 + 1e-9)
    assert min(masked.calls, bare.calls) >= 2
    gather = next(node for node in bare.nodes.values() if node.kind == "Gather")
    assert gather.numbers == 4 * 6 * 2  # rows, the longest row, classes
    assert list(own.iterdir()) == []


def test_a_batch_that_a_file_refuses_is_a_measure_error_and_leaves_no_file(token_model, tmp_path):
    wrong = {"input_ids": np.array([[99]]), "attention_mask": np.array([[1]])}
    folder = tmp_path / "own"
    folder.mkdir()
    with pytest.raises(MeasureError, match=r"model\.onnx: .*input_ids \[1, 1\]"):
        profile_in_turns([token_model()], wrong, threads=1, folder=folder)
    assert list(folder.iterdir()) == []


def test_nodes_are_charged_less_the_cheapest_ones_time():
    times, floor = charge([0.003, 0.003, 0.013, 1.003], wall_ms=1.2, profiled_ms=1.3)
    assert floor == pytest.approx(0.003)
    assert times == pytest.approx([0, 0, 0.01, 1.0])


def test_the_floor_is_at_most_half_of_what_profiling_costs_a_node():
    times, floor = charge([0.5, 0.6], wall_ms=1.2, profiled_ms=1.208)
    assert floor == pytest.approx(0.002)
    assert times == pytest.approx([0.498, 0.598])
    assert charge([0.5], wall_ms=1.0, profiled_ms=0.9) == ([0.5], 0.0)  # a profile can be luckier


def test_nodes_that_take_longer_than_the_call_are_scaled_to_it():
    times, _ = charge([1.0, 3.0], wall_ms=2.0, profiled_ms=2.0)
    assert times == pytest.approx([0.5, 1.5])
    assert charge([], wall_ms=1.0, profiled_ms=1.0) == ([], 0.0)
