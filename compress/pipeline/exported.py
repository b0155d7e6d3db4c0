"""Modules as ONNX files: the candidate, the baseline, and what stands after each stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from compress.data import Splits
from compress.export import (
    ONNX_PATH,
    check_parity,
    export_onnx,
    longest_row,
    proof_lengths,
    relative_limit,
)
from compress.facts import Parity
from compress.keys import graph_key
from compress.pipeline.cache import Cache
from compress.pipeline.prepare import Prepared
from compress.progress import Progress
from compress.recipe import Recipe

__all__ = ["Exported", "baseline_key", "exported", "exported_baseline", "parity_of"]

_LIMITS = ("min_agreement", "max_metric_difference", "max_relative_error")


@dataclass(frozen=True)
class Exported:
    """An ONNX file, and how it answers beside the module that it came from."""

    path: Path
    parity: Parity


def exported_baseline(base: nn.Module, prepared: Prepared, cache: Cache, progress: Progress) -> Exported:
    """Export the uncompressed model, or find it in the cache."""

    def make(directory: Path) -> dict[str, Any]:
        progress.say("exporting the uncompressed model: the baseline")
        return exported(base, prepared, prepared.splits, directory).parity.model_dump()

    directory, record = cache.file(
        baseline_key(prepared), make, what="the ONNX file of the uncompressed model"
    )
    return Exported(directory / ONNX_PATH.name, Parity(**record))


def baseline_key(prepared: Prepared) -> str:
    """The key of the uncompressed model's ONNX file."""
    return graph_key(prepared.base_key, "baseline", prepared.recipe.export.model_dump(mode="json"))


def exported(module: nn.Module, prepared: Prepared, splits: Splits, directory: Path) -> Exported:
    """Export a module as the recipe says, and see that the file answers as it does.

    Raises:
        ExportError, ParityError: it can't be exported, or doesn't.
    """
    recipe = prepared.recipe
    directory.mkdir(exist_ok=True)
    path = export_onnx(
        module,
        splits.validation,
        splits.task,
        directory / ONNX_PATH.name,
        opset=recipe.export.opset,
        longest=getattr(recipe.data, "max_length", None),
        check=False,
    )
    return Exported(path, parity_of(module, path, splits, recipe))


def parity_of(module: nn.Module, path: Path, splits: Splits, recipe: Recipe) -> Parity:
    """Answer some validation rows with both, and rows of other lengths, within the recipe's limits.

    Raises:
        ParityError: beyond them.
        ModelError: the module answers at random, or can't answer a row that may come.
    """
    limits: dict[str, Any] = recipe.export.model_dump(include=set(_LIMITS))
    if limits["max_relative_error"] is None:
        limits["max_relative_error"] = relative_limit(module)
    rows = splits.validation.take(recipe.export.parity_rows, seed=recipe.seed)
    longest = longest_row(module, splits.task, getattr(recipe.data, "max_length", None))
    lengths = proof_lengths(splits.validation, splits.task, longest, module)
    return check_parity(module, path, rows, splits.task, **limits, lengths=lengths)
