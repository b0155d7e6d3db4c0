"""A guarded quantize stage: layers that cost too much keep more bits, and the drop is the one it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.errors import StageError
from compress.model.forward import predict_logits
from compress.quantize.guard import Guard
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.mixed.first_order import estimated, estimated_divergences
from compress.quantize.mixed.sensitivity import Parts, answers, damage_of, damages
from compress.quantize.mixed.stage import Mixed
from compress.quantize.weight_only import Int4WeightOnly
from compress.stage import Context

GUARDED = "layers.1.feed_forward.down"


def own_labels(model: nn.Module, context: Context) -> Context:
    """Validation rows are labelled with the model's answers, so that the float model is always right."""
    with torch.no_grad():
        model.classifier.bias -= predict_logits(model, context.validation, context.task).mean(0)
    labels = predict_logits(model, context.validation, context.task).argmax(-1).numpy()
    assert len(set(labels.tolist())) > 1
    return replace(context, validation=replace(context.validation, labels=labels))


def plant_(model: nn.Module) -> None:
    """One input of a layer is loud and the same for every row: its scale leaves few steps for the others.

    The outputs change by a constant, which the bias takes away again.
    """
    up, down = model.get_submodule("layers.1.feed_forward.up"), model.get_submodule(GUARDED)
    with torch.no_grad():
        up.weight[0], up.bias[0] = 0.0, 300.0
        down.weight *= 4
        down.bias -= 300.0 * down.weight[:, 0]


def test_parts_of_the_damage_add_up_to_it(model: nn.Module, context: Context) -> None:
    parts = Parts.of(model, {"int4_weight_only": Int4WeightOnly()}, context)
    rows = context.validation
    found = estimated_divergences(parts, "int4_weight_only", rows, context)
    truth = answers(parts.whole["float"], rows, context)
    whole = damage_of(answers(parts.whole["int4_weight_only"], rows, context), truth, rows, context.task)
    assert sum(found) == pytest.approx(whole.divergence, rel=0.1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_layer_that_does_most_damage_alone_has_the_largest_part(
    model: nn.Module, context: Context
) -> None:
    plant_(model)
    parts = Parts.of(model, {"int8": Int8Dynamic(activations="tensor")}, context)
    alone = [each["int8"].divergence for each in damages(parts, context.validation, context)]
    found = estimated_divergences(parts, "int8", context.validation, context)
    assert parts.groups[int(np.argmax(alone))].name == GUARDED
    assert int(np.argmax(found)) == int(np.argmax(alone))


@pytest.mark.parametrize("of", ["metric", "agreement"])
def test_the_guilty_layer_stays_float_and_the_drop_is_kept(
    model: nn.Module, context: Context, of: str
) -> None:
    plant_(model)
    context = own_labels(model, context)
    stage = Int8Dynamic(activations="tensor", guard=Guard(max_drop=0.02, of=of))
    made = stage.apply(model, context)
    guard, kept = made.facts["guard"], made.facts["kept_by_guard"]
    assert guard["drop_of_all_layers"] > 0.02 >= guard["drop"]
    assert GUARDED in kept and kept[GUARDED]["kept"] == "float" and kept[GUARDED]["more_bytes"] > 0
    assert isinstance(made.model.get_submodule(GUARDED), nn.Linear)
    assert GUARDED in made.facts["left_float"]
    assert made.facts["layers"]["int8_tensor_linear"] >= 8
    right, found = (
        predict_logits(each, context.validation, context.task).argmax(-1) for each in (model, made.model)
    )
    assert float((right != found).float().mean()) == pytest.approx(guard["drop"], abs=1e-6)


def test_nothing_changes_where_little_is_lost(model: nn.Module, context: Context) -> None:
    context = own_labels(model, context)
    plain = Int8Dynamic().apply(model, context)
    made = Int8Dynamic(guard=Guard(max_drop=0.1)).apply(model, context)
    rows = context.validation
    assert torch.equal(*(predict_logits(each.model, rows, context.task) for each in (plain, made)))
    assert made.facts["guard"]["drop"] == made.facts["guard"]["drop_of_all_layers"] <= 0.1
    assert "kept_by_guard" not in made.facts


def test_four_bits_go_to_eight_before_float(model: nn.Module, context: Context) -> None:
    with torch.no_grad():
        model.classifier.weight[:, 0] = 2.0  # the same for every class: no answer hangs on it
    context = own_labels(model, context)
    made = Int4WeightOnly(guard=Guard(max_drop=0.05)).apply(model, context)
    assert made.facts["guard"]["drop"] <= 0.05 < made.facts["guard"]["drop_of_all_layers"]
    assert made.facts["kept_by_guard"]["classifier"]["kept"] == "8 bits"
    assert made.facts["bytes_after"] < made.facts["bytes_before"] / 2


def test_a_limit_that_cannot_be_kept_is_refused(
    model: nn.Module, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = own_labels(model, context)
    monkeypatch.setattr("compress.quantize.mixed.sensitivity.disagreement_of", lambda *_: 0.5)
    with pytest.raises(StageError):
        Int8Dynamic(guard=Guard(max_drop=0.1, of="agreement")).apply(model, context)


def test_the_layers_that_took_answers_to_chance_are_named(model: nn.Module, context: Context) -> None:
    plant_(model)
    stage = Int8Dynamic(activations="tensor")
    found = stage.blame(model, stage.apply(model, context), context)
    assert next(iter(found)) == GUARDED and found[GUARDED] > 0.5
    assert sum(found.values()) == pytest.approx(1) and list(found.values()) == sorted(
        found.values(), reverse=True
    )


class Detached(nn.Module):
    """A model whose gradients end before its last layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = self.model(**inputs)
        return found


def test_a_model_that_lets_no_gradient_through_is_tried_group_by_group(
    model: nn.Module, context: Context
) -> None:
    inner = Parts.of(model, {"int8": Int8Dynamic()}, context)
    parts = Parts.of(Detached(model), {"int8": Int8Dynamic()}, context)
    assert estimated_divergences(parts, "int8", context.validation, context) == []
    found, alone = estimated(parts, context.validation, context), damages(inner, context.validation, context)
    assert [each["int8"].divergence for each in found] == [each["int8"].divergence for each in alone]


class Sized(nn.Module):
    """A model that reads the size of one of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.first(features).relu() / self.first.out_features
        return self.last(hidden.mean(1))


def test_what_a_model_reads_of_its_layers_is_there(context: Context) -> None:
    parts = Parts.of(Sized(), {"int8": Int8Dynamic()}, context)
    assert len(estimated_divergences(parts, "int8", context.validation, context)) == len(parts.groups)


def test_a_guard_is_not_mixed_with_other_schemes() -> None:
    with pytest.raises(ValidationError):
        Mixed.model_validate({"schemes": {"int8_dynamic": {"guard": {}}}})


def test_a_guard_and_training_are_not_combined() -> None:
    with pytest.raises(ValidationError):
        Int8Dynamic.model_validate({"guard": {}, "qat": {}})
