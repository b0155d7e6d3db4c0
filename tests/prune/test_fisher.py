"""Fisher information sums rows' own gradients; units that go are chosen for what they cost together."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.data.split import Split
from compress.errors import StageError
from compress.model import structure_of
from compress.prune.importance.fisher import fisher_information, rearrange
from compress.prune.importance.unit_gates import gate_gradients


def cost(fisher: torch.Tensor, kept: list[int]) -> float:
    gone = torch.ones(len(fisher), dtype=torch.float64)
    gone[kept] = 0
    return float(gone @ fisher.double() @ gone)


def test_fisher_of_two_rows_is_the_sum_of_their_outer_products_not_that_of_the_batch(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, splits: Splits
) -> None:
    # Rows g = (1, 2, 0, 0) and (-1, 1, 0, 3); as a batch g = (0, 3, 0, 3), and unit 0 would cost nothing.
    rows = torch.tensor([[1.0, 2.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 3.0]])
    monkeypatch.setattr("compress.prune.importance.fisher.gate_gradients", lambda *_, **__: iter([[rows]]))
    site = structure_of(model).attention[0]
    (found,) = fisher_information(model, [site], splits.train.take(2, seed=0), splits.task)
    assert found.tolist() == [[2, 1, 0, -3], [1, 5, 0, 3], [0, 0, 0, 0], [-3, 3, 0, 9]]


def test_fisher_is_that_of_each_rows_gradient_whatever_the_batch_size(
    model: nn.Module, splits: Splits
) -> None:
    sites, rows = structure_of(model).sites, splits.train.take(10, seed=0)
    alone = list(gate_gradients(model, sites, rows, splits.task, batch_size=1))
    for size in (3, 10):
        found = fisher_information(model, sites, rows, splits.task, batch_size=size)
        for index, matrix in enumerate(found):
            by_hand = sum(torch.outer(row[index][0], row[index][0]) for row in alone)
            # Batches of another size round differently in fp32; the sum over ten rows is then compared.
            torch.testing.assert_close(matrix, by_hand, rtol=1e-3, atol=1e-6 * float(matrix.max()))


def test_fisher_takes_a_loss_without_labels_and_wants_rows(model: nn.Module, splits: Splits) -> None:
    sites = structure_of(model).attention
    found = fisher_information(
        model, sites, splits.train.take(4, seed=0), splits.task, loss=lambda answers, _: 0 * answers.sum()
    )
    assert all(bool((matrix == 0).all()) for matrix in found)
    with pytest.raises(StageError, match="no row"):
        fisher_information(model, sites, Split("train", (), splits.train.labels[:0], ()), splits.task)


def test_rearrange_swaps_where_the_diagonal_is_misled() -> None:
    # Units 0 and 1 cost 1 each, and 1 + 1 + 2 * 0.9 = 3.8 together. Unit 2 costs 1.1 and makes up for 0:
    # 1 + 1.1 - 2 * 0.8 = 0.5. The diagonal keeps 2, and would pay 3.8.
    fisher = torch.tensor([[1.0, 0.9, -0.8], [0.9, 1.0, 0.0], [-0.8, 0.0, 1.1]])
    assert rearrange(fisher, 1) == [1]
    assert cost(fisher, [1]) == pytest.approx(0.5) and cost(fisher, [2]) == pytest.approx(3.8)


def test_rearrange_of_a_diagonal_keeps_the_largest_and_of_ties_the_first() -> None:
    assert rearrange(torch.diag(torch.tensor([1.0, 4.0, 2.0, 3.0])), 2) == [1, 3]
    assert rearrange(torch.ones(4, 4), 2) == [0, 1]
    assert rearrange(torch.eye(3), 3) == [0, 1, 2] and rearrange(torch.eye(3), 0) == []


def test_rearrange_can_not_be_bettered_by_a_swap_and_is_no_worse_than_the_diagonal() -> None:
    for seed in range(20):
        rows = torch.randn(6, 12, generator=torch.Generator().manual_seed(seed))
        fisher = rows.T @ rows
        kept = rearrange(fisher, 5)
        gone = sorted(set(range(12)) - set(kept))
        neighbours = [[*(set(kept) - {a}), b] for a, b in itertools.product(kept, gone)]
        # fp64 sums of fp32 entries of size 10.
        assert cost(fisher, kept) <= min(cost(fisher, other) for other in neighbours) + 1e-6
        assert cost(fisher, kept) <= cost(fisher, fisher.diagonal().topk(5).indices.tolist()) + 1e-6


def test_a_long_shortlist_changes_only_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    fisher = rows.T @ rows
    monkeypatch.setattr("compress.prune.importance.fisher._SHORTLIST", 1)
    kept = rearrange(fisher, 30)
    gone = sorted(set(range(60)) - set(kept))
    neighbours = [[*(set(kept) - {a}), b] for a, b in itertools.product(kept, gone)]
    # Sums of 900 entries of size 40: a swap that gains less than 1e-3 of them is rounding in the comparison.
    assert cost(fisher, kept) <= min(cost(fisher, other) for other in neighbours) + 1e-6
    assert cost(fisher, kept) < cost(fisher, fisher.diagonal().topk(30).indices.tolist())


def test_rearrange_of_a_wide_feed_forward_takes_seconds() -> None:
    rows = torch.randn(256, 3072, generator=torch.Generator().manual_seed(0))
    fisher = rows.T @ rows
    start = time.process_time()
    assert len(rearrange(fisher, 1536)) == 1536
    assert time.process_time() - start < 30  # 2 to 5 s on a slow core; minutes if all pairs were looked at


def test_rearrange_refuses_what_it_can_not_choose_from() -> None:
    with pytest.raises(StageError, match="got 4; allowed: 0 to 3"):
        rearrange(torch.eye(3), 4)
    with pytest.raises(StageError, match=r"square matrix, not \[2, 3\]"):
        rearrange(torch.ones(2, 3), 1)
    with pytest.raises(StageError, match="square matrix"):
        rearrange(torch.full((2, 2), float("nan")), 1)
