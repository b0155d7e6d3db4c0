"""Averaged weights are what the formula says, and are what is validated and kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.data import Splits, from_arrays
from compress.train import evaluate, fit_
from compress.train.average import WeightAverage
from compress.train_config import TrainConfig


def test_one_weight_is_averaged_as_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = WeightAverage(module, decay=0.2)
    module.weight.data.fill_(11.0)
    average.update_(1)  # decay 2/11: 2/11 * 0 + 9/11 * 11
    assert average.values["weight"].item() == pytest.approx(9.0)
    module.weight.data.fill_(4.0)
    average.update_(2)  # (1 + 2) / (10 + 2) = 0.25 is above the decay: 0.2 * 9 + 0.8 * 4
    assert average.values["weight"].item() == pytest.approx(5.0)


def test_the_weights_come_back_after_the_block_even_if_it_fails() -> None:
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, decay=0.5)
    before = module.weight.item()
    module.weight.data.fill_(7.0)
    with pytest.raises(ZeroDivisionError), average.in_place():
        assert module.weight.item() == before
        raise ZeroDivisionError
    assert module.weight.item() == 7.0 and average.values["weight"].item() == before


class _Tiny(nn.Module):
    """A linear classifier with a buffer that every training step changes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.classifier = nn.Linear(4, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(features.mean(1)))


def test_training_keeps_the_average_of_a_linear_model_that_numpy_computes(splits: Splits) -> None:
    torch.manual_seed(0)
    module, decay = _Tiny(), 0.6
    seen = [module.classifier.weight.detach().numpy().copy()]
    means = []

    def after_step(step: int, total: int) -> None:
        seen.append(module.classifier.weight.detach().numpy().copy())
        means.append(module.norm.running_mean.clone())

    config = TrainConfig(epochs=2, batch_size=16, learning_rate=3e-2, ema=decay, precision="fp32")
    fit = fit_(
        module,
        splits.train,
        splits.validation,
        splits.task,
        config,
        after_step=after_step,
        first_kept_epoch=2,
    )
    expected = seen[0].astype(np.float64)
    for step, weights in enumerate(seen[1:], start=1):
        now = min(decay, (1 + step) / (10 + step))
        expected = now * expected + (1 - now) * weights
    kept = module.classifier.weight.detach().numpy()
    assert len(seen) == 13 and np.abs(expected - seen[-1]).max() > 1e-3  # else nothing was averaged
    # Twelve float32 interpolations of numbers around 1: 12 * 6e-8, and some room.
    np.testing.assert_allclose(kept, expected, rtol=0, atol=2e-6)
    assert torch.equal(module.norm.running_mean, means[-1])  # buffers are those of the last step
    found = evaluate(module, splits.validation, splits.task)
    assert found["validation_loss"] == fit.curve[1]["validation_loss"]


def test_without_a_decay_the_kept_weights_are_those_of_the_last_step(splits: Splits) -> None:
    module, seen = _Tiny(), []
    config = TrainConfig(epochs=1, batch_size=16, learning_rate=3e-2, precision="fp32")
    fit_(
        module,
        splits.train,
        splits.validation,
        splits.task,
        config,
        after_step=lambda *_: seen.append(module.classifier.weight.detach().clone()),
    )
    assert torch.equal(module.classifier.weight, seen[-1])


def test_a_model_learns_with_averaged_weights() -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = np.eye(4, dtype=np.float32)[labels][:, None] * 3 + draw.normal(0, 0.3, (60, 1, 4)).astype("f4")
    rows = {"features": features, "labels": labels}
    data = from_arrays({k: v[:40] for k, v in rows.items()}, {k: v[40:] for k, v in rows.items()})
    module = _Tiny()
    config = TrainConfig(epochs=10, batch_size=8, learning_rate=3e-2, ema=0.9, precision="fp32")
    fit_(module, data.train, data.validation, data.task, config)
    assert (
        evaluate(module, data.validation, data.task)["validation_metric"] == 1.0
    )  # far apart: 3 against 0.3
