"""Losses of rows, perplexity with its interval over rows, and what is kept of a teacher's answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compress.tasks import Classification, LanguageModelling, Truth, flat_truth
from compress.tasks.language_modelling import RowLosses, compare_losses, token_divergence, top_answers
from compress.tasks.metrics.statistics import mean_interval

TASK = LanguageModelling(())


def _rows(labels: np.ndarray, length: int) -> Truth:
    return flat_truth(labels.reshape(-1, length), None)


def _losses(values: list[list[float]]) -> RowLosses:
    """Rows whose tokens have these losses: two classes, the right one (0) with that much log-odds."""
    found = RowLosses()
    for row in values:
        odds = np.log(np.expm1(np.array(row)))  # -log p = loss: the other class is ahead by this
        logits = np.stack([np.zeros(len(row)), odds], axis=-1).astype(np.float32)
        found.add(logits, np.zeros((1, len(row)), dtype=np.int64))
    return found


def test_a_row_has_the_mean_loss_of_its_tokens() -> None:
    np.testing.assert_allclose(_losses([[1.0, 3.0], [0.5, 0.5]]).values, [2.0, 0.5], rtol=1e-6)


def test_huge_logits_don_t_overflow() -> None:
    found = RowLosses()
    found.add(np.array([[1e4, 0.0], [0.0, 1e4]], np.float32), np.array([[0, 0]]))
    assert found.values.tolist() == [5000.0]


def test_perplexity_and_bits_per_byte_are_of_the_same_loss() -> None:
    before, after = _losses([[1.0, 1.0]] * 4), _losses([[1.1, 1.1], [1.3, 1.3], [1.1, 1.1], [1.3, 1.3]])
    found = compare_losses(before, after, 8, 12)
    assert found["baseline"]["perplexity"] == pytest.approx(math.e) and found["tokens"] == 8
    assert found["baseline"]["bits_per_byte"] == pytest.approx(8 / 12 / math.log(2))
    assert found["perplexity_ratio"]["value"] == pytest.approx(math.exp(0.2))
    low, high = mean_interval(np.array([0.1, 0.3, 0.1, 0.3]))
    assert found["perplexity_ratio"]["low"] == pytest.approx(math.exp(low))
    assert found["perplexity_ratio"]["high"] == pytest.approx(math.exp(high)) and low < 0.2 < high


def test_unknown_bytes_give_no_bits_per_byte() -> None:
    found = compare_losses(_losses([[1.0]] * 2), _losses([[1.0]] * 2), 2, None)
    assert found["baseline"]["bits_per_byte"] is None and found["perplexity_ratio"]["value"] == 1


def test_tokens_of_a_row_are_not_independent() -> None:
    # One of ten rows is wrong as a whole: as one of ten, not as fifty of five hundred.
    labels = np.zeros(500, dtype=np.int64)
    wrong = np.repeat(np.arange(10) == 0, 50).astype(np.int64)
    by_row = TASK.difference(labels, wrong, _rows(labels, 50))
    by_token = Classification(()).difference(labels, wrong, _rows(labels, 1))
    assert by_row.value == by_token.value == -0.1 and by_row.unit == "token"
    assert by_row.low < by_token.low - 0.1 and by_row.high > by_token.high
    one = TASK.score(wrong, _rows(labels, 50))
    assert (one.value, one.rows, one.units, one.unit) == (0.9, 10, 500, "token") and one.low < 0.75


def test_equal_answers_are_no_proof() -> None:
    labels = np.zeros(40, dtype=np.int64)
    same = TASK.difference(labels, labels, _rows(labels, 10))
    assert same.low < 0 < same.high


def test_one_row_bounds_no_perplexity() -> None:
    found = compare_losses(_losses([[1.0]]), _losses([[1.1]]), 1, None)
    ratio = found["perplexity_ratio"]
    assert ratio["low"] < 1e-6 < 1 < ratio["value"] < 1e6 < ratio["high"] < math.inf


def test_a_share_of_few_rows_stays_a_share():
    labels = np.zeros(8, dtype=np.int64)
    found = TASK.score(labels, _rows(labels, 4))
    assert 0 <= found.low < found.high == 1
    mixed = TASK.score(np.array([0] * 4 + [1] * 4), _rows(labels, 4))
    assert (mixed.low, mixed.value, mixed.high) == (0, 0.5, 1)


def _logits(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_all_tokens_it_is_the_divergence_of_the_answers(temperature: float) -> None:
    student, teacher = _logits(0), _logits(1)
    found = token_divergence(student, *top_answers(teacher, 40), temperature)
    pair = [each.flatten(0, 1).div(temperature).log_softmax(-1) for each in (student, teacher)]
    wanted = F.kl_div(pair[0], pair[1], reduction="batchmean", log_target=True) * temperature**2
    torch.testing.assert_close(found, wanted)


def test_the_rest_counts_as_one_token() -> None:
    student, teacher = _logits(0), _logits(1)
    values, ids = top_answers(teacher, 4)
    p, q = teacher.softmax(-1), student.softmax(-1)
    kept_p, kept_q = p.gather(-1, ids), q.gather(-1, ids)
    rest_p, rest_q = 1 - kept_p.sum(-1), 1 - kept_q.sum(-1)
    wanted = (kept_p * (kept_p / kept_q).log()).sum(-1) + rest_p * (rest_p / rest_q).log()
    torch.testing.assert_close(
        token_divergence(student, values, ids, 1.0), wanted.mean(), rtol=1e-4, atol=1e-5
    )


def test_it_is_nothing_where_both_say_the_same_and_pulls_towards_the_teacher() -> None:
    teacher = _logits(1)
    values, ids = top_answers(teacher, 4)
    assert token_divergence(teacher, values, ids, 1.0).abs() < 1e-5
    student = _logits(0).requires_grad_()
    before = token_divergence(student, values, ids, 1.0)
    (gradient,) = torch.autograd.grad(before, student)
    assert token_divergence(student - 0.1 * gradient / gradient.norm(), values, ids, 1.0) < before
