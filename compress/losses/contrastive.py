"""Contrastive loss with the other texts of a batch as negatives.

Multiple negatives ranking (Henderson et al. 2017, arXiv 1705.00652, section 4.4) with cosines divided by a
temperature: InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, eq. 4). For each text of a batch that has a
partner in it: the cross-entropy of a softmax over that partner and all negatives, the mean over partners.
Never a negative: a text that is known to be relevant, or has any score above 0 with this one; the text
itself, which is one row however often it occurs; and rows that no link can name, such as changed copies of a
text.
Shapes: b = batch, e = size of a vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.errors import DataError
from compress.losses.config import ContrastiveTerm, LossConfig
from compress.tasks import ROW_INDEX_KEY
from compress.tasks.links import Links

if TYPE_CHECKING:
    from torch import Tensor

    from compress.data.split import Split

__all__ = ["Partners", "contrastive_loss", "linked_loss"]


class Partners:
    """Which rows of a split belong together, and which can be negatives."""

    def __init__(self, links: Links, least: float) -> None:
        """Look at all links.

        Args:
            least: lowest score that makes partners.
        """
        places, scores = links.places
        self._related: dict[int, dict[int, float]] = {}
        for (first, second), score in zip(places.tolist(), scores.tolist(), strict=True):
            self._related.setdefault(first, {})[second] = score
            if not links.is_search:
                self._related.setdefault(second, {})[first] = score
        searched = links.searched if links.is_search else (links.ids >= 0).nonzero()[0]
        self._searched, self._least = frozenset(searched.tolist()), least

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """For the rows of a batch [b], who is whose partner, and whose negative; bool [b, b] each."""
        import torch

        numbers = rows.tolist()
        place = {number: at for at, number in enumerate(numbers)}
        partner = torch.zeros(len(numbers), len(numbers), dtype=torch.bool)
        negative = torch.tensor([number in self._searched for number in numbers]).repeat(len(numbers), 1)
        for at, number in enumerate(numbers):
            negative[at, at] = False
            for other, score in self._related.get(number, {}).items():
                if other in place:
                    partner[at, place[other]] = score >= self._least
                    negative[at, place[other]] &= score <= 0
        return partner.to(rows.device), (negative & ~partner).to(rows.device)


def linked_loss(rows: Split) -> dict[str, Any]:
    """Arguments of `fit_` for a training by the links of these rows alone.

    Raises:
        DataError: there are none.
    """
    term = ContrastiveTerm()
    least = LossConfig(contrastive=term).least
    if rows.links is None or least is None or not (rows.links.places[1] >= least).any():
        raise DataError("model.train: no training row has a link to another, such as a relevant document")
    partners = Partners(rows.links, least)

    def loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return contrastive_loss(logits, *partners.at(batch[ROW_INDEX_KEY]), term.temperature)

    return {"loss": loss, "least": least}


def contrastive_loss(vectors: Tensor, partner: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """Mean over the rows with a partner in the batch, a scalar; 0 if there is none.

    Args:
        vectors: [b, e].
        partner, negative: as `Partners.at` returns them.
    """
    import torch
    from torch.nn import functional as F

    unit = F.normalize(vectors.float(), dim=-1)
    likeness = unit @ unit.T / temperature  # [b, b]
    counts = partner.any(1)
    if not bool(counts.any()):
        return vectors.sum() * 0
    likeness, partner, negative = likeness[counts], partner[counts], negative[counts]
    others = likeness.masked_fill(~negative, -float("inf")).logsumexp(1, keepdim=True)
    each = torch.logaddexp(likeness, others) - likeness  # of a row and one partner
    return ((each * partner).sum(1) / partner.sum(1)).mean()
