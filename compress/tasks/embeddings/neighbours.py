"""Nearest neighbours among vectors, and how many of them two sets of vectors share.

numpy only: the measuring process has no torch.
Shapes: n = texts, e = size of a vector, q = texts whose neighbours are looked for, k = neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.tasks.spec import Integers

__all__ = ["NEIGHBOURS", "cosines", "kept_neighbours", "nearest", "neighbour_count", "unit_vectors"]

NEIGHBOURS = 10
_MOST_TEXTS = 2_000  # whose neighbours are looked for, among all texts
_AT_ONCE = 256


def neighbour_count(texts: int, wanted: int = NEIGHBOURS) -> int:
    """Neighbours of each text: k, fewer than `wanted` among few texts, and 0 for a single text."""
    return max(0, min(wanted, texts - 1))


def kept_neighbours(one: NDArray[Any], other: NDArray[Any], wanted: int = NEIGHBOURS) -> Integers:
    """How many of the nearest neighbours of each text are the same in both, [q].

    Args:
        one, other: vectors of the same texts, [n, e] and [n, e'].
    """
    mine, theirs = nearest(one, wanted), nearest(other, wanted)
    same: NDArray[np.bool_] = (mine[:, :, None] == theirs[:, None, :]).any(axis=2)
    return same.sum(axis=1)  # type: ignore[no-any-return]


def nearest(vectors: NDArray[Any], wanted: int = NEIGHBOURS) -> Integers:
    """Indices of the texts with the highest cosine to each text, except itself, in any order: [q, k]."""
    count = neighbour_count(len(vectors), wanted)
    unit = unit_vectors(vectors)
    texts = _asked(len(vectors))
    found = []
    for start in range(0, len(texts), _AT_ONCE):
        picked = texts[start : start + _AT_ONCE]
        likeness = unit[picked] @ unit.T  # [q, n]
        likeness[np.arange(len(picked)), picked] = -np.inf
        found.append(np.argpartition(-likeness, max(count - 1, 0), axis=1)[:, :count])
    return np.concatenate(found)


def cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine of the vectors of each text, [n]; both [n, e]."""
    product: NDArray[np.float64] = (unit_vectors(one) * unit_vectors(other)).sum(axis=1, dtype=np.float64)
    return product


def _asked(texts: int) -> Integers:
    """Indices of the texts whose neighbours are looked for: all, or evenly spaced ones."""
    return np.linspace(0, texts - 1, min(texts, _MOST_TEXTS)).round().astype(np.int64)


def unit_vectors(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Vectors of length 1, [n, e]; one of zeros stays as it is."""
    length = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    found: NDArray[np.float32] = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return found
