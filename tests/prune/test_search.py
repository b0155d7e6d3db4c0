"""The search against trying every choice, and its coefficients against a loss that does not add up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from compress.prune.structured.candidates import ranked_candidates, unit_levels
from compress.prune.structured.search import best_within, refine


def test_the_best_of_two_sites_by_hand() -> None:
    losses = [np.array([0.0, 1.0, 5.0]), np.array([0.0, 3.0, 4.0])]
    costs = [np.array([4.0, 2.0, 0.0]), np.array([4.0, 2.0, 0.0])]
    assert best_within(losses, costs, 8) == [0, 0]
    assert best_within(losses, costs, 6.01) == [1, 0]  # costs are rounded up: 6 itself is not enough
    assert best_within(losses, costs, 4) == [1, 1]
    assert best_within(losses, costs, 2) == [1, 2]
    assert best_within(losses, costs, 0.5) == [2, 2]


def test_a_budget_below_the_cheapest_choice_has_none() -> None:
    assert best_within([np.array([0.0, 1.0])], [np.array([3.0, 2.0])], 1.9) is None
    assert best_within([np.array([0.0])], [np.array([0.0])], 0) is None


@pytest.mark.parametrize("seed", range(5))
def test_no_choice_within_the_budget_is_better(seed: int) -> None:
    draw = np.random.default_rng(seed)
    losses = [np.sort(draw.random(4)) for _ in range(4)]
    costs = [np.sort(draw.random(4))[::-1] for _ in range(4)]
    budget = 0.6 * sum(cost[0] for cost in costs)
    choice = best_within(losses, costs, budget)
    assert choice is not None

    def total(values: list[np.ndarray], picked: tuple[int, ...]) -> float:
        return float(sum(value[index] for value, index in zip(values, picked, strict=True)))

    assert total(costs, tuple(choice)) <= budget
    possible = [
        picked for picked in itertools.product(range(4), repeat=4) if total(costs, picked) <= budget * 0.998
    ]  # costs are rounded up, by 4 steps of 1/4000 of the budget at the most
    assert total(losses, tuple(choice)) <= min(total(losses, picked) for picked in possible) + 1e-12


def test_refining_finds_that_a_site_matters_more_than_its_loss_says() -> None:
    losses = [np.array([0.0, 1.0]), np.array([0.0, 1.1])]
    costs = [np.array([1.0, 0.0]), np.array([1.0, 0.0])]

    def true_loss(choice: list[int]) -> float:
        return 10.0 * choice[0] + choice[1]

    found = refine(losses, costs, 1.0, true_loss, steps=30, seed=0)
    assert found is not None
    assert (found.first_loss, found.loss, found.choice) == (10.0, 1.0, [0, 1])
    assert found.evaluations <= 4  # a choice is evaluated once
    scaled = [loss * factor for loss, factor in zip(losses, found.coefficients, strict=True)]
    assert best_within(scaled, costs, 1.0) == found.choice


def test_a_search_repeats_with_its_seed_and_says_when_nothing_fits() -> None:
    draw = np.random.default_rng(0)
    losses = [np.sort(draw.random(5)) for _ in range(6)]
    costs = [np.linspace(1, 0, 5) for _ in range(6)]

    def loss(choice: list[int]) -> float:
        return float(sum(index**2 * (site + 1) for site, index in enumerate(choice)))

    first, second = (refine(losses, costs, 3.0, loss, steps=20, seed=1) for _ in range(2))
    assert first is not None and second is not None
    assert first.choice == second.choice and first.loss <= first.first_loss
    assert refine(losses, [cost + 1 for cost in costs], 3.0, loss, steps=5, seed=1) is None


def test_levels_are_every_head_and_a_falling_grid_of_neurons() -> None:
    assert unit_levels("attention", 4, 0) == [4, 3, 2, 1, 0]
    assert unit_levels("attention", 4, 2) == [4, 3, 2]
    neurons = unit_levels("feed_forward", 1536, 0)
    assert neurons[0] == 1536 and neurons[-1] == 0
    assert all(width % 16 == 0 for width in neurons)
    assert all(small < large for large, small in itertools.pairwise(neurons))
    assert unit_levels("feed_forward", 100, 100) == [100]
    assert unit_levels("feed_forward", 12, 1) == list(range(12, 0, -1))


def test_ranked_candidates_drop_the_lowest_scores_and_cost_their_sum() -> None:
    three, two, none = ranked_candidates(torch.tensor([3.0, 1.0, 2.0]), [3, 2, 0])
    assert (three.kept, three.loss) == ((0, 1, 2), 0.0)
    assert (two.kept, two.loss) == ((0, 2), 1.0)
    assert (none.kept, none.loss) == ((), 6.0)
