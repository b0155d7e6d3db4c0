"""Figures by class: against scikit-learn, the coverage of intervals, and which classes count as lost."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from compress.tasks import NO_LABEL, Classification, flat_truth
from compress.tasks.metrics.by_class import ByClass

SHARES = np.array([0.5, 0.3, 0.15, 0.05])


def _answers(draw: np.random.Generator, truth: np.ndarray, wrong: float, classes: int = 4) -> np.ndarray:
    return np.where(draw.random(len(truth)) < wrong, draw.integers(0, classes, len(truth)), truth)


def _rows(seed: int, rows: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    truth = draw.choice(4, rows, p=SHARES)
    before = _answers(draw, truth, 0.15)
    return truth, before, _answers(draw, before, 0.1)


def test_the_table_is_scikit_learns() -> None:
    truth, before, after = _rows(0)
    task = Classification((), tuple("abcd"))
    found = task.breakdown(before, after, flat_truth(truth, None), ({}, {}))
    (was, now) = (precision_recall_fscore_support(truth, each) for each in (before, after))
    for at, row in enumerate(found.rows):
        figures = [was[2], now[2], was[0], now[0], was[1], now[1]]
        assert row == ("abcd"[at], f"{now[3][at]:,}", *(f"{each[at]:.3f}" for each in figures))
    for each in (before, after):
        assert f"{f1_score(truth, each, average='macro'):.3f}" in found.sentences[0]
    change, low, high = ByClass.of_one(4, truth, before, after).macro_f1_change()
    wanted = f1_score(truth, after, average="macro") - f1_score(truth, before, average="macro")
    assert change == pytest.approx(wanted) and low < change < high < 0


@pytest.mark.parametrize(("classes", "listed"), [(40, 40), (300, 200)])
def test_of_many_classes_those_that_changed_most_come_first(classes: int, listed: int) -> None:
    truth = np.arange(5 * classes) % classes
    before, after = truth.copy(), truth.copy()
    after[truth == 33] = 0
    found = Classification((), tuple(map(str, range(classes)))).breakdown(
        before, after, flat_truth(truth, None), ({}, {})
    )
    assert [row[0] for row in found.rows[:2]] == ["33", "0"] and len(found.rows) == listed
    assert len(found.sentences) == 2 and ("100" in found.sentences[1]) == (classes > listed)


def test_classes_without_rows_and_labels_that_nobody_knows_do_not_count() -> None:
    truth, answers = np.array([0, 0, 1, 1, NO_LABEL]), np.array([0, 2, 1, 1, 0])
    value, _, _ = ByClass.of_one(4, truth, answers).macro_f1()
    assert value == pytest.approx((2 / 3 + 1) / 2)
    row = (
        Classification((), tuple("abcd"))
        .breakdown(answers, answers, flat_truth(truth, None), ({}, {}))
        .rows[3]
    )
    assert row == ("d", "0", "0.000", "0.000", "-", "-", "-", "-")


def test_equal_or_perfect_answers_are_no_proof() -> None:
    truth, before, _ = _rows(0)
    value, low, high = ByClass.of_one(4, truth, before, before).macro_f1_change()
    assert value == 0 and -0.1 < low < -0.003 and 0.003 < high < 0.1
    value, low, high = ByClass.of_one(4, truth, truth).macro_f1()
    assert value == high == 1 and 0.9 < low < 0.999


def test_intervals_cover_in_95_of_100_samples() -> None:
    draw = np.random.default_rng(1)
    many = draw.choice(4, 200_000, p=SHARES)
    wrong = _answers(draw, many, 0.15)
    before, after = (f1_score(many, each, average="macro") for each in (wrong, _answers(draw, wrong, 0.1)))
    held = np.zeros(2)
    for seed in range(100):
        found = ByClass.of_one(4, *_rows(seed, 150))
        for at, (interval, true) in enumerate(
            ((found.macro_f1(), after), (found.macro_f1_change(), after - before))
        ):
            held[at] += interval[1] <= true <= interval[2]
    assert (held / 100 >= 0.91).all() and (held / 100 <= 0.995).all()


def _lost(found_before: int, found_after: int, rows: int = 20) -> bool:
    """Whether a class of which a model finds some rows, and another some of these, is lost."""
    truth = np.repeat([0, 1], [1000, rows])
    before, after = np.zeros_like(truth), np.zeros_like(truth)
    before[1000 : 1000 + found_before] = 1
    after[1000 : 1000 + found_after] = 1
    return [one.name for one in ByClass.of_one(2, truth, before, after).lost()] == ["1"]


def test_a_class_is_lost_where_less_than_half_of_it_is_measurable() -> None:
    # 0.5 ** 5 is below 0.05, 0.5 ** 4 is not; of 20, five or less by the binomial distribution
    assert (_lost(4, 0), _lost(5, 0)) == (False, True)
    assert (_lost(20, 5), _lost(20, 6), _lost(20, 20), _lost(0, 5)) == (True, False, False, False)
    truth = np.repeat([0, 1], [990, 10])
    (one,) = ByClass.of_one(2, truth, truth, np.zeros(1000, dtype=np.int64)).lost()
    assert (one.name, one.units, one.before, one.after) == ("1", 10, 1.0, 0.0)


def test_a_class_that_is_found_half_as_often_is_called_lost_5_times_in_100() -> None:
    draw, held = np.random.default_rng(0), 0
    for _ in range(400):
        truth = np.zeros(60, dtype=np.int64)
        before = (draw.random(60) < 0.2).astype(np.int64)
        after = (draw.random(60) < 0.6).astype(np.int64)  # finds 0.4 where the first finds 0.8
        held += bool(ByClass.of_one(2, truth, before, after).lost())
    assert held / 400 <= 0.07


def test_labels_of_several_are_lost_alike() -> None:
    truth = np.ones((30, 3), dtype=np.int64)
    after = truth.copy()
    after[:, 1] = 0
    found = ByClass.of_several(truth, truth, after)
    assert [one.name for one in found.lost()] == ["1"]
    assert found.macro_f1()[0] == pytest.approx(2 / 3)
    some = truth.copy()
    some[:, 2] = NO_LABEL
    assert ByClass.of_several(some, truth, truth).support.tolist() == [30, 30, 0]


def test_rows_may_have_a_class_several_times() -> None:
    draw = np.random.default_rng(0)
    true, before, after = draw.integers(0, 2, (3, 200, 3, 5))  # five things a row and class
    counts = [(each & true, each) for each in (before, after)]
    (right, given), both = (
        zip(*((a.sum(-1), b.sum(-1)) for a, b in counts), strict=True),
        (before & after & true).sum(-1),
    )
    models = [(right[at], given[at]) for at in (0, 1)]
    found = ByClass.of_counts(true.sum(-1), models, both)
    assert found.support.tolist() == true.sum((0, 2)).tolist()
    flat = [each.transpose(0, 2, 1).reshape(-1, 3) for each in (true, before, after)]
    was, now = (f1_score(flat[0], each, average="macro") for each in flat[1:])
    assert found.macro_f1()[0] == pytest.approx(now)
    assert found.macro_f1_change()[0] == pytest.approx(now - was)
    assert found.lost() == ()
