"""A training that was stopped anywhere goes on to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.losses import LossConfig
from compress.model import Definition
from compress.progress import Silent
from compress.prune.magnitude import MagnitudePruning
from compress.stage import Context, StageResult
from compress.train import Fit, checkpoint, fit_
from compress.train_config import TrainConfig

CONFIG = TrainConfig(epochs=4, batch_size=16, learning_rate=3e-3, precision="fp32")


class _StopError(Exception):
    """Where a training is stopped."""


class _Said:
    """Progress that remembers its lines, and how far bars came."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.advanced = 0

    def bar(self, description: str, total: int) -> Any:
        self.total = total
        return self

    def __enter__(self) -> _Said:
        return self

    def __exit__(self, *_: object) -> None: ...

    def advance(self, steps: int = 1, facts: str = "") -> None:
        self.advanced += steps

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint after each step, as if each took half a minute."""
    monkeypatch.setattr(checkpoint, "_SECONDS", -1.0)


class _Noisy(nn.Module):
    """Dropout and batch norm: random numbers and buffers that a checkpoint has to have."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.3)
        self.hidden, self.classifier = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(self.hidden(self.norm(features.mean(1))).relu()))


def _noisy() -> _Noisy:
    torch.manual_seed(3)
    return _Noisy().eval()


def _train(
    splits: Splits, config: TrainConfig, folder: Path | None, stop: int = 0
) -> tuple[dict[str, torch.Tensor], Fit | None, _Said]:
    """Train anew; with `stop`, until the step of that number, whose work is lost."""
    module, progress = _noisy(), _Said()

    def after_step(step: int, _: int) -> None:
        if step == stop:
            raise _StopError

    arguments = (module, splits.train, splits.validation, splits.task, config)
    options: dict[str, Any] = {"after_step": after_step, "folder": folder, "progress": progress, "seed": 5}
    if stop:
        with pytest.raises(_StopError):
            fit_(*arguments, **options)
        return module.state_dict(), None, progress
    fit = fit_(*arguments, **options)
    return module.state_dict(), fit, progress


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema": 0.9}, {"batch_size": 5, "accumulate": 3}, {"patience": 1}, {"precision": "bf16"}],
    ids=["plain", "averaged", "accumulated", "patience", "bf16"],
)
@pytest.mark.usefixtures("every_step")
def test_stopped_inside_epochs_it_ends_with_the_same_bits(
    splits: Splits, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = CONFIG.model_copy(update=changes)
    expected, whole, _ = _train(splits, config, None)
    for stop in (2, 3, 8, 11):
        _train(splits, config, tmp_path, stop=stop)
    found, fit, progress = _train(splits, config, tmp_path)
    assert fit is not None and whole is not None
    assert _equal(found, expected)
    assert fit.curve == whole.curve and fit.best_epoch == whole.best_epoch
    assert (fit.resumed_at_epoch, whole.resumed_at_epoch) == (2, None)  # step 10 is of the second epoch's
    assert progress.lines == ["training: resuming at epoch 2"]
    assert progress.advanced == progress.total


def test_without_checkpoints_inside_epochs_it_goes_on_from_the_last_epochs_end(
    splits: Splits, tmp_path: Path
) -> None:
    expected, _, _ = _train(splits, CONFIG, None)
    _train(splits, CONFIG, tmp_path, stop=15)  # 6 steps an epoch
    found, _, progress = _train(splits, CONFIG, tmp_path)
    assert progress.lines == ["training: resuming at epoch 3"]
    assert _equal(found, expected)


def test_one_that_was_finished_is_not_repeated(splits: Splits, tmp_path: Path) -> None:
    expected, _, _ = _train(splits, CONFIG, tmp_path)
    module, steps = _noisy(), []
    progress = _Said()
    fit = fit_(
        module,
        splits.train,
        splits.validation,
        splits.task,
        CONFIG,
        seed=5,
        folder=tmp_path,
        progress=progress,
        after_step=lambda *at: steps.append(at),
    )
    assert _equal(module.state_dict(), expected)
    assert len(fit.curve) == 4 and steps == []
    assert progress.lines == ["training: already finished"]


def test_other_settings_begin_anew(splits: Splits, tmp_path: Path) -> None:
    _train(splits, CONFIG, tmp_path, stop=15)
    slower = CONFIG.model_copy(update={"learning_rate": 1e-3})
    expected, _, _ = _train(splits, slower, None)
    found, fit, progress = _train(splits, slower, tmp_path)
    assert _equal(found, expected)
    assert fit is not None and fit.resumed_at_epoch is None
    assert len(progress.lines) == 1 and "is from another training" in progress.lines[0]


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("stop", [23, 41])
def test_masks_that_a_stage_holds_are_held_on(
    model: nn.Module, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    # 60 steps, cut anew at 20, 40 and 42; 23 and 41 are between two cuts.
    recovery = TrainConfig(epochs=10, batch_size=16, learning_rate=3e-3, precision="fp32")
    stage = MagnitudePruning(sparsity=0.6, schedule="cubic", recovery=recovery)
    expected = stage.apply(model, context).model.state_dict()
    inside = replace(context, folder=tmp_path)
    with monkeypatch.context() as patch:
        _stop_at(patch, stop)
        with pytest.raises(_StopError):
            stage.apply(model, inside)
    made = stage.apply(model, inside)
    assert made.facts["resumed_at_epoch"] == (stop - 1) // 6 + 1
    assert _equal(made.model.state_dict(), expected)


@pytest.mark.usefixtures("every_step")
def test_losses_of_a_part_of_the_training_count_for_that_part(
    model: nn.Module,
    context: Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    definition: Definition,
) -> None:
    losses = LossConfig.model_validate(
        {"labels": {"weight": 1, "between": [0.5, 1]}, "logits": {"weight": 1, "between": [0, 0.5]}}
    )

    def learn(inside: Context) -> StageResult:
        made = StageResult(definition.build(seed=1))
        made.learn_(inside, [model], losses, CONFIG, "learning")
        return made

    expected = learn(context)
    with monkeypatch.context() as patch:
        _stop_at(patch, 15)  # of 24: in the second half
        with pytest.raises(_StopError):
            learn(replace(context, folder=tmp_path))
    again = learn(replace(context, folder=tmp_path))
    assert _equal(again.model.state_dict(), expected.model.state_dict())
    assert again.trainings == ["1-learning"]


def _stop_at(patch: pytest.MonkeyPatch, stop: int) -> None:
    from compress.train.loop import Loop

    step = Loop._step

    def stopped(self: Loop, group: Any) -> float:
        if self.steps == stop:
            raise _StopError
        return step(self, group)

    patch.setattr(Loop, "_step", stopped)


def test_two_trainings_of_one_stage_keep_two_checkpoints(
    model: nn.Module, context: Context, tmp_path: Path
) -> None:
    inside = replace(context, folder=tmp_path, progress=Silent())
    made = StageResult(model)
    for _ in range(2):
        made.fit_(inside, TrainConfig(epochs=1, precision="fp32"), "prune/heads recovery")
    names = ["1-prune-heads-recovery", "2-prune-heads-recovery"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
