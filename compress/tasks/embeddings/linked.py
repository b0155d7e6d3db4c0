"""Sentence embeddings that are judged by links between texts, not by the original's vectors alone.

What was measured without links, mean cosine and nearest neighbours, is in the table of the report.
Shapes: n = rows, u = units: queries, or pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.page.format import NUMBER, PERCENT
from compress.tasks.embeddings.figures import reference_of, vector_figures
from compress.tasks.embeddings.sentence import SentenceEmbedding
from compress.tasks.metrics.resampling import Floats
from compress.tasks.metrics.statistics import mean_interval
from compress.tasks.spec import Breakdown, Difference, Score, Truth

__all__ = ["LinkedEmbedding"]


@dataclass(frozen=True)
class LinkedEmbedding(SentenceEmbedding):
    """Vectors [b, e] of texts, with links between the texts.

    Class attributes:
        judged_unit: what intervals are over.
        title: of the section in the report.
    """

    judged_unit: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def links_judged(self, truth: Truth) -> int:
        """Number of judged units."""

    @abstractmethod
    def ends(self, answers: NDArray[Any], truth: Truth) -> Floats:
        """Interval of the metric, [2]."""

    @abstractmethod
    def ends_of_change(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Floats:
        """Paired interval of the change of the metric, [2]."""

    @abstractmethod
    def link_rows(
        self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth
    ) -> tuple[str, list[tuple[str, ...]]]:
        """What was measured, a sentence or more, and rows of the report's table."""

    def facts(self) -> dict[str, Any]:
        """Also the kind of labels, by which the class is found."""
        return {**super().facts(), "label_kind": self.label_kind}

    def change(self, before: NDArray[Any], after: NDArray[Any], truth: Truth) -> float:
        """Difference of the values."""
        return self.value(after, truth) - self.value(before, truth)

    def score(self, answers: NDArray[Any], truth: Truth) -> Score:
        """With its bootstrap interval."""
        value, ends = self.value(answers, truth), self.ends(answers, truth)
        return self.scored(value, ends, truth, self.links_judged(truth), self.judged_unit)

    def difference(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Difference:
        """With its paired bootstrap interval."""
        value, both = self.change(baseline, candidate, truth), (baseline, candidate)
        ends = self.ends_of_change(baseline, candidate, truth)
        return self.compared(value, ends, both, truth, self.links_judged(truth), self.judged_unit)

    def constant(self, truth: Truth) -> NDArray[Any]:
        """The same vector for each text: all cosines are tied."""
        return np.ones((len(truth.labels), max(self.size, 1)), dtype=np.float32)

    def breakdown(
        self,
        baseline: NDArray[Any],
        candidate: NDArray[Any],
        truth: Truth,
        decisions: tuple[Mapping[str, float], Mapping[str, float]],
    ) -> Breakdown:
        """What links say, then the comparison with the original's vectors, with intervals of changes."""
        said, rows = self.link_rows(baseline, candidate, truth)
        for each in vector_figures(baseline, candidate, truth):
            moved = each.candidate - each.baseline
            scale = PERCENT if each.share else NUMBER
            change = ("", "") if each.is_tail else scale.change(float(moved.mean()), *mean_interval(moved))
            rows.append((each.name, *each.means, *change))
        return Breakdown(
            title=self.title,
            sentences=(said, f"{reference_of(candidate)} Changes of shares are in points."),
            columns=("", "baseline", "compressed", "change", "95 % interval"),
            rows=tuple(rows),
        )
