"""Attention of each head on a few validation rows, as facts for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.data import Reader, Split
from compress.model import Site, to_tensors
from compress.model.observe.attention_view import CLOSE_ENOUGH, LOOKS, attention_of_row, look_shares
from compress.model.observe.capture import positions_of
from compress.pipeline.prepare import Run
from compress.report.inspection.data import AttentionFacts, HeadLook, Sentence

__all__ = ["attention_facts"]

_ROWS = 64
_LONGEST_SHOWN = 20  # tokens of a sentence whose maps are shown
_SEPARATORS = ("[SEP]", "</s>", "<sep>")


def attention_facts(run: Run, module: nn.Module, sites: Sequence[Site], sentences: int) -> AttentionFacts:
    """Recompute attention on up to 64 validation rows, one at a time; keep the maps of some short ones."""
    task, seed = run.splits.task, run.recipe.seed
    rows = run.splits.validation.take(_ROWS, seed=seed)
    module.to("cpu")
    count = positions_of(module, sites, rows.rows[0], task) or 1
    tokens = [_tokens(run.splits.reader, rows, index, count) for index in range(len(rows))]
    shown = _short_rows(tokens, sentences)
    sums = _Sums(same_length=len({len(each) for each in tokens}) == 1)
    maps: list[list[Tensor]] = []
    for index, batch in enumerate(rows.batches(1)):
        found = attention_of_row(module, sites, to_tensors(batch, task.input_names))
        for site, attention in zip(sites, found, strict=True):
            if attention.error > CLOSE_ENOUGH or attention.weights.shape[-1] != len(tokens[index]):
                return AttentionFacts(rows=0, left_out=_why(site, attention.error))
        weights = [attention.weights for attention in found]
        sums.add(weights, tokens[index])
        if index in shown:
            maps.append(weights)
    reads_text = run.splits.reader.modality == "text"
    firsts = {each[0] for each in tokens}
    return AttentionFacts(
        rows=len(rows),
        looks=sums.looks(sites, len(rows)),
        sentences=tuple(
            Sentence(tokens=tokens[index], maps=tuple(_nested(each) for each in per_site))
            for index, per_site in zip(shown, maps, strict=True)
        ),
        first_token=firsts.pop() if reads_text and len(firsts) == 1 else "first position",
    )


@dataclass
class _Sums:
    """Sums over rows of what each head looks at.

    Attributes:
        same_length: all rows have the same length, so that positions can be compared.
        shares: of each site, [h, LOOKS].
        positions: of each site, [h, s]; empty unless `same_length`.
    """

    same_length: bool
    shares: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)

    def add(self, weights: Sequence[Tensor], tokens: Sequence[str]) -> None:
        """Add the attention of one row, [h, s, s] of each site."""
        separators = [i for i, token in enumerate(tokens) if i and token in _SEPARATORS]
        shares = [look_shares(each, separators) for each in weights]
        self.shares = [a + b for a, b in zip(self.shares, shares, strict=True)] if self.shares else shares
        if self.same_length:
            looked = [each.mean(1) for each in weights]  # [h, s]
            before = self.positions
            self.positions = [a + b for a, b in zip(before, looked, strict=True)] if before else looked

    def looks(self, sites: Sequence[Site], rows: int) -> tuple[HeadLook, ...]:
        """Means over rows, for each head."""
        return tuple(
            HeadLook(
                layer=site.layer,
                head=head,
                **_shares(self.shares[i][head] / rows),
                **(_position(self.positions[i][head] / rows) if self.positions else {}),
            )
            for i, site in enumerate(sites)
            for head in range(len(self.shares[i]))
        )


def _why(site: Site, error: float) -> str:
    how = f"off by {error:.2g}" if np.isfinite(error) else "of another shape"
    return (
        "The attention view is omitted: recomputed as softmax(q k^T / sqrt(d)) v from the projections, the "
        f"output of {site.name} is {how}. This model computes attention differently (e.g. with rotary or "
        "relative positions, or another scale), so the maps would be wrong."
    )


def _tokens(reader: Reader, rows: Split, index: int, positions: int) -> tuple[str, ...]:
    row = rows.rows[index]
    shown = reader.shown(row)
    if shown is not None:
        return shown
    fixed = isinstance(rows.inputs[0].shape[0], int)  # as with images: the model defines the positions
    return tuple(str(i + 1) for i in range(positions if fixed else len(row[rows.inputs[0].name])))


def _short_rows(tokens: Sequence[tuple[str, ...]], count: int) -> list[int]:
    """Indices of the first rows short enough for a page, ascending; else those of the shortest."""
    short = [i for i, each in enumerate(tokens) if 5 <= len(each) <= _LONGEST_SHOWN]
    if len(short) < count:
        ranked = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        short = [i for i in ranked if len(tokens[i]) <= 3 * _LONGEST_SHOWN]
    return sorted(short[:count])


def _shares(values: Tensor) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in zip(LOOKS, values, strict=True)}


def _position(looked: Tensor) -> dict[str, Any]:
    return {"position": int(looked.argmax()), "position_share": round(float(looked.max()), 4)}


def _nested(weights: Tensor) -> tuple[tuple[tuple[float, ...], ...], ...]:
    return tuple(tuple(tuple(row) for row in head) for head in torch.round(weights, decimals=3).tolist())
