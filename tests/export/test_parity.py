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
from compress.export import check_parity, export_onnx
from compress.export.parity import _options
from compress.facts import Parity
from compress.model.layers.recurrent import Int8LSTM
from compress.tasks import Classification, InputSpec, Task

INPUTS = (InputSpec("features", "float32", (2,)),)
TASK = Classification(INPUTS, ("a", "b"))


class _Same(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features


def _split(logits: list[list[float]], labels: list[int]) -> Split:
    rows = tuple({"features": np.array(row, np.float32)} for row in logits)
    return Split("validation", rows, np.array(labels, np.int64), INPUTS)


def _file(folder: Path, add: list[float]) -> Path:
    """Write a file that answers with its input plus a constant, of as many numbers."""
    shape = ["batch_size", len(add)]
    graph = make.make_graph(
        [make.make_node("Add", ["features", "constant"], ["logits"])],
        "g",
        [make.make_tensor_value_info("features", onnx.TensorProto.FLOAT, shape)],
        [make.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape)],
        [make.make_tensor("constant", onnx.TensorProto.FLOAT, [len(add)], add)],
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
    assert found == Parity(
        rows=4,
        agreement=1.0,
        metric_difference=0.0,
        max_abs_error=0.0,
        relative_error=0.0,
        min_agreement=1,
        max_metric_difference=0,
        max_relative_error=1e-3,
    )


def test_figures_are_counted_by_hand(tmp_path: Path) -> None:
    path = _file(tmp_path, [0, 1.5])
    found = check_parity(
        _Same(),
        path,
        FOUR,
        TASK,
        min_agreement=0.75,
        max_metric_difference=0.25,
        max_relative_error=1,
        batch_size=3,
    )
    assert (found.rows, found.agreement, found.metric_difference, found.max_abs_error) == (
        4,
        0.75,
        -0.25,
        1.5,
    )
    assert (found.min_agreement, found.max_metric_difference, found.max_relative_error) == (0.75, 0.25, 1)
    # Each row's outputs differ by 0 and 1.5; from row to row they vary by 2.5 and 0.1875.
    assert found.relative_error == pytest.approx(((1.5**2 / 2) / ((2.5 + 0.1875) / 2)) ** 0.5)


@pytest.mark.parametrize("limits", [(0.76, 1.0, 1.0), (0.0, 0.24, 1.0), (0.0, 1.0, 0.91), (0.0, 1.0, None)])
def test_each_limit_refuses(tmp_path: Path, limits: tuple[float, float, float | None]) -> None:
    names = ("min_agreement", "max_metric_difference", "max_relative_error")
    with pytest.raises(ParityError, match=r"75\.0%.*-0\.2500.*0\.91"):
        check_parity(_Same(), _file(tmp_path, [0, 1.5]), FOUR, TASK, **dict(zip(names, limits, strict=True)))


class _Scaled(_Same):
    def __init__(self, by: float, add: float = 0.0) -> None:
        super().__init__()
        self.by, self.add = by, add

    def forward(self, features: Tensor) -> Tensor:
        return features * self.by + self.add


def _one_logit(tmp_path: Path, add: float) -> tuple[Path, Split, Task]:
    """Write a file whose one logit is its one input plus a constant; rows vary by 1."""
    inputs = (InputSpec("features", "float32", (1,)),)
    rows = tuple({"features": np.array([value], np.float32)} for value in (6, 8, 6, 8))
    split = Split("validation", rows, np.zeros(4, np.int64), inputs)
    return _file(tmp_path, [add]), split, Classification(inputs, ("score",))


@pytest.mark.parametrize(("add", "holds"), [(0.0, True), (0.0005, True), (0.002, False), (-3.0, False)])
def test_one_logit_is_judged_by_its_distance(tmp_path: Path, add: float, holds: bool) -> None:
    path, split, task = _one_logit(tmp_path, add)
    limits = {"min_agreement": 1.0, "max_metric_difference": 0.0}
    if holds:
        found = check_parity(_Scaled(1), path, split, task, **limits)
        assert found.relative_error == pytest.approx(add, abs=1e-6)  # float32 of values around 8
        return
    with pytest.raises(ParityError):
        check_parity(_Scaled(1), path, split, task, **limits)


@pytest.mark.parametrize(("by", "holds"), [(0.0, False), (1.0, True)])
def test_a_module_of_constant_outputs_needs_the_same_constants(
    tmp_path: Path, by: float, holds: bool
) -> None:
    rows = tuple({"features": np.array([5, 5], np.float32)} for _ in range(4))
    split = Split("validation", rows, np.zeros(4, np.int64), INPUTS)
    module = _Scaled(by, add=0 if holds else 4.9)
    try:
        check_parity(module, _file(tmp_path, [0, 0]), split, TASK, min_agreement=1, max_metric_difference=0)
    except ParityError:
        assert not holds
    else:
        assert holds


def test_rounded_activations_are_given_more(tmp_path: Path) -> None:
    path, split, task = _one_logit(tmp_path, 0.2)
    module = _Scaled(1)
    module.int8_activations = True  # type: ignore[assignment]
    found = check_parity(module, path, split, task, min_agreement=1, max_metric_difference=0)
    assert found.relative_error == pytest.approx(0.2, rel=1e-3)


def test_as_many_rows_may_be_apart_as_needn_t_agree(tmp_path: Path) -> None:
    rows = tuple({"features": np.array([0, value], np.float32)} for value in (1, 2, 3, 400))
    split = Split("validation", rows, np.ones(4, np.int64), INPUTS)

    class Clipped(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features.clamp(max=380)

    def check(share: float) -> float:
        path = _file(tmp_path, [0, 0])
        return check_parity(
            Clipped(),
            path,
            split,
            TASK,
            min_agreement=share,
            max_metric_difference=0,
            max_relative_error=0.01,
        ).relative_error

    assert check(0.6) == 0
    with pytest.raises(ParityError):
        check(1)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused_whatever_the_limits(tmp_path: Path, broken: float) -> None:
    path = _file(tmp_path, [broken, 0])
    with pytest.raises(ParityError, match=r"model\.onnx .*validation"):
        check_parity(_Same(), path, FOUR, TASK, min_agreement=0, max_metric_difference=1)


class _Rounded(nn.Module):
    """As rounding to integers does, makes some number of what is none."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), 100.0, x)


class _Mean(nn.Module):
    """Mean over tokens, of which there are at least `least`."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.rounded, self.out = least, _Rounded(), nn.Linear(2, 2)

    def forward(self, features: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[..., None].float()
        mean = (features * mask).sum(1) / mask.sum(1).clamp(min=self.least)
        found: Tensor = self.out(self.rounded(mean))
        return found


def test_a_mean_over_no_tokens_is_named(tmp_path: Path) -> None:
    inputs = (
        InputSpec("features", "float32", ("s", 2)),
        InputSpec("attention_mask", "int64", ("s",)),
    )
    task, draw = Classification(inputs, ("a", "b")), np.random.default_rng(0)
    rows = tuple(
        {"features": draw.random((n, 2), dtype=np.float32), "attention_mask": np.ones(n, np.int64)}
        for n in (3, 4, 6)
    )
    split = Split("validation", rows, np.array([0, 1, 0]), inputs)
    right, wrong = _Mean(1).eval(), _Mean(0).eval()
    wrong.load_state_dict(right.state_dict())
    path = export_onnx(right, split, task, tmp_path / "model.onnx")
    with pytest.raises(ParityError, match=r"rounded gets NaN.*clamp"):
        check_parity(wrong, path, split, task, min_agreement=1, max_metric_difference=0)


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
