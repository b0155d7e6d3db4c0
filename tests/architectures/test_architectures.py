"""The table of architectures says what happens."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from compress.data.split import Split
from compress.tasks import Classification, InputSpec
from tests.architectures.answers import differences
from tests.architectures.families import ENTRIES, KINDS
from tests.architectures.trial import COLUMNS, EXPORT, FAULT, GROUPS, YES, cells

ROOT = Path(__file__).resolve().parents[2]
# One of each kind: its file, a stage that is refused, and for one kind the file of a stage's result.
QUICK = {
    "electra": (EXPORT, "quantize/int8_dynamic", "prune/channels"),
    "qwen3 (language model)": (EXPORT, "prune/vocabulary"),
    "vit": (EXPORT, "prune/vocabulary"),
}


@pytest.fixture(scope="module")
def kept() -> dict[str, dict[str, str]]:
    spec = importlib.util.spec_from_file_location("architectures", ROOT / ".ci" / "architectures.py")
    assert spec is not None and spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    found: Any = command.rows()
    return found


def test_the_table_has_no_fault_and_no_row_of_another_time(kept: dict[str, dict[str, str]]) -> None:
    assert kept.keys() <= ENTRIES.keys()
    assert not [
        (name, column)
        for name, each in kept.items()
        for column, said in each.items()
        if said.startswith(FAULT)
    ]
    assert all(set(each) <= set(COLUMNS) for each in kept.values())


def test_every_stage_of_the_table_is_in_one_group() -> None:
    grouped = [stage for group in GROUPS for stage in group]
    assert len(grouped) == len(set(grouped)) and set(grouped) == {each for each in COLUMNS if "/" in each}
    assert {each.kind for each in ENTRIES.values()} == set(KINDS)


def _mean_then(weight: np.ndarray, path: Path) -> Path:
    """A file that multiplies the mean over positions by a weight [c, f]."""
    shapes = {"features": ["b", "s", 4], "logits": ["b", 3]}
    features, logits = (helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items())
    axes, matrix = numpy_helper.from_array(np.array([1]), "axes"), numpy_helper.from_array(weight.T, "matrix")
    nodes = [
        helper.make_node("ReduceMean", ["features", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "mean", [features], [logits], [axes, matrix])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_a_file_of_other_weights_is_said_to_differ_at_each_length(tmp_path: Path) -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = nn.Linear(4, 3, bias=False)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.answer(features.mean(1))

    module, inputs = Mean(), (InputSpec("features", "float32", ("s", 4)),)
    draw = np.random.default_rng(0)
    rows = tuple({"features": draw.normal(size=(size, 4)).astype(np.float32)} for size in (5, 9, 20))
    split, task = (
        Split("validation", rows, np.zeros(3, np.int64), inputs),
        Classification(inputs, ("a", "b", "c")),
    )
    weight = module.answer.weight.detach().numpy()
    assert differences(module, _mean_then(weight, tmp_path / "same.onnx"), split, task, 20) == []
    other = _mean_then(1.01 * weight, tmp_path / "other.onnx")
    assert (
        len(differences(module, other, split, task, 20)) == 5
    )  # 1, 2, 17 and 20 positions, and 7 rows of 17


@pytest.mark.parametrize("name", QUICK)
def test_one_of_each_kind_does_what_its_row_says(name: str, kept: dict[str, dict[str, str]]) -> None:
    found = cells(name, QUICK[name], say=lambda line: None)
    assert found == {column: kept[name][column] for column in QUICK[name]}
    assert found[EXPORT] == YES


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_every_row_says_what_happens(name: str, kept: dict[str, dict[str, str]]) -> None:
    found = cells(name, say=lambda line: None)
    assert not [said for said in found.values() if said.startswith(FAULT)]
    assert found == kept.get(name, found)  # a row that was not made yet
