"""Keys of everything that a recipe's run stores (see `compress.keys`)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import nn

from compress.data import Splits
from compress.export import sha256_of
from compress.keys import base_key, graph_key, run_key, stage_key
from compress.measure import environment
from compress.recipe import Recipe

__all__ = ["Keys", "files_named", "machine_facts"]


def machine_facts() -> dict[str, str]:
    """The machine that latencies hold for, as plain data."""
    here = environment()
    return {
        "cpu": here.cpu,
        "cores": str(here.cores),
        "instruction_sets": " ".join(here.instruction_sets),
        "onnxruntime": here.packages.get("onnxruntime", ""),
    }


@dataclass(frozen=True)
class Keys:
    """Cache keys of a run.

    Attributes:
        base: of the model after its own training.
        baseline: of that model's ONNX file.
        stages: of the model after each stage.
        run: of the figures.
    """

    base: str
    baseline: str
    stages: tuple[str, ...]
    run: str
    _export: Any

    @classmethod
    def of(cls, recipe: Recipe, module: nn.Module, splits: Splits) -> Keys:
        """The keys of a recipe whose model and rows are loaded.

        Args:
            module: as loaded, before its own training.
        """
        train, export = _plain(recipe.model.train), _plain(recipe.export)
        base = base_key(module, splits, train=train, seed=recipe.seed, device=recipe.device)
        stages: list[str] = []
        for index in range(len(recipe.stages)):
            stages.append(_stage_key(recipe, index, stages[-1] if stages else base, base, splits))
        run = run_key(
            stages[-1] if stages else base,
            export=export,
            measure=_plain(recipe.measure),
            machine=machine_facts(),
            shipped=splits.reader.shipped(),
            texts=_texts(splits) if recipe.measure.floor else None,
        )
        return cls(base, graph_key(base, "baseline", export), tuple(stages), run, export)

    def graph_after(self, index: int) -> str:
        """The key of the ONNX file of the model after a stage."""
        return graph_key(self.stages[index], "step", self._export)


def _stage_key(recipe: Recipe, index: int, before: str, base: str, splits: Splits) -> str:
    stage = recipe.stages[index]
    settings = _plain(stage)
    later = [(each.name, each.model_dump(mode="json")) for each in recipe.stages[index + 1 :]]
    timed = [machine_facts(), recipe.export.opset, _plain(recipe.measure, "runtimes", "ladder", "floor")]
    return stage_key(
        before,
        base,
        (stage.name, settings),
        files=files_named(settings),
        seed=recipe.seed,
        unlabelled=splits.unlabelled,
        later=later if stage.sees_later else None,
        timed=timed if stage.is_timed else None,
    )


def _texts(splits: Splits) -> str:
    """SHA-256 of all texts: rows have only as many of their tokens as a model reads."""
    texts = [split.texts for split in (splits.train, splits.validation, splits.test)]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _plain(settings: BaseModel | None, *without: str) -> Any:
    return None if settings is None else settings.model_dump(mode="json", exclude=set(without))


def files_named(settings: Any) -> list[tuple[str, str]]:
    """Files that a stage's settings name by absolute path, such as a student's, each with its SHA-256.

    For a directory, all files below it.
    """
    if isinstance(settings, dict | list):
        inner = settings.values() if isinstance(settings, dict) else settings
        return [found for each in inner for found in files_named(each)]
    if not isinstance(settings, str) or not os.path.isabs(settings):
        return []
    path = Path(settings)
    below = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(str(each), sha256_of(each)) for each in below if each.is_file()]
