"""How near a model's vectors are to the original's: figures for a report, whatever else it is judged by.

numpy only: the measuring process has no torch.
Shapes: n = texts, q = texts whose neighbours are looked for, e = size of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.tasks.embeddings.neighbours import NEIGHBOURS, cosines, kept_neighbours, neighbour_count
from compress.tasks.spec import Truth

__all__ = ["VectorFigure", "reference_of", "vector_figures"]

_NEIGHBOURHOODS = (1, NEIGHBOURS, 100)
_LOWEST = 0.05  # share of texts whose cosine is lower than the one that is shown


@dataclass(frozen=True)
class VectorFigure:
    """A figure of both models' vectors as a row of a table.

    Attributes:
        baseline, candidate: of each text, [n] or [q].
        share: whether it is written in percent.
        is_tail: the lowest values count, not the mean.
    """

    name: str
    baseline: NDArray[np.float64]
    candidate: NDArray[np.float64]
    share: bool = False
    is_tail: bool = False

    @property
    def means(self) -> tuple[str, str]:
        """Figures of the baseline and the candidate, as text."""
        before, after = (
            float(np.quantile(each, _LOWEST) if self.is_tail else each.mean())
            for each in (self.baseline, self.candidate)
        )
        return self._text(before), self._text(after)

    def interval(self, low: float, high: float) -> str:
        """An interval of the mean, as text."""
        if self.share:
            return f"{100 * max(low, 0):.1f} to {100 * min(high, 1):.1f} %"
        return f"{low:.4f} to {min(high, 1.0):.4f}"

    def _text(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.share else f"{value:.4f}"


def vector_figures(baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Iterator[VectorFigure]:
    """Cosine to the original's vectors, and the share of nearest neighbours that are kept."""
    both = (baseline, candidate)
    if candidate.shape == truth.labels.shape:
        before, after = (cosines(each, truth.labels) for each in both)
        yield VectorFigure("mean cosine", before, after)
        yield VectorFigure("5 % of texts have less than", before, after, is_tail=True)
    for wanted in _NEIGHBOURHOODS:
        count = neighbour_count(len(candidate), wanted)
        if count == wanted:
            before, after = (kept_neighbours(each, truth.labels, wanted) / count for each in both)
            name = f"of the {count} nearest neighbours" if count > 1 else "same nearest neighbour"
            yield VectorFigure(name, before, after, share=True)


def reference_of(candidate: NDArray[Any]) -> str:
    """What vectors are compared with, a sentence or two."""
    return (
        "The reference: vectors of the same test texts by the PyTorch model before any stage. "
        f"Neighbours are searched among {len(candidate):,} test texts by cosine."
    )
