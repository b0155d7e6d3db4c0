"""Retrieval: vectors of queries and documents, judged by which documents a search by cosine finds.

The metric is nDCG@10, the mean over queries. Intervals are of a bootstrap over queries (see `resampling`),
for the documents that were searched. Made-up queries for them are one that is answered in the best order,
and one in a random one; for a difference each is so by another model.
Shapes: n = rows, q = queries, m = metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.page.format import NUMBER
from compress.tasks.embeddings.linked import LinkedEmbedding
from compress.tasks.embeddings.search import SEARCH_METRICS, relevant_rows, search_quality
from compress.tasks.embeddings.sentence import SentenceEmbedding
from compress.tasks.metrics.resampling import Floats, mean_intervals
from compress.tasks.spec import Truth

__all__ = ["Retrieval"]


@dataclass(frozen=True)
class Retrieval(LinkedEmbedding):
    """Vectors [b, e] of queries and documents."""

    words = replace(
        SentenceEmbedding.words,
        metric=SEARCH_METRICS[0],
        score=SEARCH_METRICS[0],
        right="with an nDCG@10 of {}",
        constant="a random order of the documents",
        hub_metric="ndcg_at_10",
        scale=NUMBER,
    )
    label_kind = "relevances"
    learns_links = True
    judged_unit = "query"
    title = "Search and vectors"

    def links_judged(self, truth: Truth) -> int:
        """Queries with a relevant document."""
        return 0 if truth.links is None else len(relevant_rows(truth.links).queries)

    def value(self, answers: NDArray[Any], truth: Truth) -> float:
        """Mean nDCG@10 over queries; 0 if there is none."""
        found = _of_queries(answers, truth)
        return float(found[:, 0].mean()) if len(found) else 0.0

    def ends(self, answers: NDArray[Any], truth: Truth) -> Floats:
        """Over queries."""
        chance = self.value(self.constant(truth), truth)
        found: Floats = mean_intervals(_of_queries(answers, truth)[:, :1], np.array([[1.0], [chance]]))[0]
        return found

    def ends_of_change(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Floats:
        """Over queries."""
        moved = _of_queries(candidate, truth) - _of_queries(baseline, truth)
        found: Floats = mean_intervals(moved[:, :1], self._made_up(truth)[:, :1])[0]
        return found

    def _made_up(self, truth: Truth) -> Floats:
        """Changes of two queries, of which each model answers one in the best order, one in a random one."""
        found = _of_queries(self.constant(truth), truth)
        chance = found.mean(axis=0) if len(found) else np.zeros(len(SEARCH_METRICS))
        return np.stack((1 - chance, chance - 1))

    def link_rows(
        self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth
    ) -> tuple[str, list[tuple[str, ...]]]:
        """nDCG, recall and reciprocal rank."""
        before, after = (_of_queries(each, truth) for each in (baseline, candidate))
        if truth.links is None or not len(before):
            return "No query has a relevant document.", []
        ends = mean_intervals(after - before, self._made_up(truth))
        rows: list[tuple[str, ...]] = []
        for name, was, now, end in zip(SEARCH_METRICS, before.mean(0), after.mean(0), ends, strict=True):
            rows.append((name, NUMBER.text(was), NUMBER.text(now), *NUMBER.change(now - was, *end)))
        relevant = relevant_rows(truth.links)
        chance = self.value(self.constant(truth), truth)
        said = (
            f"Means over {len(before):,} queries, each with {(relevant.documents >= 0).sum(1).mean():.3g} "
            f"relevant documents on average among {len(truth.links.searched):,}; intervals are over "
            f"queries. In a random order, nDCG@10 would be {chance:.3f}. A document with the query's own "
            "text is left out."
        )
        return said, rows


def _of_queries(answers: NDArray[Any], truth: Truth) -> Floats:
    """`SEARCH_METRICS` of each query, [q, 4]."""
    if truth.links is None:
        return np.zeros((0, len(SEARCH_METRICS)))
    return search_quality(answers, truth.links)
