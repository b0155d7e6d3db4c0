"""What works with a model: each stage by a recipe, to an ONNX file that answers as PyTorch does."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from compress.errors import CompressError
from compress.export import described, write_bundle_, write_manifest_
from compress.model import ModelConfig, load_model, predict_logits
from compress.model.structure.layouts import LAYOUTS
from compress.pipeline.cache import Cache
from compress.pipeline.exported import exported, exported_baseline
from compress.pipeline.prepare import Run, prepare
from compress.pipeline.stages import Base, decided, run_stages, trained_model, with_truth
from compress.recipe import load_recipe
from tests.architectures.answers import differences
from tests.architectures.families import ENTRIES, TRAIN

__all__ = ["COLUMNS", "EXPORT", "FAULT", "GROUPS", "RELOAD", "YES", "cells"]

YES, FAULT = "yes", "FAULT"
EXPORT, RELOAD = "export", "reload"
_DRAFT = {"calibration_rows": 32}
_STAGES: dict[str, dict[str, Any]] = {
    "quantize/float16": {},
    "quantize/int8_dynamic": {},
    "quantize/int8_static": _DRAFT,
    "quantize/int8_weight_only": {},
    "quantize/int4_weight_only": {},
    "quantize/mixed": {"sensitivity_rows": 16, "max_accuracy_drop": 0.99},
    "prune/heads": {"sparsity": 0.5},
    "prune/layers": {"layers": 1},
    "prune/structured": {"macs": 0.7, "search_rows": 16, "search_steps": 3, **_DRAFT},
    "prune/width": {"width": 16},
    "prune/channels": {"sparsity": 0.5, "min_channels": 1, "multiple_of": 1, **_DRAFT},
    "prune/vocabulary": {"min_count": 25},
    "prune/embeddings": {"rank": 8},
    "distill/logits": {"train": TRAIN},
    "distill/student": {"student": {"layers": 1}, "train": TRAIN},
}
COLUMNS = (EXPORT, *_STAGES, RELOAD)
# Stages of one recipe, whose result is exported once. If anything fails, each is tried by itself.
GROUPS = (
    ("prune/heads", "prune/width", "prune/vocabulary", "prune/layers", "quantize/int8_dynamic"),
    ("prune/structured", "prune/channels", "quantize/int8_static"),
    ("distill/student", "quantize/int4_weight_only"),
    ("distill/logits", "quantize/float16"),
    ("prune/embeddings", "quantize/int8_weight_only"),
    ("quantize/mixed",),
)
# Arguments of a student: the first that the model's own have, smaller.
_SMALLER: dict[str, Callable[[Any], Any]] = {
    **{name: lambda _: 1 for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "blocks")},
    **{name: lambda sizes: [size // 2 for size in sizes] for name in ("hidden_sizes", "widths")},
    **{name: lambda size: size // 2 for name in ("d_inner", "embed_dim", "hidden")},
    **{name: lambda scale: 0.8 * scale for name in ("depth_multiplier", "width_coefficient")},
}


def cells(name: str, columns: Sequence[str] = COLUMNS, say: Callable[[str], None] = print) -> dict[str, str]:
    """What each column says of an entry: `YES`, a refusal's sentence, or `FAULT` and what went wrong.

    Args:
        say: called with each cell as it becomes known.
    """
    with tempfile.TemporaryDirectory(prefix="architecture-") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        directory = Path(scratch).resolve()
        try:
            written = ENTRIES[name].write(directory)
        except Exception as error:  # transformers has changed
            return {EXPORT: _fault(error)}
        trial = _Trial(directory, *written, say)
        for group in ((EXPORT,), *GROUPS):
            trial.try_([stage for stage in group if stage in columns])
        return {column: trial.found[column] for column in columns if column in trial.found}


class _Wrong(Exception):
    """A file or a loaded bundle that answers otherwise than it should."""


@dataclass
class _Made:
    """A finished recipe: the module, its rows, and its file."""

    run: Run
    module: nn.Module
    splits: Any
    file: Path


class _Trial:
    """The recipes of one model."""

    def __init__(
        self, directory: Path, model: dict[str, Any], data: dict[str, Any], say: Callable[[str], None]
    ) -> None:
        self.directory, self.model, self.data, self.say = directory, model, data, say
        self.cache = Cache(directory / "cache")
        self.found: dict[str, str] = {}

    def try_(self, columns: list[str]) -> None:
        """Fill the cells of a group: refused by itself before work, or made together, or each by itself."""
        left = [each for each in columns if self._is_accepted(each)]
        if not left or EXPORT not in left and self.found.get(EXPORT, YES) != YES:
            for column in left:  # without a baseline no recipe runs
                self._set(column, self.found[EXPORT])
            return
        if len(left) > 1 and self._words(left) == YES:
            for column in left:
                self._set(column, YES)
            return
        for column in left:
            self._set(column, self._words([column]))

    def _is_accepted(self, column: str) -> bool:
        try:
            with tempfile.TemporaryDirectory(dir=self.directory) as scratch:
                self._prepared([column], Path(scratch))
        except CompressError as error:
            self._set(column, self._plain(str(error)))
            return False
        except Exception as error:
            self._set(column, _fault(error))
            return False
        return True

    def _words(self, columns: Sequence[str]) -> str:
        """What is said of a recipe of these stages."""
        try:
            with tempfile.TemporaryDirectory(dir=self.directory) as scratch:
                self._reload(self._checked(columns, Path(scratch)), Path(scratch))
        except CompressError as error:
            return f"only after work had begun: {self._plain(str(error))}"
        except Exception as error:
            return _fault(error)
        return YES

    def _set(self, column: str, words: str) -> None:
        self.found[column] = words
        self.say(f"  {column:26} {words}")

    def _prepared(self, columns: Sequence[str], scratch: Path) -> Run:
        stages = [{column: self._settings(column)} for column in columns if column != EXPORT]
        recipe = {
            "model": self.model,
            "data": self.data,
            "stages": stages,
            # Random weights answer near ties: what is judged is the distance of answers.
            "export": {"min_agreement": 0.8, "max_metric_difference": 0.2},
            "measure": {"ladder": False},
        }
        path = self.directory / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return prepare(load_recipe(path, need_stages=False), scratch, cache=self.cache)

    def _settings(self, column: str) -> dict[str, Any]:
        """Settings of a stage; a student of a model whose layers aren't known starts from random weights."""
        if column != "distill/logits":
            return _STAGES[column]
        given = self.model.get("args", {})
        if "hf" in self.model:
            given = json.loads((Path(self.model["hf"]) / "config.json").read_text())
        start = "random" if given.get("model_type", "bert") not in LAYOUTS else "teacher"
        name = next(name for name in _SMALLER if given.get(name))
        return {**_STAGES[column], "student": {name: _SMALLER[name](given[name])}, "init": start}

    def _checked(self, columns: Sequence[str], scratch: Path) -> _Made:
        """Run a recipe as `modelpress run` does, but for measuring, and compare its file's answers."""
        run = self._prepared(columns, scratch)
        module, training = trained_model(run)
        run = replace(run, splits=decided(module, with_truth(module, run.splits)))
        base = Base(module, training, exported_baseline(run, module))
        if not run.recipe.stages:
            made = _Made(run, module, run.splits, base.onnx.path)
            reference = self._reference(module)
        else:
            work = run_stages(run, base)
            file = exported(run.recipe, work.module, work.splits, scratch / "candidate").path
            made, reference = _Made(run, work.module, work.splits, file), work.module
        splits, longest = made.splits, run.recipe.data.longest
        if wrong := differences(reference, made.file, splits.validation, splits.task, longest):
            raise _Wrong("; ".join(wrong))
        return made

    def _reference(self, module: nn.Module) -> nn.Module:
        """What the uncompressed file is compared with: for a Hugging Face model, what transformers loads."""
        if "hf" not in self.model:
            return module
        import transformers

        kind = json.loads((Path(self.model["hf"]) / "config.json").read_text())["architectures"][0]
        loaded: nn.Module = getattr(transformers, kind).from_pretrained(self.model["hf"], dtype=torch.float32)
        return loaded.eval()

    def _reload(self, made: _Made, scratch: Path) -> None:
        """Write the bundle and load it: the same answers."""
        bundle, splits = scratch / "bundle", made.splits
        bundle.mkdir()
        longest = made.run.recipe.data.longest
        write_bundle_(bundle, made.module, made.file, splits.task, reader=splits.reader, max_length=longest)
        write_manifest_(bundle, splits.task, described(made.module, splits.task))
        config = ModelConfig.model_validate({"bundle": str(bundle)})
        loaded = load_model(config, seed=1, scratch=scratch, task=made.run.recipe.data.task)
        own, again = (
            predict_logits(each, splits.validation, splits.task) for each in (made.module, loaded.module)
        )
        if not torch.equal(own, again):
            self.found[RELOAD] = f"{FAULT}: {(own - again).abs().max():.2g} apart"
            raise _Wrong(f"the loaded bundle answers otherwise, by {(own - again).abs().max():.2g}")
        self.found.setdefault(RELOAD, YES)

    def _plain(self, said: str) -> str:
        """A message without the names of this trial's files, and without all known architectures."""
        said = said.replace(f"{self.directory}/", "")
        said = re.sub(r"^recipe\.yaml(:\d+)?: |\btmp\w{8}/", "", said)
        return re.sub(r"\s+", " ", re.sub(r"(?<=known: )[\w, -]+(?=, and any module)", "...", said))


def _fault(error: Exception) -> str:
    import traceback

    where = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if isinstance(error, _Wrong) else f" in {Path(where.filename).name}:{where.lineno}"
    said = re.sub(r"\s+", " ", str(error))[:300]
    return f"{FAULT}: {type(error).__name__.lstrip('_')}{place}: {said}"
