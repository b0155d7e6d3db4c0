"""The floor: words that say the class, rows without texts, and what is chosen on which rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from compress.data.readers.reader import NumbersReader
from compress.data.split import Split
from compress.data.splits import Splits
from compress.measure.answers import pack_answers
from compress.measure.counted_words import bm25
from compress.measure.floor import measure_floor
from compress.measure.results import Answers, Floor
from compress.tasks import NO_LABEL, Classification, MultiLabel, Task
from compress.tasks.scores.regression import Regression
from compress.tasks.scores.reranking import Reranking

WORDS = ("bad", "fine", "good")


class _Texts(NumbersReader):
    modality = "text"


def _split(name: str, rows: int, seed: int, *, several: bool) -> Split:
    """Texts of which nine in ten have the word of their class, or of each of their labels."""
    draw = np.random.default_rng(seed)
    labels = (
        draw.integers(0, 2, (rows, 3)) if several else np.eye(3, dtype=np.int64)[draw.integers(0, 3, rows)]
    )
    said = [
        [word for word, has in zip(WORDS, row, strict=True) if has and draw.random() < 0.9] for row in labels
    ]
    texts = tuple(f"film {draw.integers(50)} {' '.join(words)}" for words in said)
    return Split(name, ({},) * rows, labels if several else labels.argmax(1), (), texts)


def _splits(task: type[Task], *, several: bool = False) -> Splits:
    parts = {"train": (300, 0), "validation": (60, 1), "test": (200, 2)}
    made = {name: _split(name, rows, seed, several=several) for name, (rows, seed) in parts.items()}
    return Splits(task((), WORDS), **made, source="made", reader=_Texts())


def _answers(splits: Splits, candidate: Any = None) -> Answers:
    labels = splits.test.truth(splits.task).labels
    given = labels if candidate is None else candidate
    return Answers(labels=pack_answers(labels), baseline=pack_answers(labels), candidate=pack_answers(given))


def _measured(splits: Splits, candidate: Any = None) -> Floor:
    found = measure_floor(splits, _answers(splits, candidate), seed=0)
    assert isinstance(found, Floor)
    return found


def test_it_is_scored_on_test_rows_and_compared_with_both_models() -> None:
    splits = _splits(Classification)
    truth = splits.test.labels
    found = _measured(splits, np.zeros_like(truth))
    assert 0.85 < found.score.value < 0.99 and found.score.rows == 200 and found.rows == 300
    assert found.baseline.value == pytest.approx(1 - found.score.value) and found.baseline.low > 0
    assert found.candidate.value == pytest.approx((truth == 0).mean() - found.score.value)
    assert found.candidate.high < 0
    assert found.row_ms > 0 and found.words > 3
    again = _measured(splits, np.zeros_like(truth))
    assert replace_times(again) == replace_times(found)


def replace_times(found: Floor) -> Floor:
    return found.model_copy(update={"fit_seconds": 0.0, "row_ms": 0.0})


def test_several_labels_have_a_model_each_and_a_threshold_of_validation_rows() -> None:
    found = _measured(_splits(MultiLabel, several=True))
    assert found.score.metric == "micro F1" and found.score.value > 0.85


def test_a_number_has_ridge_regression() -> None:
    splits = _splits(Classification)

    def numbered(split: Split) -> Split:
        return replace(split, labels=split.labels * 1.5 - 1)

    parts = {part: numbered(getattr(splits, part)) for part in ("train", "validation", "test")}
    found = _measured(Splits(Regression(()), **parts, source="made", reader=_Texts()))
    assert found.score.metric == "Pearson correlation" and 0.8 < found.score.value < 0.99
    assert found.model == "ridge regression" and found.candidate.low > 0


def test_test_labels_have_no_part_in_what_is_fitted() -> None:
    splits = _splits(Classification)
    turned = replace(splits, test=replace(splits.test, labels=(splits.test.labels + 1) % 3))
    found, other = _measured(splits), _measured(turned)
    assert (other.strength, other.words) == (found.strength, found.words)
    assert other.score.value < 0.2


def test_rows_without_a_label_and_classes_without_rows_are_left_out() -> None:
    splits = _splits(Classification)
    labels = np.where(splits.train.labels == 2, NO_LABEL, splits.train.labels)
    found = _measured(replace(splits, train=replace(splits.train, labels=labels)))
    assert found.rows == (labels >= 0).sum() and 0.4 < found.score.value < 0.8
    one = replace(splits.train, labels=np.zeros_like(labels))
    assert _measured(replace(splits, train=one)).score.value == (splits.test.labels == 0).mean()


def test_without_texts_or_words_there_is_none_and_a_reason() -> None:
    splits = _splits(Classification)
    answers = _answers(splits)
    bare = replace(splits, train=replace(splits.train, texts=()))
    assert isinstance(measure_floor(bare, answers, seed=0), str)
    dots = replace(splits, train=replace(splits.train, texts=("...",) * 300))
    assert isinstance(measure_floor(dots, answers, seed=0), str)
    assert measure_floor(replace(splits, reader=NumbersReader()), answers, seed=0) is None


def test_many_rows_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.measure.floor._MOST_ROWS", 100)
    monkeypatch.setattr("compress.measure.floor._FEWEST_TRIED", 50)
    assert _measured(_splits(Classification)).rows == 100


def _of_two_texts(split: Split) -> Split:
    """Rows of which both texts are the same three words."""
    draw = np.random.default_rng(len(split))
    texts = (" ".join(f"word{at}" for at in draw.integers(200, size=3)) for _ in split.texts)
    return replace(split, texts=tuple((text, text) for text in texts))


def test_both_texts_of_a_pair_are_counted() -> None:
    splits = _splits(Classification)

    def paired(split: Split) -> Split:
        return replace(split, texts=tuple(("film", str(text)) for text in split.texts))

    parts = {part: paired(getattr(splits, part)) for part in ("train", "validation", "test")}
    found = _measured(replace(splits, **parts))
    assert found.score.value > 0.85 and found.compared and not _measured(splits).compared


def test_texts_whose_likeness_alone_says_the_class_are_told_apart() -> None:
    """Each word occurs as often in either class."""
    splits = _splits(Classification)
    parts = {}
    for part in ("train", "validation", "test"):
        split = getattr(splits, part)
        own = _of_two_texts(split).texts
        labels = np.arange(len(split)) % 2
        turned = [(own[at][0], own[at if label else at - 2][1]) for at, label in enumerate(labels)]
        parts[part] = replace(split, texts=tuple(turned), labels=labels)
    assert _measured(replace(splits, task=Classification((), ("no", "yes")), **parts)).score.value > 0.95


def test_candidates_are_ranked_by_how_alike_they_are() -> None:
    splits = _splits(Classification)
    parts = {}
    for part in ("train", "validation", "test"):
        split = getattr(splits, part)
        own = _of_two_texts(split).texts
        at = np.arange(len(split))
        right = at % 4 == 0
        texts = tuple((own[each - each % 4][0], own[each][1]) for each in at)
        parts[part] = replace(split, texts=texts, labels=np.stack((right * 1.0, at // 4), axis=1))
    splits = Splits(Reranking(()), **parts, source="made", reader=_Texts())
    labels = splits.test.labels[:, 0]
    answers = Answers(**{name: pack_answers(labels) for name in ("labels", "baseline", "candidate")})
    found = measure_floor(splits, answers, seed=0)
    assert isinstance(found, Floor) and found.compared and found.model == "ridge regression"
    assert found.score.metric == "nDCG@10" and found.score.units == 50 and found.score.value > 0.95
    assert found.candidate.value == pytest.approx(1 - found.score.value)


def test_bm25_of_small_documents() -> None:
    words = np.array([[1, 1, 0], [0, 2, 1]])
    weights = np.array([1.0, 0.5, 2.0])
    found = bm25(csr_array([[1, 0, 1], [0, 1, 1]]), csr_array(words), weights, usual=2.0)
    first = 1.0 * 2.2 / (1 + 1.2 * 1.0)  # of its usual length; the second word is not asked for
    longer = 1.2 * (0.25 + 0.75 * 3 / 2)
    second = 0.5 * 2 * 2.2 / (2 + longer) + 2.0 * 2.2 / (1 + longer)
    np.testing.assert_allclose(found, [first, second])
