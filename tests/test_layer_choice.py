"""Which layers stay: by place, or by what the model answers without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.layer_choice import best_layers, layers_to_keep, least_harmful
from compress.stage import Context


@pytest.mark.parametrize(
    ("keep", "expected"), [("spaced", [1, 3, 5]), ("first", [0, 1, 2]), ("last", [3, 4, 5])]
)
def test_layers_are_spread_first_or_last(keep: Any, expected: list[int]) -> None:
    assert layers_to_keep(6, 3, keep) == expected
    with pytest.raises(ValueError, match="a student of 7 layers is deeper than its teacher of 6"):
        layers_to_keep(6, 7, keep)


def test_the_best_layers_are_those_whose_rest_is_least_harmed() -> None:
    worth = [5.0, 0.1, 3.0, 0.2]
    assert least_harmful(4, 2, lambda kept: -sum(worth[each] for each in kept)) == [0, 2]


def test_of_two_layers_that_do_the_same_one_stays() -> None:
    asked: list[list[int]] = []

    def harm(kept: list[int]) -> float:
        asked.append(kept)
        return 0.0 if 0 in kept or 1 in kept else 9.0  # either of the first two will do

    assert least_harmful(3, 1, harm) == [1]
    assert asked == [[1, 2], [0, 2], [0, 1], [2], [1]]


def test_a_layer_that_adds_nothing_goes_first_and_the_model_is_left_as_it_was(
    model: nn.Module, splits: Splits
) -> None:
    for name, parameter in model.layers[1].named_parameters():
        if name.endswith(("out.weight", "out.bias", "down.weight", "down.bias")):
            parameter.data.zero_()
    before, layers = {key: value.clone() for key, value in model.state_dict().items()}, list(model.layers)
    context = Context(splits.task, splits.train, splits.validation)
    kept, facts = best_layers(model, 1, context, "prune/layers")
    assert kept == [0] and facts["judging_rows"] == min(512, len(splits.validation))
    assert list(model.layers) == layers
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
