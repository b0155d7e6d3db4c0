"""Batches whose gradients are added make the step of one large batch."""

from __future__ import annotations

import pytest
import torch

from compress.data import Splits
from compress.model import Definition
from compress.train import fit_
from compress.train_config import TrainConfig

LARGE = TrainConfig(epochs=2, batch_size=27, learning_rate=1e-3, precision="fp32")


def test_a_split_gives_the_rows_of_a_large_batch_in_small_ones(splits: Splits) -> None:
    whole = [batch["row_index"].tolist() for batch in splits.train.batches(27, shuffle_seed=3)]
    groups = list(splits.train.batch_groups(9, 3, shuffle_seed=3))
    assert [sum((part["row_index"].tolist() for part in group), []) for group in groups] == whole
    # 96 rows: three times 27, and 15, which are 8 and 7; in which order the seed says
    assert sorted([len(part["labels"]) for part in group] for group in groups) == [[8, 7], *[[9, 9, 9]] * 3]


def test_groups_at_the_beginning_are_left_out(splits: Splits) -> None:
    indices = [
        [
            part["row_index"].tolist()
            for group in splits.train.batch_groups(9, 3, shuffle_seed=3, skip=skip)
            for part in group
        ]
        for skip in (0, 3)
    ]
    assert indices[1] == indices[0][-len(indices[1]) :] and len(indices[1]) in (2, 3)


@pytest.mark.parametrize("small, parts", [(9, 3), (1, 26), (20, 2)])
def test_small_batches_train_as_the_large_one_does(
    definition: Definition, splits: Splits, small: int, parts: int
) -> None:
    results, steps = [], []
    accumulated = LARGE.model_copy(update={"batch_size": small, "accumulate": parts})
    whole = LARGE.model_copy(update={"batch_size": small * parts})
    for config in (whole, accumulated):
        module, seen = definition.build(), []
        fit = fit_(
            module,
            splits.train,
            splits.validation,
            splits.task,
            config,
            after_step=lambda *at, seen=seen: seen.append(at),
        )
        results.append((module.state_dict(), fit.curve))
        steps.append(seen)
    assert steps[0] == steps[1]  # the schedule counts steps, not batches
    assert steps[0][-1] == (len(steps[0]), 2 * -(-96 // (small * parts)))
    for name, weight in results[0][0].items():
        # Sums in another order differ by 1e-7 of a gradient; AdamW divides by its size, so that the few
        # gradients that are almost zero can turn 8 steps of at most 1e-3 by some per cent of one.
        torch.testing.assert_close(results[1][0][name], weight, rtol=0, atol=1e-4)
    for mine, theirs in zip(results[1][1], results[0][1], strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
