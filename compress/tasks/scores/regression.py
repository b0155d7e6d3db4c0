"""Regression: a number per row, of texts or numbers.

The main metric is Pearson's correlation with the labels: unlike Spearman's it sees how far apart rows are,
and its chance level is 0 whatever the unit. It is blind to a shift or a wrong scale of all answers, so mean
absolute and root mean squared error are in the report beside it, each with its interval.
Intervals are of a bootstrap over rows (see `resampling`). Made-up rows for them are two at the mean of the
labels, of which one model answers the first as it usually would and the second one spread off.
Shapes: n = rows, b = batch, d = draws, m = metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.page.format import NUMBER
from compress.tasks.metrics.resampling import (
    Floats,
    Weighted,
    intervals,
    pearson,
    ranks_of,
    weighted_ranks,
    with_made_up,
)
from compress.tasks.scores.one_number import OneNumber
from compress.tasks.spec import Breakdown, Difference, HubHead, Score, TaskWords, Truth

__all__ = ["Regression", "regression_metrics"]

PROBLEM_TYPE = "regression"
_METRICS = ("Pearson correlation", "Spearman correlation", "mean absolute error", "root mean squared error")


@dataclass(frozen=True)
class Regression(OneNumber):
    """A number per row; logits [b, 1], labels float64 [b], NaN if unknown."""

    name = "regression"
    words = TaskWords(
        model="regression model",
        metric="Pearson correlation",
        score="Pearson correlation",
        right="with a Pearson correlation of {}",
        constant="always giving the same number",
        same="pairs of rows in the same order",
        unit="row",
        answer="number",
        label="number",
        summary="a number per row (data.task=regression); text (a column of numbers), arrays (labels [n])",
        served="models that give each text a number (data.task=regression)",
        hub_metric="pearsonr",
        scale=NUMBER,
    )
    heads = (
        HubHead(
            "text",
            "regression",
            "AutoModelForSequenceClassification",
            ("ForSequenceClassification",),
            "text-classification",
            problem_type=PROBLEM_TYPE,
            outputs=1,
        ),
    )

    def value(self, answers: NDArray[Any], truth: Truth) -> float:
        """Pearson's correlation; 0 if all answers, or all labels, are equal."""
        labels, (found,) = _known(truth, answers)
        return float(pearson(np.ones((1, len(labels))), labels, found)[0]) if len(labels) else 0.0

    def score(self, answers: NDArray[Any], truth: Truth) -> Score:
        """With its bootstrap interval over rows."""
        labels, (found,) = _known(truth, answers)
        more_labels, more = with_made_up(labels, found)
        ends, *_ = intervals(
            len(labels), _correlation(labels, found), (len(more_labels), _correlation(more_labels, *more))
        )
        return self.scored(self.value(answers, truth), ends, truth, len(labels))

    def difference(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Difference:
        """With its paired bootstrap interval over rows."""
        labels, (before, after) = _known(truth, baseline, candidate)
        more_labels, more = with_made_up(labels, before, after)

        def change(labels: Floats, before: Floats, after: Floats) -> Weighted:
            old, new = _correlation(labels, before), _correlation(labels, after)
            return lambda weights: new(weights) - old(weights)

        ends, *_ = intervals(
            len(labels), change(labels, before, after), (len(more_labels), change(more_labels, *more))
        )
        value = self.change(baseline, candidate, truth)
        return self.compared(value, ends, (baseline, candidate), truth, len(labels))

    def constant(self, truth: Truth) -> NDArray[Any]:
        """The mean, for each row: its correlation counts as 0."""
        labels, _ = _known(truth)
        return np.full(len(truth.labels), labels.mean() if len(labels) else 0.0)

    def breakdown(
        self,
        baseline: NDArray[Any],
        candidate: NDArray[Any],
        truth: Truth,
        decisions: tuple[Mapping[str, float], Mapping[str, float]],
    ) -> Breakdown | None:
        """Both correlations and both errors of both models, with the interval of each change."""
        labels, (before, after) = _known(truth, baseline, candidate)
        if not len(labels):
            return None
        more_labels, more = with_made_up(labels, before, after)

        def change(labels: Floats, before: Floats, after: Floats) -> Weighted:
            old, new = regression_metrics(labels, before), regression_metrics(labels, after)
            return lambda weights: new(weights) - old(weights)

        ends = intervals(
            len(labels), change(labels, before, after), (len(more_labels), change(more_labels, *more))
        )
        every = np.ones((1, len(labels)))
        old, new = (regression_metrics(labels, each)(every)[0] for each in (before, after))
        rows = []
        for name, was, now, (low, high) in zip(_METRICS, old, new, ends, strict=True):
            value, interval = NUMBER.change(now - was, low, high)
            rows.append((name, NUMBER.text(was), NUMBER.text(now), value, interval))
        return Breakdown(
            title="Correlation and error",
            sentences=(
                "A correlation is blind to a shift or a wrong scale of all answers; the errors, in the unit "
                f"of the labels, are not. The labels' standard deviation is {labels.std():.4g}: also "
                "the root mean squared error of always answering with their mean.",
            ),
            columns=("", "baseline", "candidate", "change", "95 % interval"),
            rows=tuple(rows),
        )

    def hub_entries(self) -> dict[str, Any]:
        """Also the kind of labels, by which pipelines return the number itself."""
        return {**super().hub_entries(), "problem_type": PROBLEM_TYPE}


def _known(truth: Truth, *answers: NDArray[Any]) -> tuple[Floats, tuple[Floats, ...]]:
    """Labels that are known, and the answers to these rows, in float64."""
    known = np.isfinite(truth.labels)
    return truth.labels[known].astype(np.float64), tuple(each[known].astype(np.float64) for each in answers)


def _correlation(labels: Floats, answers: Floats) -> Weighted:
    return lambda weights: pearson(weights, labels, answers)[:, None]


def regression_metrics(labels: Floats, answers: Floats) -> Weighted:
    """Pearson, Spearman, mean absolute error and root mean squared error of weighted rows, [d, 4]."""
    ranked = [ranks_of(each) for each in (labels, answers)]
    off = np.abs(answers - labels)

    def found(weights: Floats) -> Floats:
        ranks = [weighted_ranks(weights, *each) for each in ranked]
        total = weights.sum(axis=1)
        errors = (weights @ off / total, np.sqrt(weights @ np.square(off) / total))
        return np.stack((pearson(weights, labels, answers), pearson(weights, *ranks), *errors), axis=1)

    return found
