"""The smallest weights become zero and stay zero."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.errors import StageError
from compress.prune.magnitude import MagnitudePruning, cubic_sparsity, keep_masks
from compress.stage import Context
from compress.train_config import TrainConfig


def test_keep_masks_drops_the_smallest_of_each_layer() -> None:
    weights = {"a": torch.tensor([[1.0, -4.0, 2.0, -3.0]]), "b": torch.tensor([[10.0, 40.0, 20.0, 30.0]])}
    masks = keep_masks(weights, 0.5, "layer")
    assert masks["a"].tolist() == [[False, True, False, True]]
    assert masks["b"].tolist() == [[False, True, False, True]]


def test_keep_masks_compares_all_layers_when_global() -> None:
    weights = {"a": torch.tensor([[1.0, -4.0, 2.0, -3.0]]), "b": torch.tensor([[10.0, 40.0, 20.0, 30.0]])}
    masks = keep_masks(weights, 0.5, "global")
    assert not masks["a"].any() and masks["b"].all()


def test_keep_masks_drops_exactly_the_floor_even_of_equal_weights() -> None:
    masks = keep_masks({"a": torch.ones(1, 7)}, 0.5, "global")
    assert masks["a"].tolist() == [[False, False, False, True, True, True, True]]


def test_cubic_sparsity_begins_at_zero_and_ends_at_the_final_one() -> None:
    # Zhu & Gupta 2017, eq. 1 with s_i = 0: half way, 1 - 1/8 of the final sparsity.
    assert [cubic_sparsity(x, 0.8) for x in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([0.0, 0.7, 0.8, 0.8])


def zeros_share(model: nn.Module) -> float:
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("schedule", ["one_shot", "cubic"])
def test_sparsity_is_reached_and_survives_recovery(model: nn.Module, context: Context, schedule: str) -> None:
    recovery = TrainConfig(epochs=3, batch_size=16, learning_rate=3e-3)
    stage = MagnitudePruning(sparsity=0.6, schedule=schedule, recovery=recovery)
    made = stage.apply(model, context)
    pruned = made.model
    total = made.facts["weights_in_scope"]
    assert made.facts["weights_zeroed"] == int(total * 0.6)
    assert zeros_share(pruned) == pytest.approx(0.6, abs=1 / total)
    assert len(made.curve) == 3


def test_without_recovery_the_other_weights_are_untouched(model: nn.Module, context: Context) -> None:
    pruned = MagnitudePruning(sparsity=0.3).apply(model, context).model
    for name, weight in pruned.state_dict().items():
        kept = weight != 0
        assert torch.equal(weight[kept], model.state_dict()[name][kept])


def test_skipped_layers_stay_dense(model: nn.Module, context: Context) -> None:
    pruned = MagnitudePruning(sparsity=0.9, skip=("classifier",)).apply(model, context).model
    assert torch.equal(pruned.state_dict()["classifier.weight"], model.state_dict()["classifier.weight"])


def test_a_skip_pattern_that_matches_nothing_is_an_error(model: nn.Module) -> None:
    with pytest.raises(StageError, match=r"skip pattern 'head\*' matches no Linear layer"):
        MagnitudePruning(sparsity=0.5, skip=("head*",)).rehearse(model)


def test_a_cubic_schedule_does_not_average_weights_over_its_cuts() -> None:
    with pytest.raises(ValidationError, match=r"recovery\.ema"):
        MagnitudePruning(sparsity=0.5, schedule="cubic", recovery=TrainConfig(ema=0.9))


def test_a_cubic_schedule_without_training_is_refused() -> None:
    with pytest.raises(ValidationError, match="set recovery"):
        MagnitudePruning(sparsity=0.5, schedule="cubic")
