"""Modules as ONNX files: the candidate, the baseline, and the model after each stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from compress.data import Splits
from compress.export import ONNX_PATH, check_answers, export_onnx
from compress.facts import Parity
from compress.pipeline.prepare import Run
from compress.recipe import Recipe

__all__ = ["Exported", "exported", "exported_baseline", "parity_of"]


@dataclass(frozen=True)
class Exported:
    """An ONNX file, and its parity with the module it came from."""

    path: Path
    parity: Parity


def exported_baseline(run: Run, base: nn.Module) -> Exported:
    """Export the uncompressed model, or get it from the cache."""

    def make(directory: Path) -> dict[str, Any]:
        run.progress.say("exporting the uncompressed model (the baseline)")
        return exported(run.recipe, base, run.splits, directory).parity.model_dump()

    directory, record = run.cache.file(
        run.keys.baseline, make, what="the ONNX file of the uncompressed model"
    )
    return Exported(directory / ONNX_PATH.name, Parity(**record))


def exported(recipe: Recipe, module: nn.Module, splits: Splits, directory: Path) -> Exported:
    """Export a module with the recipe's settings, and check that the file's outputs agree.

    Raises:
        ExportError, ParityError: export failed, or outputs differ.
    """
    directory.mkdir(exist_ok=True)
    path = export_onnx(
        module,
        splits.validation,
        splits.task,
        directory / ONNX_PATH.name,
        opset=recipe.export.opset,
        longest=recipe.data.longest,
        check=False,
    )
    return Exported(path, parity_of(module, path, splits, recipe))


def parity_of(module: nn.Module, path: Path, splits: Splits, recipe: Recipe) -> Parity:
    """Compare module and file on some validation rows, and rows of other lengths, within the recipe's limits.

    Raises:
        ParityError: a limit is exceeded.
        ModelError: the module's outputs are random, or it cannot process a valid row.
    """
    return check_answers(
        module,
        path,
        splits.validation,
        splits.task,
        recipe.export,
        longest=recipe.data.longest,
        seed=recipe.seed,
    )
