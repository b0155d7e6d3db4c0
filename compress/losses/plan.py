"""Plan: which modules of a student are compared with which of its teacher; determined before any work.

Only looks at model structures, not at tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.errors import ModelError
from compress.losses.config import LayerMap, LossConfig
from compress.losses.relations import relation_heads
from compress.losses.views import attention_at, head_count, layer_paths

if TYPE_CHECKING:
    from torch import nn

    from compress.model.structure.sites import Site

__all__ = ["Comparison", "attention_sites", "comparisons", "map_layers", "spread_layers"]


@dataclass(frozen=True)
class Comparison:
    """A pair of modules, or groups of modules, whose outputs a loss compares.

    Attributes:
        term: name of the loss in a recipe.
        student, teacher: module paths: one, or those of queries, keys (and values).
        heads: head counts of student and teacher; for relations, relation heads.
    """

    term: str
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    heads: tuple[int, int] = (1, 1)


def spread_layers(teacher_layers: int, student_layers: int) -> list[int]:
    """Teacher layer for each student layer: the last for the last, the others evenly spread before it.

    For 6 teacher and 3 student layers: 1, 3 and 5, counted from 0.
    """
    return [round((index + 1) * teacher_layers / student_layers) - 1 for index in range(student_layers)]


def map_layers(layers: LayerMap, student: int, teacher: int) -> list[tuple[int, int]]:
    """Pairs of (student layer, teacher layer), from 0.

    Args:
        student, teacher: number of layers.

    Raises:
        ModelError: if an explicit map has the wrong length or names a missing layer.
    """
    if layers == "last":
        return [(student - 1, teacher - 1)]
    if layers == "uniform":
        return list(enumerate(spread_layers(teacher, student)))
    if len(layers) != student or any(not 0 <= layer < teacher for layer in layers):
        raise ModelError(
            f"layers must name one teacher layer (0 to {teacher - 1}) per student layer ({student}); got "
            f"{list(layers)}"
        )
    return list(enumerate(int(layer) for layer in layers))


def comparisons(config: LossConfig, student: nn.Module, teacher: nn.Module) -> list[Comparison]:
    """All pairs of modules that the losses compare; losses on outputs and labels need none.

    Raises:
        ModelError: if a layer is missing, relation heads don't divide a width, or a model's structure does
            not give its layers or attention.
    """
    found: list[Comparison] = []
    if config.hidden is not None and config.hidden.weight > 0:
        found += _hidden(config.hidden.layers, student, teacher)
    if config.attention is not None and config.attention.weight > 0:
        found += _attention(config.attention.layers, student, teacher)
    if config.relations is not None and config.relations.weight > 0:
        found.append(_relations(config.relations.heads, config.relations.teacher_layer, student, teacher))
    if config.embedding is not None and config.embedding.weight > 0:
        last = (layer_paths(student)[-1],), (layer_paths(teacher)[-1],)
        found.append(Comparison("embedding", *last))
    return found


def attention_sites(config: LossConfig, model: nn.Module) -> list[Site]:
    """All attention sites whose maps could be compared; empty if the attention loss is disabled."""
    if config.attention is None or config.attention.weight == 0:
        return []
    return [attention_at(model, layer) for layer in range(len(layer_paths(model)))]


def _hidden(layers: LayerMap, student: nn.Module, teacher: nn.Module) -> list[Comparison]:
    mine, theirs = layer_paths(student), layer_paths(teacher)
    pairs = map_layers(layers, len(mine), len(theirs))
    return [Comparison("hidden", (mine[i],), (theirs[j],)) for i, j in pairs]


def _attention(layers: LayerMap, student: nn.Module, teacher: nn.Module) -> list[Comparison]:
    pairs = map_layers(layers, len(layer_paths(student)), len(layer_paths(teacher)))
    found = []
    for i, j in pairs:
        mine, theirs = attention_at(student, i), attention_at(teacher, j)
        for site in (mine, theirs):
            if len({each.rows for each in site.producers}) > 1:
                raise ModelError(
                    f"losses.attention: {site.name} uses grouped queries, whose maps can't be compared; "
                    "omit losses.attention"
                )
        heads = (head_count(student, mine), head_count(teacher, theirs))
        found.append(Comparison("attention", _paths(mine)[:2], _paths(theirs)[:2], heads))
    return found


def _relations(heads: int | None, layer: int, student: nn.Module, teacher: nn.Module) -> Comparison:
    count = len(layer_paths(teacher))
    if not -count <= layer < count:
        raise ModelError(f"losses.relations.teacher_layer: {layer} does not exist; allowed: 0 to {count - 1}")
    mine = attention_at(student, len(layer_paths(student)) - 1)
    theirs = attention_at(teacher, layer % count)
    widths = [
        [head_count(model, site, at) * each.rows for at, each in enumerate(site.producers)]
        for model, site in ((student, mine), (teacher, theirs))
    ]
    if any(len(set(each)) > 1 for each in widths):
        raise ModelError("losses.relations: queries, keys and values must have the same width")
    try:
        count = relation_heads(widths[0][0], widths[1][0], heads)
    except ValueError as error:
        raise ModelError(f"relations: {error}") from error
    return Comparison("relations", _paths(mine), _paths(theirs), (count, count))


def _paths(site: Site) -> tuple[str, ...]:
    return tuple(each.path for each in site.producers)
