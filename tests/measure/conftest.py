"""Tiny ONNX files and rows whose right answers can be worked out by hand.

Shapes: b = batch, s = sequence, v = vocabulary, c = classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.data.split import Split
from compress.measure.process import pair, worker
from compress.tasks import Classification, InputSpec

TOKEN_INPUTS = (
    InputSpec("input_ids", "int64", ("sequence_length",)),
    InputSpec("attention_mask", "int64", ("sequence_length",)),
)
FEATURE_INPUTS = (InputSpec("features", "float32", ("sequence_length", 2)),)

TOKENS = Classification(TOKEN_INPUTS, ("zero", "one"))
FEATURES = Classification(FEATURE_INPUTS, ("zero", "one"))

# Evidence of each token for class 0 and class 1, [v, c]; token 0 is padding, and it shouts for class 0.
EVIDENCE = np.array([[9, 0], [1, 0], [0, 1], [0, 2]], dtype=np.float32)


# As they are before tests/conftest.py puts others in their place.
RUN, LOAD = pair._run, worker.measure_load


@pytest.fixture(scope="module", autouse=True)
def _measuring_in_processes_of_their_own():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair, "_run", RUN)
        patch.setattr(worker, "measure_load", LOAD)
        yield


def _save(nodes, inputs, constants, path: Path, external: str | None = None) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    # IR 10 and opset 17 are what every onnxruntime that we allow can read.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    if external is None:
        onnx.save(model, path)
    else:
        # Axes must stay in the file for shape inference; onnx adds a bytes object's 33 bytes to each size.
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=50)
    return path


@pytest.fixture
def token_model(tmp_path):
    """Make a classifier that sums the evidence of its tokens; `masked=False` makes it count padding too."""

    def make(name="model.onnx", *, masked=True, evidence=EVIDENCE, external=None) -> Path:
        nodes = [helper.make_node("Gather", ["evidence", "input_ids"], ["found"])]  # [b, s, c]
        names = ["input_ids"]
        constants = {"evidence": evidence, "along": np.array([1], dtype=np.int64)}
        if masked:
            names.append("attention_mask")
            constants["last"] = np.array([2], dtype=np.int64)
            nodes += [
                helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
                helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
                helper.make_node("Mul", ["found", "mask3"], ["counted"]),
            ]
        last = "counted" if masked else "found"
        nodes.append(helper.make_node("ReduceSum", [last, "along"], ["logits"], keepdims=0))
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "s"]) for n in names]
        return _save(nodes, inputs, constants, tmp_path / name, external)

    return make


@pytest.fixture
def feature_model(tmp_path):
    """Make a linear classifier of rows [3, 2] with weights [6, 2]."""

    def make(name="features.onnx", weight=None) -> Path:
        if weight is None:
            weight = np.ones((6, 2), dtype=np.float32)
        nodes = [
            helper.make_node("Flatten", ["features"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["logits"]),
        ]
        inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3, 2])]
        constants = {"weight": weight, "bias": np.array([1, -1], dtype=np.float32)}
        return _save(nodes, inputs, constants, tmp_path / name)

    return make


def _tokens(*rows: list[int], labels: list[int]) -> Split:
    made = tuple(
        {"input_ids": np.array(ids, dtype=np.int64), "attention_mask": np.ones(len(ids), dtype=np.int64)}
        for ids in rows
    )
    return Split("test", made, np.array(labels, dtype=np.int64), TOKEN_INPUTS)


@pytest.fixture
def token_split() -> Split:
    """Four rows; the tiny model says 0, 1, 1, 0, so the last one is wrong."""
    return _tokens([1, 1, 2], [2, 2, 1, 2, 2, 2], [3], [1], labels=[0, 1, 1, 1])


@pytest.fixture
def make_tokens():
    return _tokens


@pytest.fixture
def feature_split() -> Split:
    rows = tuple({"features": np.full((3, 2), value, dtype=np.float32)} for value in (1.0, 2.0))
    return Split("test", rows, np.array([0, 1], dtype=np.int64), FEATURE_INPUTS)
