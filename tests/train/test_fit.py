"""The training loop learns, keeps its best epoch, and repeats itself under a seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.errors import StageError
from compress.model import Definition
from compress.stage import Context, StageResult
from compress.train import evaluate, fit_
from compress.train_config import TrainConfig

CONFIG = TrainConfig(epochs=3, batch_size=16, learning_rate=3e-3)


def test_training_learns_three_easy_classes(model: nn.Module, splits: Splits) -> None:
    before = evaluate(model, splits.validation, splits.task)["validation_metric"]
    fit = fit_(model, splits.train, splits.validation, splits.task, CONFIG)
    after = evaluate(model, splits.validation, splits.task)["validation_metric"]
    assert after > max(before, 0.8)  # 48 rows, means 2 standard deviations apart: chance is 0.33
    assert after == fit.curve[fit.best_epoch - 1]["validation_metric"]
    assert not model.training and fit.precision == "fp32"


def test_the_same_seed_gives_the_same_weights(definition: Definition, splits: Splits) -> None:
    results = []
    for seed in (1, 1, 2):
        module = definition.build()
        fit_(module, splits.train, splits.validation, splits.task, CONFIG, seed=seed)
        results.append(module.state_dict()["classifier.weight"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_callers_random_numbers_are_left_alone(model: nn.Module, splits: Splits) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit_(model, splits.train, splits.validation, splits.task, TrainConfig(epochs=1))
    assert torch.equal(torch.rand(1), expected)


def test_early_stopping_stops_after_the_epochs_of_patience(model: nn.Module, splits: Splits) -> None:
    config = TrainConfig(epochs=50, batch_size=16, learning_rate=1e-12, patience=2)  # too slow to get better
    fit = fit_(model, splits.train, splits.validation, splits.task, config)
    assert len(fit.curve) < 50
    assert len(fit.curve) == fit.best_epoch + 2


def test_epochs_before_the_first_kept_one_cannot_be_the_best(model: nn.Module, splits: Splits) -> None:
    fit = fit_(model, splits.train, splits.validation, splits.task, CONFIG, first_kept_epoch=3)
    assert fit.best_epoch == 3


def test_after_step_sees_every_step(model: nn.Module, splits: Splits) -> None:
    seen: list[tuple[int, int]] = []
    fit_(model, splits.train, splits.validation, splits.task, CONFIG, after_step=lambda *at: seen.append(at))
    assert seen == [(step, 18) for step in range(1, 19)]  # 96 rows / 16, three epochs


def test_a_loss_that_explodes_is_an_error_with_advice(model: nn.Module, splits: Splits) -> None:
    with pytest.raises(StageError, match=r"the loss became (inf|nan) in epoch 1; try a lower learning_rate"):
        fit_(
            model, splits.train, splits.validation, splits.task, CONFIG, loss=lambda y, _: y.sum() * torch.inf
        )


def test_a_loss_that_explodes_later_stops_and_keeps_the_best_epoch(
    model: nn.Module, splits: Splits, context: Context
) -> None:
    steps: list[int] = []

    def loss(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        steps.append(1)
        value = splits.task.loss(logits, batch["labels"])
        return value if len(steps) <= 8 else value * torch.inf  # six steps an epoch

    config = CONFIG.model_copy(update={"precision": "fp32"})
    made = StageResult(model)
    made.fit_(context, config, "training", loss=loss)
    assert made.facts["best_epoch"] == 1 and len(made.curve) == 1
    assert "the loss became inf in epoch 2" in made.facts["diverged"]
    assert all(bool(torch.isfinite(each).all()) for each in model.state_dict().values())
    found = evaluate(model, splits.validation, splits.task)["validation_metric"]
    assert found == made.curve[0]["validation_metric"]


def test_bf16_trains_too(model: nn.Module, splits: Splits) -> None:
    config = CONFIG.model_copy(update={"precision": "bf16"})
    fit = fit_(model, splits.train, splits.validation, splits.task, config)
    assert fit.precision == "bf16"
    assert fit.curve[-1]["validation_metric"] > 0.7
