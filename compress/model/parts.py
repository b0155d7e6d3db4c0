"""Bytes of a model by part: embeddings, attention, feed-forward, and the rest."""

from __future__ import annotations

from torch import nn

from compress.errors import ModelError
from compress.model.counts import stored_tensors
from compress.model.layers.embedding import FactorizedEmbedding
from compress.model.layers.multihead import LinearAttention
from compress.model.layers.quantized import EmbeddingModule
from compress.model.structure.find import structure_of

__all__ = ["PARTS", "bytes_by_part"]

_BLOCKS = (nn.MultiheadAttention, LinearAttention)
PARTS = ("embeddings", "attention", "feed-forward", "rest")
"""The rest: norms, task heads, convolutions, and everything in a model without a known structure."""


def bytes_by_part(model: nn.Module) -> dict[str, int]:
    """Bytes of parameters and persistent buffers as stored, by part; shared ones count once, in the first.

    Returns:
        All of `PARTS`, in their order; their sum is `counts.stored_bytes`.
    """
    found = dict.fromkeys(PARTS, 0)
    places = _places(model)
    for name, tensor in stored_tensors(model).items():
        found[_part(name, places)] += tensor.nbytes
    return found


def _places(model: nn.Module) -> dict[str, str]:
    """The part of each module for which it is known, by path."""
    places = {
        path: "embeddings"
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag | EmbeddingModule | FactorizedEmbedding)
    }
    attention = (path for path, each in model.named_modules() if isinstance(each, _BLOCKS))
    places.update(dict.fromkeys(attention, "attention"))
    try:
        sites = structure_of(model).sites
    except ModelError:
        sites = ()
    for site in sites:
        for path in site.paths:
            places[path] = "attention" if site.kind == "attention" else "feed-forward"
    return places


def _part(name: str, places: dict[str, str]) -> str:
    """The part of the nearest enclosing module that has one."""
    path = name
    while path:
        path = path.rpartition(".")[0]
        if path in places:
            return places[path]
    return "rest"
