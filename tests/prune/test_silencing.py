"""Silencing: what a gate of 0 leaves is what a model without the unit answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from compress.data import Splits, from_arrays
from compress.model import keep_units_, predict_logits, structure_of
from compress.prune.importance.ranking import weakest_first
from compress.prune.importance.silencing import (
    Batches,
    SilencedPoint,
    answers_of,
    curve_levels,
    furthest_within,
    resumed_at_layer,
    silencing_curve,
)
from compress.tasks.metrics.statistics import paired_interval


@pytest.fixture
def model(model: nn.Module) -> nn.Module:
    """Weights are fresh: make the heads loud enough that answers hang on them."""
    for site in structure_of(model).attention:
        out = model.get_submodule(site.consumer)
        assert isinstance(out, nn.Linear)
        out.weight.data.mul_(30)
    return model


@pytest.fixture
def batches(splits: Splits) -> Batches:
    return Batches.of(splits.validation, splits.task, batch_size=20)


def test_levels_begin_at_0_end_at_all_and_are_even() -> None:
    assert curve_levels(4, 4) == [0, 1, 2, 3, 4]
    assert curve_levels(10, 5) == [0, 2, 4, 6, 8, 10]
    assert curve_levels(2, 24) == [0, 1, 2]


def test_the_furthest_point_may_lie_beyond_a_dip() -> None:
    points = [
        SilencedPoint(silenced, 0.9 + difference, difference, -1.0, 1.0)
        for silenced, difference in enumerate((0.0, -0.02, -0.01, -0.1))
    ]
    assert furthest_within(points, 0.01).silenced == 2
    assert furthest_within(points, 0.0).silenced == 0
    assert furthest_within(points, 0.1).silenced == 3
    # 0.9 - 0.61 is 0.29000000000000004 in doubles, which is still within 0.29.
    assert furthest_within([SilencedPoint(1, 0.61, 0.61 - 0.9, -1.0, 1.0)], 0.29).silenced == 1


def test_silenced_heads_answer_as_cut_ones_do(model: nn.Module, splits: Splits, batches: Batches) -> None:
    site = structure_of(model).attention[0]
    cut = copy.deepcopy(model)
    keep_units_(cut, structure_of(cut).attention[0], [0, 3])
    expected = predict_logits(cut, splits.validation, splits.task).argmax(-1)
    found = answers_of(model, batches, [site], [torch.tensor([1.0, 0.0, 0.0, 1.0])])
    # Rows of one length stay in their order.
    assert np.array_equal(found, expected.numpy())
    assert not np.array_equal(found, answers_of(model, batches, [site], [torch.zeros(4)]))


def test_rows_of_like_length_stand_together_with_their_labels() -> None:
    rows = [torch.full((length, 4), float(length)).numpy() for length in (5, 2, 4, 3)]
    labels = [0, 1, 2, 0]
    part = {"features": rows, "labels": labels}
    other = {"features": [row + 9 for row in rows], "labels": labels}
    made = from_arrays(part, other)
    found = Batches.of(made.train, made.task, batch_size=2)
    assert [batch["features"].shape[1] for batch in found.inputs] == [3, 5]
    assert found.truth.labels.tolist() == [1, 0, 2, 0]
    assert [each.tolist() for each in found.labels] == [[1, 0], [2, 0]]


def test_a_curve_compares_answers_row_by_row(model: nn.Module, batches: Batches) -> None:
    sites, rows = structure_of(model).attention, len(batches.truth.labels)
    order = weakest_first([torch.tensor([4.0, 3.0, 2.0, 1.0])] * 2)
    full = answers_of(model, batches)
    told: list[int] = []
    curve = silencing_curve(
        model, batches, sites, order, [0, 3, 8], full, on_pass=lambda point: told.append(point.silenced)
    )
    before = full == batches.truth.labels
    assert curve[0] == SilencedPoint(0, before.mean(), 0.0, 0.0, 0.0)
    assert told == [3, 8]  # the full model is not asked again
    gates = [torch.ones(4), torch.ones(4)]
    for site, head in order[:3]:
        gates[site][head] = 0
    after = answers_of(model, batches, sites, gates) == batches.truth.labels
    low, high = paired_interval(int((after & ~before).sum()), int((before & ~after).sum()), rows)
    assert curve[1].value == pytest.approx(after.mean())
    assert curve[1].difference == pytest.approx(after.mean() - before.mean())
    assert (curve[1].low, curve[1].high) == pytest.approx((low, high))


@pytest.mark.parametrize("index", [0, 1])
def test_a_pass_resumed_at_a_layer_answers_as_a_whole_pass(
    model: nn.Module, batches: Batches, index: int
) -> None:
    structure = structure_of(model)
    gates = [torch.tensor([0.0, 1.0, 0.0, 1.0])]
    whole = answers_of(model, batches, [structure.attention[1]], gates)
    calls: list[int] = []
    first = model.get_submodule(structure.attention[0].consumer)
    assert structure.layers is not None
    with resumed_at_layer(model, structure.layers, index, batches):
        handle = first.register_forward_hook(lambda *_: calls.append(1))
        resumed = [answers_of(model, batches, [structure.attention[1]], gates) for _ in range(2)]
        handle.remove()
    assert not np.array_equal(whole, answers_of(model, batches))
    assert np.array_equal(resumed[0], whole) and np.array_equal(resumed[1], whole)
    assert len(calls) == (0 if index else 2 * len(batches.inputs))
    assert model.get_submodule(structure.attention[0].consumer) is first  # put back


def test_layers_are_put_back_after_an_error(model: nn.Module, batches: Batches) -> None:
    structure = structure_of(model)
    assert structure.layers is not None
    before = list(model.get_submodule(structure.layers).children())
    with pytest.raises(KeyboardInterrupt), resumed_at_layer(model, structure.layers, 1, batches):
        raise KeyboardInterrupt
    after = list(model.get_submodule(structure.layers).children())
    assert all(a is b for a, b in zip(before, after, strict=True))
