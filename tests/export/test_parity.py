"""The ONNX file must answer as its module does: agreement, metric and finite logits are looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper as make
import pytest
import torch
from torch import Tensor, nn

from compress.data import Split
from compress.errors import ParityError
from compress.export import ParityResult, check_parity
from compress.export.parity import _options
from compress.model.recurrent import Int8LSTM
from compress.task import InputSpec, Task

INPUTS = (InputSpec("features", "float32", (2,)),)
TASK = Task(INPUTS, ("a", "b"))


class _Same(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features


def _split(logits: list[list[float]], labels: list[int]) -> Split:
    rows = tuple({"features": np.array(row, np.float32)} for row in logits)
    return Split("validation", rows, np.array(labels, np.int64), INPUTS)


def _file(folder: Path, add: list[float]) -> Path:
    """Write a file that answers with its input plus a constant, [2]."""
    shape = ["batch_size", 2]
    graph = make.make_graph(
        [make.make_node("Add", ["features", "constant"], ["logits"])],
        "g",
        [make.make_tensor_value_info("features", onnx.TensorProto.FLOAT, shape)],
        [make.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape)],
        [make.make_tensor("constant", onnx.TensorProto.FLOAT, [2], add)],
    )
    path = folder / "model.onnx"
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10), path)
    return path


# Answers a, a, a, b; with 1.5 added to b's logit the third becomes b.
FOUR = _split([[4, 0], [3, 0], [1, 0], [0, 1]], [0, 0, 0, 1])


def test_a_file_that_answers_alike_passes_with_its_figures(tmp_path: Path) -> None:
    found = check_parity(
        _Same(), _file(tmp_path, [0, 0]), FOUR, TASK, min_agreement=1, max_metric_difference=0
    )
    assert found == ParityResult(rows=4, agreement=1.0, metric_difference=0.0, max_abs_error=0.0)


def test_figures_are_counted_by_hand(tmp_path: Path) -> None:
    path = _file(tmp_path, [0, 1.5])
    found = check_parity(
        _Same(), path, FOUR, TASK, min_agreement=0.75, max_metric_difference=0.25, batch_size=3
    )
    assert found == ParityResult(rows=4, agreement=0.75, metric_difference=-0.25, max_abs_error=1.5)


@pytest.mark.parametrize(("min_agreement", "max_metric_difference"), [(0.76, 1.0), (0.0, 0.24)])
def test_either_limit_refuses(tmp_path: Path, min_agreement: float, max_metric_difference: float) -> None:
    with pytest.raises(ParityError) as caught:
        check_parity(
            _Same(),
            _file(tmp_path, [0, 1.5]),
            FOUR,
            TASK,
            min_agreement=min_agreement,
            max_metric_difference=max_metric_difference,
        )
    assert str(caught.value) == (
        "model.onnx does not answer as the PyTorch model it came from: on 4 validation rows they agree on "
        f"75.0% (at least {min_agreement:.1%} wanted), accuracy differs by -0.2500 "
        f"(at most {max_metric_difference:g}); nothing was published"
    )


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused_whatever_the_limits(tmp_path: Path, broken: float) -> None:
    path = _file(tmp_path, [broken, 0])
    with pytest.raises(ParityError, match=r"infinite or undefined logits on validation rows"):
        check_parity(_Same(), path, FOUR, TASK, min_agreement=0, max_metric_difference=1)


def test_the_module_is_left_in_its_mode(tmp_path: Path) -> None:
    module = _Same().train()
    check_parity(module, _file(tmp_path, [0, 0]), FOUR, TASK, min_agreement=1, max_metric_difference=0)
    assert module.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("quota", "threads"), [(None, 0), (2, 2)])  # 0: as many as there are
def test_a_layer_that_is_defined_as_on_one_thread_is_asked_on_one(
    monkeypatch: pytest.MonkeyPatch, quota: int | None, threads: int
) -> None:
    monkeypatch.setattr("compress.export.parity.quota_cores", lambda: quota)
    assert _options(nn.Sequential(Int8LSTM(2, 2))).intra_op_num_threads == 1
    assert _options(_Same()).intra_op_num_threads == threads
