"""Heads that don't matter go; the score is the derivative that it claims to be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.errors import StageError
from compress.model import Definition, structure_of
from compress.model.forward import logits, to_tensors
from compress.prune.heads import HeadPruning
from compress.prune.importance.removal import choose_units
from compress.prune.importance.taylor import taylor_importance
from compress.prune.structured.stage import StructuredPruning
from compress.recovery import RecoveryConfig
from compress.stage import Context

GROUPED = Path(__file__).resolve().parents[1] / "model" / "grouped_queries.py"


def test_choose_units_removes_the_least_important_after_normalising_each_layer() -> None:
    # Layer norms are 5 and 50: normalised .6 .8 and .6 .8, so raw size doesn't decide between layers.
    scores = [torch.tensor([3.0, 4.0]), torch.tensor([40.0, 30.0])]
    assert choose_units(scores, 2, scope="global", least=1) == [[1], [0]]


def test_choose_units_takes_unevenly_when_global_and_evenly_when_per_layer() -> None:
    scores = [torch.tensor([0.1, 0.1, 0.1, 9.0]), torch.tensor([5.0, 5.0, 5.0, 5.0])]
    assert choose_units(scores, 3, scope="global", least=1) == [[3], [0, 1, 2, 3]]
    assert [len(kept) for kept in choose_units(scores, 4, scope="layer", least=1)] == [2, 2]


def test_choose_units_leaves_the_least_number_of_heads() -> None:
    scores = [torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 1.0, 1.0])]
    assert [len(kept) for kept in choose_units(scores, 4, scope="global", least=1)] == [1, 1]


def test_importance_is_the_mean_absolute_derivative_of_each_rows_loss(
    model: nn.Module, splits: Splits
) -> None:
    rows = splits.validation.take(3, seed=0)
    found = taylor_importance(model, structure_of(model).attention, rows, splits.task)
    site = structure_of(model).attention[1]
    out, step = model.get_submodule(site.consumer), 1e-3
    assert isinstance(out, nn.Linear)
    weight = out.weight.data.clone()
    by_hand = torch.zeros(4)
    for batch in rows.batches(1):
        for head in range(4):
            columns = slice(head * site.unit_size, (head + 1) * site.unit_size)
            losses = []
            for gate in (1 + step, 1 - step):  # a gate on the head's output scales its columns of out
                out.weight.data.copy_(weight)
                out.weight.data[:, columns] *= gate
                answer = logits(model, to_tensors(batch, splits.task.input_names)).double()
                losses.append(nn.functional.cross_entropy(answer, torch.from_numpy(batch["labels"])))
            by_hand[head] += float((losses[0] - losses[1]).detach().abs() / (2 * step)) / 3
    out.weight.data.copy_(weight)
    # Central differences in fp32 with a step of 1e-3: about three digits.
    torch.testing.assert_close(found[1], by_hand, rtol=2e-2, atol=1e-4)


def test_importance_does_not_depend_on_the_batch_size(model: nn.Module, splits: Splits) -> None:
    scores = [
        torch.stack(
            taylor_importance(
                model, structure_of(model).attention, splits.train, splits.task, batch_size=size
            )
        )
        for size in (5, 96)
    ]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-6)


def test_a_deaf_head_goes_first(model: nn.Module, context: Context) -> None:
    out = model.get_submodule(structure_of(model).attention[0].consumer)
    assert isinstance(out, nn.Linear)
    out.weight.data[:, 16:24] = 0  # head 2 of size 8
    made = HeadPruning(sparsity=0.125, steps=1).apply(model, context)
    assert made.facts["heads_kept_indices"] == [[0, 1, 3], [0, 1, 2, 3]]


def test_half_of_the_heads_go_in_steps_and_recovery_follows(model: nn.Module, context: Context) -> None:
    recovery = RecoveryConfig(epochs=1, batch_size=16, learning_rate=1e-3)
    made = HeadPruning(sparsity=0.5, steps=2, recovery=recovery).apply(model, context)
    pruned = made.model
    kept = [site.units(pruned) for site in structure_of(pruned).attention]
    assert sum(kept) == 4 and min(kept) >= 1
    assert made.facts["heads_kept"] == kept and made.facts["heads_before"] == [4, 4]
    assert len(made.curve) == 1


def test_rehearsing_gives_the_shapes_and_leaves_the_model(model: nn.Module) -> None:
    shape = HeadPruning(sparsity=0.5).rehearse(model)
    assert sum(site.units(shape) for site in structure_of(shape).attention) == 4
    assert [site.units(model) for site in structure_of(model).attention] == [4, 4]


def test_too_much_and_too_little_are_refused_with_what_is_possible(model: nn.Module) -> None:
    with pytest.raises(StageError, match=r"would remove 7 of 8 heads, .*min_heads 1 .*at most 6"):
        HeadPruning(sparsity=0.9).rehearse(model)
    with pytest.raises(StageError, match=r"of 8 heads removes none"):
        HeadPruning(sparsity=0.01).rehearse(model)


def test_the_same_seed_keeps_the_same_heads(model: nn.Module, context: Context) -> None:
    kept = []
    for _ in range(2):
        made = HeadPruning(sparsity=0.5, calibration_rows=40).apply(model, context)
        kept.append(made.facts["heads_kept_indices"])
    assert kept[0] == kept[1]


def test_groups_of_queries_of_a_users_module_are_units(context: Context) -> None:
    model = Definition.from_file(GROUPED, "build", {"classes": 3}).build(seed=1)
    made = HeadPruning(sparsity=0.5).apply(model, context)
    pruned = made.model
    kept = made.facts["heads_kept"]
    assert sum(kept) == 4 and made.facts["heads_before"] == [4, 4]
    for at, groups in enumerate(kept):
        widths = [pruned.get_submodule(f"layers.{at}.{part}").out_features for part in ("q", "k", "v")]
        assert widths == [8 * groups, 4 * groups, 4 * groups]
    made = StructuredPruning(macs=0.5).apply(model, context)
    smaller = made.model
    assert sum(each.numel() for each in smaller.parameters()) < sum(
        each.numel() for each in model.parameters()
    )


def test_a_group_of_queries_with_its_keys_is_spoken_of_as_one(splits: Splits) -> None:
    from ..model.test_cached import decoder

    grouped = decoder("llama")  # two groups in each of three layers
    assert {site.unit_name for site in structure_of(grouped).attention} == {"key-value group"}
    shape = HeadPruning(sparsity=0.5).rehearse(grouped)
    assert [site.units(shape) for site in structure_of(shape).attention] == [1, 1, 1]
    with pytest.raises(StageError, match="no key-value group "):
        HeadPruning(sparsity=0.5).rehearse(shape)
