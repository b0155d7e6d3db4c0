"""Removal by least squares: against hand-computed cases and against solving each case anew."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from compress.errors import StageError
from compress.model.observe.gram import Gram
from compress.prune.structured.obs import least_squares, remove_one_by_one


def gram_of(chunks: Sequence[Tensor], features: int) -> Gram:
    gram = Gram(torch.zeros(features + 1, features + 1))
    for chunk in chunks:
        gram.add_(chunk)
    return gram


def rows(count: int, features: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, features, generator=draw) @ torch.randn(features, features, generator=draw)
    return mixed + torch.randn(features, generator=draw)


def test_a_copied_neuron_goes_first_and_its_twin_does_its_work() -> None:
    x = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 1.0], [0.0, 0.0, 3.0], [5.0, 5.0, -1.0]])
    weight = torch.tensor([[1.0, 2.0, 1.0]])
    full, two = remove_one_by_one(weight, None, gram_of([x], 3), 1, [3, 2])
    assert full.kept == (0, 1, 2) and full.loss == 0
    assert two.kept == (
        1,
        2,
    )  # the smaller weight of the two twins costs less before damping tells them apart
    assert two.weight is not None
    # Damping of 1 % of the diagonal pulls the twin's weight 3 down a little.
    torch.testing.assert_close(two.weight, torch.tensor([[3.0, 1.0]]), rtol=2e-2, atol=0)


def test_the_mean_of_what_goes_moves_into_the_bias() -> None:
    x = torch.tensor([[4.0], [4.0], [4.0]])
    (none,) = remove_one_by_one(torch.tensor([[2.0]]), torch.tensor([1.0]), gram_of([x], 1), 1, [0])
    assert none.kept == () and none.bias is not None
    torch.testing.assert_close(none.bias, torch.tensor([9.0]), rtol=1e-3, atol=0)
    assert none.loss == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("size", [1, 3])
def test_the_loss_is_the_mean_squared_error_of_the_output_that_is_left(size: int) -> None:
    x, weight, bias = rows(200, 12, 0), rows(5, 12, 1), torch.arange(5.0)
    levels = [12 // size, 2, 1, 0]
    for candidate in remove_one_by_one(weight, bias, gram_of(x.split(64), 12), size, levels):
        columns = [unit * size + part for unit in candidate.kept for part in range(size)]
        assert candidate.weight is not None and candidate.bias is not None
        error = x[:, columns] @ candidate.weight.T + candidate.bias - (x @ weight.T + bias)
        # Sums over tokens in another order, in fp32.
        assert candidate.loss == pytest.approx(float(error.square().sum(1).mean()), rel=1e-3, abs=1e-5)


def test_what_is_left_is_the_least_squares_solution_for_the_units_that_stay() -> None:
    x, weight, bias = rows(500, 8, 2), rows(3, 8, 3), torch.zeros(3)
    (half,) = remove_one_by_one(weight, bias, gram_of([x], 8), 2, [2])
    columns = [unit * 2 + part for unit in half.kept for part in range(2)]
    moments = torch.cat((x, torch.ones(500, 1)), 1).double()
    damping = 1e-2 * float(x.square().mean())
    normal = moments.T @ moments / 500 + damping * torch.diag(torch.tensor([1.0] * 8 + [0.0])).double()
    dense = torch.cat((weight, bias[:, None]), 1).double()
    keep = [*columns, 8]
    by_hand = torch.linalg.solve(normal[keep][:, keep], normal[keep] @ dense.T).T
    assert half.weight is not None and half.bias is not None
    # The inverse is updated in fp32 eight times over.
    torch.testing.assert_close(half.weight.double(), by_hand[:, :-1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(half.bias.double(), by_hand[:, -1], rtol=1e-3, atol=1e-3)


def test_the_first_unit_to_go_is_the_one_whose_removal_costs_least() -> None:
    x, weight = rows(300, 6, 4), rows(4, 6, 5)
    gram = gram_of([x], 6)
    (five,) = remove_one_by_one(weight, None, gram, 1, [5])
    costs = []
    for gone in range(6):
        keep = [unit for unit in range(6) if unit != gone]
        solved = torch.linalg.lstsq(x[:, keep].double(), (x @ weight.T).double()).solution
        costs.append(float((x[:, keep].double() @ solved - x @ weight.T).square().sum()))
    assert set(range(6)) - set(five.kept) == {int(torch.tensor(costs).argmin())}


def test_an_output_that_nothing_hangs_on_does_not_decide() -> None:
    x = torch.eye(2).repeat(10, 1)
    weight = torch.tensor([[1.0, 0.0], [0.0, 5.0]])  # unit 0 writes output 0, unit 1 a louder output 1
    (loud,) = remove_one_by_one(weight, None, gram_of([x], 2), 1, [1])
    felt = torch.tensor([1.0, 1e-6])
    (deaf,) = remove_one_by_one(weight, None, gram_of([x], 2), 1, [1], output_weights=felt)
    assert loud.kept == (1,) and deaf.kept == (0,)


def test_late_removals_are_right_too_when_updates_have_waited() -> None:
    # 150 units: updates are settled twice on the way down.
    x, weight = rows(2000, 150, 6), rows(2, 150, 7)
    candidates = remove_one_by_one(weight, None, gram_of([x], 150), 1, [150, 100, 30])
    for candidate in candidates[1:]:
        assert candidate.weight is not None
        error = x[:, list(candidate.kept)] @ candidate.weight.T - x @ weight.T
        assert candidate.loss == pytest.approx(float(error.square().sum(1).mean()), rel=2e-2)
        assert math.isfinite(candidate.loss)


def test_least_squares_finds_the_map_that_made_the_targets() -> None:
    x, true, offset = rows(400, 6, 8), rows(3, 4, 9), torch.tensor([1.0, -2.0, 0.5])
    gram = Gram(torch.zeros(7, 7))
    kept = [0, 2]  # units of two columns: 0, 1, 4, 5
    targets = x[:, [0, 1, 4, 5]] @ true.T + offset
    for inputs, wanted in zip(x.split(100), targets.split(100), strict=True):
        gram.add_(inputs, wanted)
    weight, bias = least_squares(gram, kept, 2)
    # The damping is 0.1 % of the mean diagonal.
    torch.testing.assert_close(weight, true, rtol=5e-2, atol=5e-2)
    torch.testing.assert_close(x[:, [0, 1, 4, 5]] @ weight.T + bias, targets, rtol=5e-2, atol=0.2)


def test_a_token_that_does_not_count_is_not_fitted() -> None:
    x, targets = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [4.0], [100.0]])
    gram = Gram(torch.zeros(2, 2))
    gram.add_(x, targets, torch.tensor([1.0, 1.0, 0.0]))
    weight, bias = least_squares(gram, [0], 1)
    assert float(weight) == pytest.approx(2, abs=0.1) and float(bias) == pytest.approx(0, abs=0.2)


def test_calibration_without_tokens_or_with_nan_is_refused() -> None:
    with pytest.raises(StageError, match="no tokens"):
        remove_one_by_one(torch.ones(1, 2), None, gram_of([], 2), 1, [1])
    with pytest.raises(StageError, match="NaN or infinity"):
        remove_one_by_one(torch.ones(1, 2), None, gram_of([torch.full((3, 2), math.nan)], 2), 1, [1])
