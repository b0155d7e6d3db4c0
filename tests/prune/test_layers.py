"""Whole layers go; those that stay are the model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.data import Splits
from compress.errors import StageError
from compress.model.cutting.depth import layer_count
from compress.prune.layers import LayerPruning, inputs_of
from compress.stage import Context


def _stage(**settings: Any) -> LayerPruning:
    return LayerPruning.model_validate(settings)


@pytest.fixture
def context(splits: Splits) -> Context:
    return Context(splits.task, splits.train, splits.validation)


def test_each_layer_that_stays_learns_what_the_next_one_was_given() -> None:
    assert inputs_of([0, 1, 4], 6) == [0, 3, 5]
    assert inputs_of([2], 3) == [2]
    assert inputs_of([0, 1, 2], 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({"layers": [1]}, [1]), ({"layers": 1, "keep": "first"}, [0]), ({"layers": 1, "keep": "spaced"}, [1])],
)
def test_layers_that_stay_have_their_weights(
    model: nn.Module, context: Context, settings: dict[str, Any], kept: list[int]
) -> None:
    made = _stage(**settings).apply(model, context)
    pruned = made.model
    assert (layer_count(pruned), layer_count(model)) == (1, 2)
    assert made.facts["layers_kept"] == kept and made.facts["layers_before"] == 2
    for name, tensor in pruned.layers[0].state_dict().items():
        assert torch.equal(tensor, model.layers[kept[0]].state_dict()[name])


def test_the_layer_that_is_missed_least_goes(model: nn.Module, context: Context) -> None:
    for name, parameter in model.layers[1].named_parameters():
        if name.endswith(("out.weight", "out.bias", "down.weight", "down.bias")):
            parameter.data.zero_()  # the second layer adds nothing
    made = _stage(layers=1).apply(model, context)
    assert made.facts["layers_kept"] == [0]


def test_recovery_learns_the_states_of_the_layers_that_went(model: nn.Module, context: Context) -> None:
    recovery = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3, "precision": "fp32"}
    made = _stage(layers=[0]).apply(model, context)
    alone = made.model
    made = _stage(layers=[0], recovery=recovery).apply(model, context)
    trained = made.model
    assert len(made.curve) == 1
    x = torch.from_numpy(context.validation.rows[0]["features"])[None]
    with torch.no_grad():
        far = [float((each(x) - model(x)).square().mean()) for each in (alone, trained)]
    assert far[1] < far[0], "it answers more as the whole model did"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 2}, "prune/layers.*layers: 2.*2.*allowed: 1.*to 1"),
        ({"layers": [0, 1]}, r"layers \[0.*1\].*0.*1"),
        ({"layers": [2]}, r"\[2\].*0.*1"),
    ],
)
def test_layers_that_are_not_there_are_refused_before_work(
    model: nn.Module, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        _stage(**settings).rehearse(model)


def test_a_model_without_layers_is_refused_before_work() -> None:
    with pytest.raises(StageError, match="prune/layers: "):
        _stage(layers=1).rehearse(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    "settings",
    [{"layers": 0}, {"layers": []}, {"layers": [1, 0]}, {"layers": [0, 0]}, {"layers": [-1]}, {}],
)
def test_numbers_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="layers"):
        _stage(**settings)


def test_a_way_to_choose_goes_with_a_number() -> None:
    with pytest.raises(ValidationError, match="keep: first "):
        _stage(layers=[0], keep="first")
    assert _stage(layers=2).guess and not _stage(layers=[0]).guess
