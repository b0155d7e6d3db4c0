"""Ranking across layers, and how few units hold most of the importance."""

from __future__ import annotations

import pytest
import torch

from compress.prune.importance.ranking import held_by_top, normalised, units_holding, weakest_first


def test_the_weakest_unit_is_found_after_each_sites_norm_is_divided_out() -> None:
    # Norms 5 and 50: normalised .6 .8 and .8 .6, so raw size doesn't decide; of equals the earlier is first.
    scores = [torch.tensor([3.0, 4.0]), torch.tensor([40.0, 30.0])]
    assert weakest_first(scores) == [(0, 0), (1, 1), (0, 1), (1, 0)]


def test_a_site_without_importance_is_all_zero_and_not_nan() -> None:
    assert normalised(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    assert weakest_first([torch.tensor([1.0]), torch.zeros(2)])[:2] == [(1, 0), (1, 1)]


def test_the_share_of_the_top_is_that_of_the_largest_rounded_up_to_a_unit() -> None:
    scores = torch.tensor([1.0, 6.0, 2.0, 1.0])
    assert held_by_top(scores, 0.25) == pytest.approx(0.6)
    assert held_by_top(scores, 0.3) == pytest.approx(0.8)  # 1.2 units: two
    assert held_by_top(scores, 1.0) == pytest.approx(1.0)
    assert held_by_top(torch.zeros(4), 0.5) == 0.0


def test_the_fewest_units_that_hold_a_share() -> None:
    scores = torch.tensor([1.0, 6.0, 2.0, 1.0])
    assert [units_holding(scores, share) for share in (0.5, 0.6, 0.61, 0.9, 1.0)] == [1, 1, 2, 3, 4]
    assert units_holding(torch.zeros(4), 0.9) == 0
