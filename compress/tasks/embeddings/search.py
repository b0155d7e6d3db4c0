"""Search among documents by cosine: nDCG, recall and reciprocal rank of each query.

nDCG: Järvelin and Kekäläinen 2002, ACM TOIS 20, 422-446, with the relevance itself as gain and all relevant
documents in the best order. Documents of equal cosine share the mean of their places (McSherry and Najork
2008, ECIR, section 2.6); for the reciprocal rank a relevant one comes last among them.
A document with the text of the query, which is the same row, is not searched by it.
numpy only: the measuring process has no torch.
Shapes: n = rows, q = queries, d = documents, r = most relevant documents of a query, k = links.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.tasks.embeddings.neighbours import unit_vectors
from compress.tasks.links import Links

__all__ = ["SEARCH_METRICS", "relevant_rows", "search_quality"]

Floats = NDArray[np.float64]
_TOP, _RECALL_TOP = 10, (10, 100)
_MOST_COSINES = 1 << 22  # in memory at once
_DECIMALS = 6  # of a cosine: less is rounding of float32, and a tie

SEARCH_METRICS = (f"nDCG@{_TOP}", *(f"recall@{top}" for top in _RECALL_TOP), f"MRR@{_TOP}")


@dataclass(frozen=True)
class _Relevant:
    """Queries that have relevant documents.

    Attributes:
        queries: row of each, [q].
        documents: rows of its relevant documents, [q, r]; -1 where it has fewer.
        relevance: of these, [q, r]; 0 where it has fewer.
    """

    queries: NDArray[np.int64]
    documents: NDArray[np.int64]
    relevance: Floats


def relevant_rows(links: Links) -> _Relevant:
    """Queries with their relevant documents, among the rows that are there."""
    pairs, scores = links.places
    kept = (scores > 0) & (pairs[:, 0] != pairs[:, 1])
    pairs, scores = pairs[kept], scores[kept]
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs, scores = pairs[order], scores[order]
    queries, start, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    shape = (len(queries), counts.max(initial=0))
    documents, relevance = np.full(shape, -1, dtype=np.int64), np.zeros(shape)
    row = np.repeat(np.arange(len(queries)), counts)
    column = np.arange(len(pairs)) - np.repeat(start, counts)
    documents[row, column], relevance[row, column] = pairs[:, 1], scores
    return _Relevant(queries, documents, relevance)


def search_quality(vectors: NDArray[Any], links: Links) -> Floats:
    """`SEARCH_METRICS` of each query that has a relevant document, [q, 4].

    Args:
        vectors: of all rows, [n, e].
    """
    found = relevant_rows(links)
    unit, searched = unit_vectors(vectors), links.searched
    pool = unit[searched]  # [d, e]
    parts = [
        _of_some(unit, pool, searched, found, part) for part in _parts(len(found.queries), len(searched))
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(SEARCH_METRICS)))


def _parts(queries: int, documents: int) -> Iterator[slice]:
    size = max(1, _MOST_COSINES // max(documents, 1))
    return (slice(start, start + size) for start in range(0, queries, size))


def _of_some(
    unit: NDArray[np.float32],
    pool: NDArray[np.float32],
    searched: NDArray[np.int64],
    found: _Relevant,
    part: slice,
) -> Floats:
    queries, documents, relevance = found.queries[part], found.documents[part], found.relevance[part]
    cosines = np.round(unit[queries] @ pool.T, _DECIMALS)  # [q, d]
    at = np.searchsorted(searched, queries)
    itself = (at < len(searched)) & (searched[np.minimum(at, len(searched) - 1)] == queries)
    cosines[itself, at[itself]] = -np.inf
    real = documents >= 0
    places = np.searchsorted(searched, np.where(real, documents, searched[0]))
    own = np.take_along_axis(cosines, places, axis=1)  # [q, r]
    above, ties = np.zeros(own.shape), np.ones(own.shape)
    for column in range(own.shape[1]):
        above[:, column] = (cosines > own[:, column, None]).sum(axis=1)
        ties[:, column] = (cosines == own[:, column, None]).sum(axis=1)
    gains = (relevance * _mean_discount(above, ties)).sum(axis=1)
    best = -np.sort(-relevance, axis=1)[:, :_TOP]
    ideal = best @ _discounts(best.shape[1])
    recalls = [
        (np.clip((top - above) / ties, 0, 1) * real).sum(axis=1) / real.sum(axis=1) for top in _RECALL_TOP
    ]
    return np.stack((gains / ideal, *recalls, _reciprocal_rank(own, above, ties, real)), axis=1)


def _discounts(count: int) -> Floats:
    """Of the first places."""
    found: Floats = 1 / np.log2(np.arange(2, count + 2))
    return found


def _mean_discount(above: Floats, ties: Floats) -> Floats:
    """Mean over the places of documents of equal cosine; 0 after the first 10."""
    sums = np.concatenate(([0.0], np.cumsum(_discounts(_TOP))))
    first, last = (np.minimum(each, _TOP).astype(np.int64) for each in (above, above + ties))
    found: Floats = (sums[last] - sums[first]) / ties
    return found


def _reciprocal_rank(own: Floats, above: Floats, ties: Floats, real: NDArray[np.bool_]) -> Floats:
    """Of the first relevant document, [q]; 0 after the first 10."""
    best = np.where(real, own, -np.inf).max(axis=1, keepdims=True)
    is_best = real & (own == best)
    first = is_best.argmax(axis=1)[:, None]
    others = (above + ties)[np.arange(len(own))[:, None], first][:, 0] - is_best.sum(axis=1)
    found: Floats = np.where(others < _TOP, 1 / (1 + others), 0.0)
    return found
