"""Sentence embedding: neighbours by hand, intervals that cover, and losses without labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.tasks import Truth
from compress.tasks.embeddings.neighbours import cosines, kept_neighbours, nearest
from compress.tasks.embeddings.sentence import SentenceEmbedding, _interval

TASK = SentenceEmbedding((), size=8)


def _truth(vectors: np.ndarray) -> Truth:
    return TASK.truth(vectors, None)


def _around(vectors: np.ndarray, noise: float) -> np.ndarray:
    draw = np.random.default_rng(1)
    return (vectors + noise * draw.standard_normal(vectors.shape)).astype(np.float32)


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((120, 8)).astype(np.float32)


def test_neighbours_are_those_with_the_highest_cosine() -> None:
    angles = np.radians([0.0, 10.0, 25.0, 180.0])
    circle = np.stack((np.cos(angles), np.sin(angles)), axis=1) * np.array([[1], [5], [1], [9]])
    assert nearest(circle, 1).tolist() == [[1], [0], [1], [2]]
    moved = circle.copy()
    moved[1] = circle[3]  # text 1 is now at 180 degrees
    assert kept_neighbours(circle, moved, 1).tolist() == [0, 0, 0, 0]
    assert kept_neighbours(circle, 3 * circle, 2).tolist() == [2, 2, 2, 2]
    assert cosines(circle[:1], circle[3:]).tolist() == pytest.approx([-1.0])


def test_the_original_keeps_all_and_random_vectors_as_many_as_chance(vectors: np.ndarray) -> None:
    truth = _truth(vectors)
    assert TASK.value(vectors, truth) == 1.0 and TASK.value(2 * vectors, truth) == 1.0
    found = [
        TASK.value(np.random.default_rng(seed).standard_normal(vectors.shape), truth) for seed in range(9, 29)
    ]
    assert np.mean(found) == pytest.approx(10 / 119, abs=0.01)
    assert TASK.value(TASK.constant(truth), truth) == pytest.approx(10 / 119, abs=0.03)
    value, gain = TASK.above_constant(_around(vectors, 0.3), truth)
    assert value < 0.15 and gain.low > 0.3


def test_scores_and_differences_have_intervals_that_hold_the_value(vectors: np.ndarray) -> None:
    truth, moved = _truth(vectors), _around(vectors, 0.2)
    score = TASK.score(moved, truth)
    assert score.low < score.value == TASK.value(moved, truth) < score.high and score.unit == "text"
    change = TASK.difference(vectors, moved, truth)
    assert change.value == pytest.approx(score.value - 1) and change.high < 0
    assert change.gained == 0 and 0 < change.lost <= 120 and 0.8 < change.agreement <= 1
    same = TASK.difference(vectors, vectors, truth)
    assert same.value == 0 and same.low < 0 < same.high and same.agreement == 1
    assert TASK.score(vectors, truth).low < 1
    assert TASK.correct(moved, truth) is None


@pytest.mark.parametrize("keeps", [0.995, 0.9, 0.5])
def test_intervals_cover(keeps: float) -> None:
    draw = np.random.default_rng(0)
    inside, tries = 0, 60
    for _ in range(tries):
        shares = draw.beta(20 * keeps, 20 * (1 - keeps), size=200)  # texts differ
        kept = draw.binomial(10, shares)
        value = float(kept.mean() / 10)
        made_up = np.array([min(kept.min(), 9), 10])
        low, high = _interval(kept, made_up, 10, value, least=0.0)
        inside += low <= keeps <= high
    assert inside / tries >= 0.87  # of 0.95, less than three standard errors


def test_vectors_of_another_size_are_compared_by_neighbours(vectors: np.ndarray) -> None:
    truth = _truth(vectors)
    half = vectors[:, :4]
    assert 0 < TASK.value(half, truth) < 1
    assert TASK.same(half, vectors).shape == (120,)
    table = TASK.breakdown(vectors, half, truth, ({}, {}))
    assert [row[0] for row in table.rows][0] == "same nearest neighbour"
    whole = TASK.breakdown(vectors, _around(vectors, 0.1), truth, ({}, {}))
    assert whole.rows[0][:2] == ("mean cosine", "1.0000") and float(whole.rows[0][2]) > 0.9


def test_without_the_original_a_model_is_compared_with_another(vectors: np.ndarray) -> None:
    unknown = _truth(TASK.no_labels(120))
    assert TASK.change(vectors, vectors, unknown) == 0.0
    assert TASK.change(vectors, _around(vectors, 0.3), unknown) < -0.1


def test_the_loss_ignores_rows_without_labels_and_is_0_at_them() -> None:
    given = torch.randn(4, 8, requires_grad=True)
    labels = given.detach().clone()
    assert TASK.loss(given, labels).item() == pytest.approx(0, abs=1e-6)
    assert TASK.loss(given, -labels).item() == pytest.approx(2 + 4, abs=1e-5)  # turned round, twice as far
    labels[0] = float("nan")
    labels[1] = -labels[1]
    some = TASK.loss(given, labels)
    assert 0 < some.item() < 6 and not torch.isnan(some)
    some.backward()
    assert given.grad is not None and not given.grad[0].any() and given.grad[1].any()
    for blank in (torch.full((4,), -1), torch.full((4, 1), float("nan")), torch.full((4, 8), float("nan"))):
        assert TASK.loss(given, blank).item() == 0


def test_importance_has_a_gradient_although_labels_are_unknown() -> None:
    given = torch.randn(4, 8, requires_grad=True)
    unknown = torch.from_numpy(SentenceEmbedding.encode_labels([()] * 4, {}))
    labels = TASK.importance_labels(given, unknown)
    TASK.loss(given, labels).backward()
    assert given.grad is not None and given.grad.abs().min() > 0
    assert torch.equal(labels, TASK.importance_labels(given, unknown))
    assert TASK.importance_labels(given, labels) is labels


def test_shapes() -> None:
    assert TASK.misfit((3, 8), 3, 5) is None and TASK.widened((3, 4)).size == 4
    assert "[3, size]" in (TASK.misfit((3, 5, 8), 3, 5) or "")
    assert TASK.answer_shape == (8,) and TASK.numbers(10) == 8


def test_vectors_of_another_size_learn_the_likeness_of_texts(vectors: np.ndarray) -> None:
    teacher = torch.from_numpy(vectors)
    student = torch.nn.Parameter(teacher[:, :5].clone())
    loss = TASK.divergence(student, teacher, 1.0)
    same = TASK.similarity_from_kept(student, TASK.kept_answers(teacher))
    assert same.item() == loss.item() == TASK.loss(student, teacher).item() > 0.01
    loss.backward()
    assert student.grad is not None and student.grad.abs().sum().item() > 0
    assert TASK.loss(student, torch.full((120, 1), torch.nan)).item() == 0
