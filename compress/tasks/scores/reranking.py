"""Reranking: a score for each candidate of a group, such as a query's documents; the order counts.

The metric is nDCG@10, the mean over groups whose candidates differ in relevance: any order of the others is
right. Intervals are of a bootstrap over groups (see `resampling`). Made-up groups for them are one that is in
the best order, and one that is as random; for a difference each is so by another model.
Shapes: n = rows, b = batch, q = groups.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from compress.page.format import NUMBER
from compress.tasks.metrics.ranking import (
    group_rows,
    list_loss,
    margin_distance,
    ndcg,
    order_kept_in_groups,
    positions_of,
    reciprocal_rank,
)
from compress.tasks.metrics.resampling import Floats, mean_intervals
from compress.tasks.scores.one_number import OneNumber
from compress.tasks.spec import Breakdown, Difference, HubHead, Integers, Score, TaskWords, Truth

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Reranking"]

_UNIT = "group"


@dataclass(frozen=True)
class Reranking(OneNumber):
    """A score a row; logits [b, 1], labels float64 [b, 2]: relevance and number of the group, NaN if unknown.

    Attributes:
        most_relevant: highest relevance in train.
    """

    name = "reranking"
    words = TaskWords(
        model="reranker",
        metric="nDCG@10",
        score="nDCG@10",
        right="with an nDCG@10 of {}",
        constant="a random order",
        same="pairs of candidates in the same order",
        unit="row",
        answer="score",
        label="relevance",
        summary="scores of a query's candidates (data.task=reranking); text (data.text=[QUERY,DOCUMENT], "
        "data.group=QUERY_ID, a column of relevances)",
        served="rerankers, which score the candidates of a query (data.task=reranking)",
        hub_metric="ndcg",
        scale=NUMBER,
    )
    heads = (
        HubHead(
            "text",
            "reranking",
            "AutoModelForSequenceClassification",
            ("ForSequenceClassification",),
            "text-ranking",
            outputs=1,
        ),
    )
    label_kind = "graded"

    most_relevant: float = 1.0

    # Labels

    @classmethod
    def group_of(cls, label: Any) -> Hashable:
        """The group of a row."""
        return label[1]  # type: ignore[no-any-return]

    @classmethod
    def of_input(cls, label: Any) -> Hashable:
        """The relevance: a query may be asked twice."""
        return label[0]  # type: ignore[no-any-return]

    @classmethod
    def encode_labels(cls, column: Sequence[Any], number: Mapping[str, int]) -> NDArray[Any]:
        """Relevances and numbers of groups, float64 [n, 2]."""
        relevances = np.array([relevance for relevance, _ in column], dtype=np.float64)
        return np.stack((relevances, positions_of([group for _, group in column])), axis=1)

    def fitted(self, labels: NDArray[Any]) -> Self:
        """With the highest relevance."""
        return replace(self, most_relevant=float(np.nanmax(labels[:, 0], initial=0)) or 1.0)

    @property
    def first_answers(self) -> None:
        """None: only the order of scores counts."""
        return

    def no_labels(self, rows: int) -> NDArray[Any]:
        """NaN for each row, [n, 2]."""
        return np.full((rows, 2), np.nan)

    def truth(self, labels: NDArray[Any], label_lengths: Integers | None) -> Truth:
        """Relevance and group of each row."""
        return Truth(labels, np.ones(len(labels), dtype=np.int64))

    def together(self, labels: NDArray[Any]) -> Integers:
        """Numbers of the groups, and one for each row without."""
        groups = labels[:, 1]
        alone = -1 - np.arange(len(groups))
        return np.where(np.isfinite(groups), np.nan_to_num(groups), alone).astype(np.int64)

    # Training

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy from relevance as a share of the highest; NaN is ignored."""
        from torch.nn import functional as F

        relevance = labels[:, 0]
        known = relevance.isfinite()
        if not bool(known.any()):
            return logits.sum() * 0
        wanted = (relevance[known].float() / self.most_relevant).clamp(0, 1)
        return F.binary_cross_entropy_with_logits(logits[:, 0].float()[known], wanted)

    def list_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """List-wise softmax within each group of the batch."""
        return list_loss(logits[:, 0], labels[:, 0], labels[:, 1])

    def margin_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Margin MSE within each group of the batch."""
        return margin_distance(logits[:, 0], self.kept_scores(kept), labels[:, 1])

    def draw(self, judged: Tensor, generator: Generator) -> Tensor:
        """The highest relevance, or 0, by the probability that the score says, [u]."""
        import torch

        drawn = torch.bernoulli(judged[:, 0].float().sigmoid(), generator=generator)
        return drawn.double() * self.most_relevant

    # Answers and scores

    def agreement(self, one: NDArray[Any], other: NDArray[Any], truth: Truth) -> float:
        """Share of pairs of candidates of one group in the same order; of all rows if nobody knows groups."""
        groups = truth.labels[:, 1]
        if not np.isfinite(groups).any():
            groups = np.zeros(len(groups))
        return order_kept_in_groups(one, other, groups)

    def value(self, answers: NDArray[Any], truth: Truth) -> float:
        """Mean nDCG@10 over groups; 0 if there is none that can be ranked."""
        found = _of_groups(answers, truth)
        return float(found[:, 0].mean()) if len(found) else 0.0

    def score(self, answers: NDArray[Any], truth: Truth) -> Score:
        """With its bootstrap interval over groups."""
        found = _of_groups(answers, truth)[:, :1]
        chance = self.value(self.constant(truth), truth)
        ends, *_ = mean_intervals(found, np.array([[1.0], [chance]]))
        return self.scored(self.value(answers, truth), ends, truth, len(found), _UNIT)

    def difference(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Difference:
        """With its paired bootstrap interval over groups."""
        change = _of_groups(candidate, truth) - _of_groups(baseline, truth)
        ends, *_ = mean_intervals(change[:, :1], self._made_up(truth)[:, :1])
        value = self.change(baseline, candidate, truth)
        return self.compared(value, ends, (baseline, candidate), truth, len(change), _UNIT)

    def _made_up(self, truth: Truth) -> Floats:
        """Changes of two groups, of which each model has one in the best order and one in a random one."""
        chance = _of_groups(self.constant(truth), truth).mean(axis=0)
        return np.stack((1 - chance, chance - 1))

    def constant(self, truth: Truth) -> NDArray[Any]:
        """0 for each row: all tied, which counts as the mean of all orders."""
        return np.zeros(len(truth.labels))

    def breakdown(
        self,
        baseline: NDArray[Any],
        candidate: NDArray[Any],
        truth: Truth,
        decisions: tuple[Mapping[str, float], Mapping[str, float]],
    ) -> Breakdown | None:
        """nDCG@10 and mean reciprocal rank of both models, with the interval of each change."""
        before, after = (_of_groups(each, truth) for each in (baseline, candidate))
        if not len(before):
            return None
        ends = mean_intervals(after - before, self._made_up(truth))
        chance = _of_groups(self.constant(truth), truth)[:, 0].mean()
        rows = []
        for at, name in enumerate(("nDCG@10", "mean reciprocal rank")):
            was, now = before[:, at].mean(), after[:, at].mean()
            value, interval = NUMBER.change(now - was, *ends[at])
            rows.append((name, NUMBER.text(was), NUMBER.text(now), value, interval))
        every = len(np.unique(truth.labels[:, 1]))
        left = every - len(before)
        skipped = f" {left:,} more, whose candidates are all as relevant, do not count." if left else ""
        return Breakdown(
            title="Ranking",
            sentences=(
                f"Means over {len(before):,} groups of {len(truth.labels) / every:.3g} candidates on average."
                f"{skipped} In a random order, nDCG@10 would be {chance:.3f}.",
            ),
            columns=("", "baseline", "candidate", "change", "95 % interval"),
            rows=tuple(rows),
        )


def _of_groups(answers: NDArray[Any], truth: Truth) -> Floats:
    """nDCG@10 and reciprocal rank of each group that can be ranked, [q, 2]."""
    relevance, groups = truth.labels[:, 0], truth.labels[:, 1]
    scores = answers.astype(np.float64)
    found = [
        (ndcg(relevance[rows], scores[rows]), reciprocal_rank(relevance[rows], scores[rows]))
        for rows in group_rows(relevance, groups)
    ]
    return np.array(found, dtype=np.float64).reshape(-1, 2)
