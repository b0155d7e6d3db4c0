"""The floor: words that say the class, rows without texts, and what is chosen on which rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compress.data.readers.reader import NumbersReader
from compress.data.split import Split
from compress.data.splits import Splits
from compress.measure.answers import pack_answers
from compress.measure.floor import measure_floor
from compress.measure.results import Answers, Floor
from compress.tasks import NO_LABEL, Classification, MultiLabel, Task

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


def test_both_texts_of_a_pair_are_counted() -> None:
    splits = _splits(Classification)

    def paired(split: Split) -> Split:
        return replace(split, texts=tuple(("film", text) for text in split.texts))  # type: ignore[arg-type]

    parts = {part: paired(getattr(splits, part)) for part in ("train", "validation", "test")}
    assert _measured(replace(splits, **parts)).score.value > 0.85
