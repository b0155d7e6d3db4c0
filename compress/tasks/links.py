"""Links between rows that are one text each: pairs with a score, or queries and their relevant documents.

Rows are named by numbers, so that a split can be cut, sampled and sorted without regard to its links: a link
counts where both of its rows are.
numpy only: the measuring process has no torch.
Shapes: n = rows, m = links, d = documents, k = links whose rows are both there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Links"]

Integers = NDArray[np.int64]
_NONE = -1  # number of rows that no link can name


@dataclass(frozen=True)
class Links:
    """Links between the rows of a split.

    Attributes:
        ids: number of each row, int64 [n]; -1: no link names it. Equal texts are one row.
        pairs: numbers of the rows that each link joins, int64 [m, 2]; a query and a document, in this
            order.
        scores: of each link, float64 [m].
        documents: numbers of the documents that are searched, int64 [d]; empty: links have no direction.
    """

    ids: Integers
    pairs: Integers
    scores: NDArray[np.float64]
    documents: Integers

    @property
    def is_search(self) -> bool:
        """Whether links lead from queries to documents."""
        return len(self.documents) > 0

    def at(self, picked: Integers) -> Links:
        """The links of the rows with these indices."""
        return replace(self, ids=self.ids[picked])

    def followed_by(self, rows: int) -> Links:
        """With some more rows at the end, which no link names."""
        return replace(self, ids=np.concatenate((self.ids, np.full(rows, _NONE, dtype=np.int64))))

    @property
    def places(self) -> tuple[Integers, NDArray[np.float64]]:
        """Indices of the two rows of each link whose rows are both there, [k, 2], and its score, [k]."""
        found = self._place_of(self.pairs)
        there = (found >= 0).all(axis=1)
        return found[there], self.scores[there]

    @property
    def searched(self) -> Integers:
        """Indices of the rows that are documents, ascending."""
        found = self._place_of(self.documents)
        return np.sort(found[found >= 0])

    def _place_of(self, numbers: Integers) -> Integers:
        """Index of the row with each number, -1 if it is not there."""
        most = max(self.ids.max(initial=0), numbers.max(initial=0))
        places = np.full(most + 1, _NONE, dtype=np.int64)
        named = np.flatnonzero(self.ids >= 0)
        places[self.ids[named]] = named
        return places[numbers]

    def drawn(self, count: int, seed: int) -> Integers:
        """Indices of some rows, ascending, among which as many links as possible remain.

        Of queries and documents, half of the rows are of links; the rest is drawn from all rows, which makes
        the search less easy.
        """
        draw = np.random.default_rng(seed)
        joined = self.places[0]
        order = joined[draw.permutation(len(joined))].ravel()
        linked = _distinct(order)[: count // 2 if self.is_search else count]
        rest = draw.permutation(len(self.ids))
        return np.sort(_distinct(np.concatenate((linked, rest)))[:count])

    def together(self, seed: int, least: float) -> Integers:
        """Number of each row's group, [n]: two rows of a link where possible, each row in one group only.

        Which of a row's links that is changes with the seed.

        Args:
            least: links with lower scores do not count.
        """
        groups = np.arange(len(self.ids))
        joined, scores = self.places
        joined = joined[scores >= least]
        free = np.ones(len(self.ids), dtype=np.bool_)
        for first, second in joined[np.random.default_rng(seed).permutation(len(joined))].tolist():
            if free[first] and free[second] and first != second:
                groups[second] = first
                free[[first, second]] = False
        return groups

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields, by name."""
        return {name: getattr(self, name) for name in ("ids", "pairs", "scores", "documents")}


def _distinct(values: Integers) -> Integers:
    """Values in the order in which they first occur."""
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]
