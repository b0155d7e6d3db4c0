"""Where each head attends: attention recomputed from q and k, used only if it explains the outputs.

Fused attention doesn't return its weights. softmax(q k^T / sqrt(d)) equals them only for plain attention;
rotary positions, a relative bias or another scale would make it wrong. So its product with v must reproduce
the block's output.
Shapes: h = heads, s = sequence, d = head size.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.model.evaluating import evaluating
from compress.model.forward import logits
from compress.model.structure.sites import Site

__all__ = ["Attention", "CLOSE_ENOUGH", "LOOKS", "attention_of_row", "look_shares"]

CLOSE_ENOUGH = 1e-3
"""An `Attention.error` below this is plain attention: float32 rounding of two products and a softmax."""

LOOKS = ("itself", "first", "separator", "previous", "next", "other")
"""Where a head may attend; a token that fits several counts as the first of them."""


@dataclass(frozen=True)
class Attention:
    """The attention of one site on one row.

    Attributes:
        weights: from each position (row) to each position (column), [h, s, s]; each row sums to 1.
        error: largest difference between weights times v and the block's output, relative to the largest
            output (or 1); inf if the shapes don't fit.
    """

    weights: Tensor
    error: float


def attention_of_row(
    model: nn.Module, sites: Sequence[Site], inputs: Mapping[str, Tensor]
) -> list[Attention]:
    """Recompute each site's attention on one unpadded row, as full attention, or causal if that fits better.

    Args:
        inputs: a batch of one row.
    """
    seen: dict[str, Tensor] = {}

    def keep_output(path: str) -> Any:
        return lambda _, __, output: seen.__setitem__(path, output)

    def keep_input(path: str) -> Any:
        return lambda _, given: seen.__setitem__(path, given[0])

    handles = []
    for site in sites:
        makers = site.paths[:-1]
        handles += [model.get_submodule(path).register_forward_hook(keep_output(path)) for path in makers]
        handles.append(
            model.get_submodule(site.consumer).register_forward_pre_hook(keep_input(site.consumer))
        )
    try:
        with torch.no_grad(), evaluating(model):
            logits(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [_recomputed(site, seen) for site in sites]


def _recomputed(site: Site, seen: Mapping[str, Tensor]) -> Attention:
    parts = []
    for made in site.producers:
        x = seen.get(made.path)
        if x is None or x.ndim != 3 or len(x) != 1:
            return Attention(torch.zeros(0), math.inf)
        parts.append(x[0].float().cpu().reshape(x.shape[1], -1, made.rows).transpose(0, 1))  # [h, s, d]
    given = seen.get(site.consumer)
    if len(parts) != 3 or given is None or given.shape[:2] != seen[site.producers[0].path].shape[:2]:
        return Attention(torch.zeros(0), math.inf)
    q, k, v = parts
    if len({part.shape for part in parts}) > 1:  # several queries share a key/value head
        return Attention(torch.zeros(0), math.inf)
    wanted = given[0].float().cpu().reshape(given.shape[1], -1, site.unit_size).transpose(0, 1)  # [h, s, d]
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])  # [h, s, s]
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    options = []
    for masked in (scores, scores.masked_fill(later, -math.inf)):
        weights = masked.softmax(-1)
        error = float((weights @ v - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
        options.append(Attention(weights, error if math.isfinite(error) else math.inf))
    return min(options, key=lambda option: option.error)


def look_shares(weights: Tensor, separators: Collection[int] = ()) -> Tensor:
    """Share of each head's attention by target, as the mean over query positions.

    Args:
        weights: [h, s, s].
        separators: positions of separator tokens.

    Returns:
        [h, 6], the shares of `LOOKS`; they sum to 1.
    """
    length = weights.shape[-1]
    at = torch.arange(length)
    kind = torch.full((length, length), LOOKS.index("other"))
    # From the last of LOOKS to the first, so that the earlier name wins.
    kind[at[:, None] + 1 == at[None, :]] = LOOKS.index("next")
    kind[at[:, None] - 1 == at[None, :]] = LOOKS.index("previous")
    kind[:, sorted(separators)] = LOOKS.index("separator")
    kind[:, 0] = LOOKS.index("first")
    kind[at, at] = LOOKS.index("itself")
    return torch.stack([(weights * (kind == which)).sum((1, 2)) / length for which in range(len(LOOKS))], -1)
