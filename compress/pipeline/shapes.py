"""Shapes of a recipe's model and after each stage, without doing any work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compress.data import Split
from compress.errors import ModelError
from compress.model import Site, logits, structure_of, to_tensors
from compress.model.counts import stored_bytes, weight_counts
from compress.model.cutting.depth import layer_count
from compress.model.cutting.vocabulary import token_embedding, token_table
from compress.model.cutting.width import hidden_width
from compress.model.files.computed_weights import plain_weights_
from compress.model.observe.capture import positions_of
from compress.pipeline.prepare import prepare
from compress.recipe import Recipe
from compress.report import Shape
from compress.stage import Context
from compress.system.disk import scratch_directory

__all__ = ["recipe_shapes"]


def recipe_shapes(recipe: Recipe) -> list[Shape]:
    """The shape of the loaded model, and after each stage by rehearsal.

    Raises:
        CompressError: as a run of the recipe would before its work starts.
    """
    with scratch_directory() as scratch:
        prepared = prepare(recipe, scratch)
        splits, module = prepared.splits, plain_weights_(prepared.loaded.module.eval())
        first = splits.task.input_names[0]
        row = max((*splits.train.rows, *splits.validation.rows), key=lambda each: each[first].shape[0])
        longest = Split("longest", (row,), splits.validation.labels[:1], splits.task.inputs)
        batch = to_tensors(next(longest.batches(1)), splits.task.input_names)
        tokens = positions_of(module, _sites(module), row, splits.task)
        context = Context(splits.task, splits.train, splits.validation, reader=splits.reader)
        shapes = [_shape("model", "", module, module, batch, tokens)]
        for stage in recipe.stages:
            module = stage.rehearse(module)
            stored = stage.stand_in().apply(module, context).model if stage.kind == "quantize" else module
            shapes.append(_shape(stage.name, stage.guess, module, stored, batch, tokens))
    return shapes


def _shape(
    after: str, guess: str, module: nn.Module, stored: nn.Module, batch: dict[str, Any], tokens: int | None
) -> Shape:
    sites = _sites(module)
    heads = tuple(site.units(module) for site in sites if site.kind == "attention")
    neurons = tuple(site.units(module) for site in sites if site.kind == "feed_forward")
    return Shape(
        after,
        guess,
        _or_none(lambda: layer_count(module)),
        heads,
        neurons,
        _or_none(lambda: hidden_width(module)),
        _or_none(lambda: token_table(token_embedding(module)[1]).num_embeddings),
        weight_counts(module)[0],
        _macs(module, batch),
        stored_bytes(stored),
        tokens,
    )


def _sites(module: nn.Module) -> tuple[Site, ...]:
    try:
        return structure_of(module).sites
    except ModelError:
        return ()


def _or_none(find: Callable[[], int]) -> int | None:
    try:
        return find()
    except ModelError:
        return None


def _macs(module: nn.Module, batch: dict[str, Any]) -> int:
    """Half of torch's FLOP count, with attention and LSTMs decomposed into plain products."""
    counter = FlopCounterMode(display=False)
    # oneDNN's LSTM is one operator, whose products the counter does not count.
    plain = torch.backends.mkldnn.flags(enabled=False, allow_tf32=None)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), plain, counter:
        logits(module.eval(), batch)
    return counter.get_total_flops() // 2
