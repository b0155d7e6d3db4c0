"""Token answers: the likeliest tokens and the rest, and how far a student is from them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from compress.losses.tokens import token_divergence, top_answers


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
