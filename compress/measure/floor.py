"""What a task's rows give away without a Transformer: a linear model of counted words.

TF-IDF of words (see `counted_words`) and the task's linear model, by scikit-learn, fitted on the training
rows. The strength of its regularization, and what the task decides on
validation rows, are chosen there; test rows are only answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.split import Split
from compress.data.splits import Splits
from compress.measure.counted_words import CountedWords, plain_texts
from compress.measure.results import Answers, Floor
from compress.system.exclusive import alone
from compress.tasks import NO_LABEL, Task
from compress.tasks.linear import LinearModel

__all__ = ["measure_floor"]

_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
# Limits that keep it at seconds: rows are drawn, words are the most frequent ones.
_MOST_ROWS, _MOST_CHARACTERS = 20_000, 10_000_000
_MOST_WEIGHTS, _MOST_WORDS = 4_000_000, 100_000
_MOST_WORK, _MOST_TRIED_WORK = 1_000_000, 50_000  # rows x classes that are fitted, and in each trial
_FEWEST_TRIED = 1_000
_TIMED, _WARM_UP = 200, 5  # rows


def measure_floor(splits: Splits, answers: Answers, *, seed: int) -> Floor | str | None:
    """Fit and score the floor; or why there is none; None if the task has none, or rows are not texts.

    Args:
        answers: of baseline and candidate to the test rows.
        seed: of the rows that are drawn.
    """
    task = splits.task
    if splits.reader.modality != "text" or task.linear_model(1.0) is None:
        return None
    if not (splits.train.texts and splits.validation.texts and splits.test.texts):
        return "the texts of the rows are not known"
    began = time.perf_counter()
    train = _known(splits.train)
    if not len(train):
        return "train has no labels"
    train = _shortened(train, task, seed)
    try:
        words = CountedWords.of(train.texts, min(_MOST_WORDS, max(1, _MOST_WEIGHTS // max(task.classes, 1))))
    except ValueError as error:  # no words at all
        return str(error)
    fitted = _fitted(words, task, train, _known(splits.validation), seed)
    fit_seconds = time.perf_counter() - began
    found, truth = fitted.answers(splits.test.texts), splits.test.truth(task)
    return Floor(
        model=fitted.model.name,
        rows=len(train),
        words=words.count,
        compared=words.pairs is not None,
        strength=fitted.strength,
        score=task.score(found, truth),
        baseline=task.difference(found, answers.of("baseline"), truth),
        candidate=task.difference(found, answers.of("candidate"), truth),
        fit_seconds=fit_seconds,
        row_ms=_row_ms(lambda text: fitted.answers([text]), splits.test.texts),
    )


@dataclass(frozen=True)
class _Fitted:
    words: CountedWords
    model: LinearModel
    task: Task
    strength: float

    def answers(self, texts: Sequence[Any]) -> NDArray[Any]:
        return self.task.named(self.model.logits(self.words.features(texts)))


def _fitted(words: CountedWords, task: Task, train: Split, validation: Split, seed: int) -> _Fitted:
    """Fitted with the strength that is best on validation rows when a part of train is fitted."""
    tried = train.take(max(_FEWEST_TRIED, _MOST_TRIED_WORK // max(task.classes, 1)), seed=seed)
    truth, unseen = validation.truth(task), words.features(validation.texts)

    def fit(split: Split, features: Any, strength: float) -> tuple[LinearModel, Task, float]:
        model = task.linear_model(strength)
        assert model is not None
        model.fit(features, split.labels)
        logits = model.logits(unseen)
        decided = task.decided(logits, truth) if task.decides else task
        return model, decided, decided.value(decided.named(logits), truth)

    seen = words.features(tried.texts)
    strength = max(_STRENGTHS, key=lambda each: fit(tried, seen, each)[2])
    if tried is not train:
        seen = words.features(train.texts)
    model, decided, _ = fit(train, seen, strength)
    return _Fitted(words, model, decided, strength)


def _known(split: Split) -> Split:
    """The rows whose labels are known."""
    labels = split.labels.reshape(len(split), -1)
    unknown = np.isnan(labels) if labels.dtype.kind == "f" else labels == NO_LABEL
    return split.at(np.flatnonzero(~unknown.any(axis=1))) if unknown.any() else split


def _shortened(train: Split, task: Task, seed: int) -> Split:
    """Rows as many as can be fitted in seconds."""
    each = sum(map(len, plain_texts(train.texts))) / len(train)
    most = min(_MOST_ROWS, _MOST_CHARACTERS / max(each, 1), _MOST_WORK / max(task.classes, 1))
    return train.take(max(_FEWEST_TRIED, int(most)), seed=seed)


def _row_ms(answer: Callable[[Any], object], texts: Sequence[Any]) -> float:
    """Median time of one text, over up to 200 of them."""
    for text in texts[:_WARM_UP]:
        answer(text)
    times = []
    with alone():
        for text in texts[:_TIMED]:
            begin = time.perf_counter()
            answer(text)
            times.append(time.perf_counter() - begin)
    return 1e3 * float(np.median(times))
