"""The recipe's words for losses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from compress.losses.config import LossConfig, Term


def test_a_number_is_a_weight() -> None:
    config = LossConfig.model_validate({"labels": 0.3, "logits": {"temperature": 4}})
    assert config.labels == Term(weight=0.3)
    assert config.logits is not None and (config.logits.weight, config.logits.temperature) == (1.0, 4.0)
    assert set(config.terms()) == {"labels", "logits"}


def test_a_weight_of_nothing_leaves_a_loss_out() -> None:
    assert set(LossConfig.model_validate({"labels": 1, "hidden": 0}).terms()) == {"labels"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no loss is active after 0%"),
        ({"labels": 0, "logits": 0}, "no loss is active"),
        ({"hidden": {"between": [0, 0.5]}}, "after 50%"),
        ({"labels": {"between": [0.5, 0.5]}}, "between must be"),
        ({"labels": {"between": [0, 2]}}, "between must be"),
        ({"logits": True}, "logits"),
        ({"relation": 1}, "relation"),
    ],
)
def test_losses_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LossConfig.model_validate(given)


def test_a_term_counts_between_its_two_moments() -> None:
    first, second = Term(between=(0, 0.5)), Term(between=(0.5, 1))
    assert [first.counts_at(at) for at in (0, 0.49, 0.5, 1)] == [True, True, False, False]
    assert [second.counts_at(at) for at in (0, 0.49, 0.5, 1)] == [False, False, True, True]
