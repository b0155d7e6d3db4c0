"""Registry of stages: a literal dict, name in a recipe -> "module:Class", imported on use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from compress.errors import Problem, UnknownNameError, did_you_mean, nearest_name, shortened

if TYPE_CHECKING:
    from compress.stage import Stage

__all__ = ["STAGES", "stage_class", "stage_names"]

STAGES: dict[str, str] = {
    "prune/magnitude": "compress.prune.magnitude:MagnitudePruning",
    "prune/heads": "compress.prune.heads:HeadPruning",
    "prune/channels": "compress.prune.channels:ChannelPruning",
    "prune/layers": "compress.prune.layers:LayerPruning",
    "prune/structured": "compress.prune.structured.stage:StructuredPruning",
    "prune/embeddings": "compress.prune.embeddings:EmbeddingFactorization",
    "prune/vocabulary": "compress.prune.vocabulary:VocabularyPruning",
    "prune/dimensions": "compress.prune.dimensions:DimensionPruning",
    "prune/width": "compress.prune.width:WidthPruning",
    "quantize/float16": "compress.quantize.float16:Float16",
    "quantize/int8_dynamic": "compress.quantize.int8_dynamic:Int8Dynamic",
    "quantize/int8_static": "compress.quantize.int8_static:Int8Static",
    "quantize/int8_weight_only": "compress.quantize.weight_only:Int8WeightOnly",
    "quantize/int4_weight_only": "compress.quantize.weight_only:Int4WeightOnly",
    "quantize/mixed": "compress.quantize.mixed.stage:Mixed",
    "distill/logits": "compress.distill.logits:LogitsDistillation",
    "distill/student": "compress.distill.stage:StudentDistillation",
}


def stage_names() -> tuple[str, ...]:
    """All names allowed in a recipe's `stages:`, in registry order."""
    return tuple(STAGES)


def stage_class(name: str) -> type[Stage]:
    """Import the class of a stage.

    Raises:
        UnknownNameError: no stage has that name.
    """
    if name not in STAGES:
        raise UnknownNameError(
            Problem(
                f"unknown stage '{shortened(name)}'{did_you_mean(name, STAGES)}",
                value=name,
                allowed=stage_names(),
                nearest=nearest_name(name, STAGES),
                unknown_name=True,
                see="reference/stages",
            )
        )
    module, _, attribute = STAGES[name].partition(":")
    found: type[Stage] = getattr(import_module(module), attribute)
    return found
