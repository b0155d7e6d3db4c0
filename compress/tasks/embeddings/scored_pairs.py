"""Pairs of texts with a score: vectors whose cosines should be in the order of the scores.

The metric is Spearman's correlation of cosines and scores. Intervals are of a bootstrap over pairs (see
`resampling`), as if pairs that share a text were independent. Made-up pairs for them are as in regression.
Shapes: n = rows, k = pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.page.format import NUMBER
from compress.tasks.embeddings.linked import LinkedEmbedding
from compress.tasks.embeddings.neighbours import cosines
from compress.tasks.embeddings.sentence import SentenceEmbedding
from compress.tasks.metrics.resampling import (
    Floats,
    Weighted,
    intervals,
    pearson,
    ranks_of,
    weighted_ranks,
    with_made_up,
)
from compress.tasks.spec import Truth

__all__ = ["ScoredPairs"]

_METRICS = ("Spearman correlation", "Pearson correlation")
_DECIMALS = 6  # of a cosine: less is rounding of float32, and a tie
_FEWEST = 2  # pairs that have an order


@dataclass(frozen=True)
class ScoredPairs(LinkedEmbedding):
    """Vectors [b, e] of texts, of which some pairs have a score."""

    words = replace(
        SentenceEmbedding.words,
        metric=_METRICS[0],
        score="Spearman correlation of cosines and scores",
        right="with a Spearman correlation of {}",
        constant="the same vector for each text",
        hub_metric="spearmanr",
        scale=NUMBER,
    )
    label_kind = "scores"
    judged_unit = "pair"
    title = "Pairs and vectors"

    def links_judged(self, truth: Truth) -> int:
        """Pairs whose two texts are there."""
        return len(_of_pairs(truth)[0])

    def value(self, answers: NDArray[Any], truth: Truth) -> float:
        """Spearman's correlation of cosines and scores; 0 if either are all equal."""
        scores, (found,) = _of_pairs(truth, answers)
        return float(_correlations(scores, found)(np.ones((1, len(scores))))[0, 0]) if len(scores) else 0.0

    def ends(self, answers: NDArray[Any], truth: Truth) -> Floats:
        """Over pairs."""
        scores, found = _of_pairs(truth, answers)
        if len(scores) < _FEWEST:
            return np.array([-1.0, 1.0])
        more_scores, more = with_made_up(scores, *found)
        made_up = (len(more_scores), _correlations(more_scores, *more))
        ends: Floats = intervals(len(scores), _correlations(scores, *found), made_up)[0]
        return ends

    def ends_of_change(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Floats:
        """Over pairs."""
        ends: Floats = _change(truth, baseline, candidate)[0]
        return ends

    def link_rows(
        self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth
    ) -> tuple[str, list[tuple[str, ...]]]:
        """Both correlations."""
        scores, both = _of_pairs(truth, baseline, candidate)
        before, after = (_correlations(scores, each)(np.ones((1, len(scores))))[0] for each in both)
        rows: list[tuple[str, ...]] = []
        for name, was, now, end in zip(
            _METRICS, before, after, _change(truth, baseline, candidate), strict=True
        ):
            rows.append((name, NUMBER.text(was), NUMBER.text(now), *NUMBER.change(now - was, *end)))
        texts = len(np.unique(_places(truth)))
        said = f"Correlations of cosines and scores of {len(scores):,} pairs; intervals are over pairs."
        if 2 * len(scores) > texts:
            said += (
                f" The pairs have {texts:,} different texts: pairs that share a text are not independent, so "
                "intervals for other texts would be wider."
            )
        return said, rows


def _places(truth: Truth) -> NDArray[np.int64]:
    return np.zeros((0, 2), dtype=np.int64) if truth.links is None else truth.links.places[0]


def _of_pairs(truth: Truth, *answers: NDArray[Any]) -> tuple[Floats, tuple[Floats, ...]]:
    """Scores of the pairs, and their cosines by each model's vectors, [k]."""
    places = _places(truth)
    scores = np.zeros(0) if truth.links is None else truth.links.places[1]
    found = (cosines(each[places[:, 0]], each[places[:, 1]]) for each in answers)
    return scores, tuple(np.round(each, _DECIMALS) for each in found)


def _correlations(scores: Floats, found: Floats) -> Weighted:
    """Spearman's and Pearson's correlation of weighted pairs, [d, 2]."""
    ranked = [ranks_of(each) for each in (scores, found)]

    def both(weights: Floats) -> Floats:
        ranks = [weighted_ranks(weights, *each) for each in ranked]
        return np.stack((pearson(weights, *ranks), pearson(weights, scores, found)), axis=1)

    return both


def _change(truth: Truth, baseline: NDArray[Any], candidate: NDArray[Any]) -> Floats:
    """Intervals of the changes of both correlations, [2, 2]."""
    scores, both = _of_pairs(truth, baseline, candidate)
    if len(scores) < _FEWEST:
        return np.tile([-1.0, 1.0], (len(_METRICS), 1))
    more_scores, more = with_made_up(scores, *both)

    def change(scores: Floats, before: Floats, after: Floats) -> Weighted:
        old, new = _correlations(scores, before), _correlations(scores, after)
        return lambda weights: new(weights) - old(weights)

    return intervals(len(scores), change(scores, *both), (len(more_scores), change(more_scores, *more)))
