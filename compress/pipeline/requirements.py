"""Checks before work starts: files, device, runtimes, gates, output directory, disk space."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.data import Splits
from compress.data.paths import what_is_there
from compress.errors import ModelError, OutputError, RecipeError
from compress.measure import check_runtimes
from compress.measure.process.noise import usable_threads
from compress.measure.rows import resolve_sequence
from compress.model import ModelConfig
from compress.recipe import Recipe
from compress.system.cores import available_cores
from compress.system.disk import check_room
from compress.system.files import read_json
from compress.tasks import TASKS, task_class

if TYPE_CHECKING:
    from compress.pipeline.prepare import Run

__all__ = [
    "check_can_be_made",
    "check_disk",
    "check_files",
    "check_gates",
    "check_output",
    "check_room_for",
    "weight_bytes",
]

_SMALL = 8_000_000  # bytes for reports, tokenizers, rows
_LEAST_PART = 8  # minimum compressed size as a fraction of the model's: four bits per weight
_OUTPUT, _SCRATCH = "choose another place with -o", "set TMPDIR to another place"


def check_files(recipe: Recipe) -> None:
    """Check that the files, device and runtimes that a recipe names exist, which costs nothing.

    Raises:
        ModelError, DataError, RecipeError: one of them does not.
    """
    _check_model(recipe.model)
    recipe.data.check_files()
    if recipe.device.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError(
            f"device: {recipe.device} was asked for, but torch finds no CUDA device here; use device=cpu"
        )
    check_runtimes(recipe.measure.runtimes)


def _check_model(model: ModelConfig) -> None:
    wrong = "" if model.file is None else what_is_there(model.file)
    if wrong:
        raise ModelError(f"model.file: {model.file} {wrong}; give the Python file that builds the model")
    if model.bundle is not None and not model.bundle.is_dir():
        what = "is not a directory" if model.bundle.exists() else "does not exist"
        raise ModelError(f"model.bundle: {model.bundle} {what}; give a directory that modelpress wrote")


def check_gates(recipe: Recipe, splits: Splits) -> None:
    """Check that the gates apply to the task, and their setting is measured.

    Raises:
        RecipeError: they do not.
    """
    gates, measured = recipe.gates, recipe.measure
    for name in gates.of_tasks:
        if name not in splits.task.gates:
            owner = next(each for each in map(task_class, TASKS) if name in each.gates)
            raise RecipeError(
                f"{recipe.path or recipe.run_name}: gates.{name}: only a {owner.words.model} can be judged "
                f"by it, and this is a {splits.task.words.model}"
            )
    lengths = measured.sequence or (resolve_sequence(splits.test, None),)
    threads, _ = usable_threads(measured.threads, available_cores())
    places = {"batch": measured.batch, "sequence": lengths, "threads": threads}
    for name, known in places.items():
        wanted = getattr(gates, name)
        if wanted is not None and wanted not in known:
            raise RecipeError(
                f"{recipe.path or recipe.run_name}: gates.{name}: {wanted} is not measured; measure.{name} "
                f"is {', '.join(map(str, known))} here"
            )


def check_output(target: Path, run_key: str, *, overwrite: bool) -> bool:
    """Whether `target` already contains this run, complete and unchanged.

    Raises:
        OutputError: something else exists there.
    """
    if not target.exists():
        check_can_be_made(target)
        return False
    manifest = target / "manifest.json"
    try:
        found = read_json(manifest)["run_key"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found is None and any(target.iterdir() if target.is_dir() else [target]):
        raise OutputError(
            f"{target} exists and is not a run of modelpress: choose another place with -o, or move it"
        )
    if overwrite or found is None:
        return False
    if found != run_key:
        raise OutputError(
            f"{target} holds a run of another recipe, other data, another version or another machine; "
            "give --overwrite to replace it, or name=... or -o to keep both"
        )
    return True


def check_can_be_made(target: Path) -> None:
    """Check that a directory can be created there.

    Raises:
        OutputError: it cannot.
    """
    there = next(parent for parent in target.absolute().parents if parent.exists())
    if not there.is_dir():
        raise OutputError(f"cannot write {target}: {there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {target}: {there} is read-only for this user")


def check_disk(run: Run, target: Path) -> None:
    """Reject a run whose output, cache or temporary folder is not writable or too full.

    Raises:
        OutputError: names the folder, the free space and the space needed.
    """
    recipe, keys, cache = run.recipe, run.keys, run.cache
    check_can_be_made(cache.root / "piece")
    trained = recipe.model.train is not None and not cache.holds(keys.base)
    timed = any(
        stage.is_timed and not cache.holds(key) for stage, key in zip(recipe.stages, keys.stages, strict=True)
    )
    exported = not cache.holds(keys.baseline)
    size = weight_bytes(run.loaded.module)
    check_room_for(
        target,
        output=size * (trained + exported) + 2 * size // _LEAST_PART,
        scratch=size if timed else size // _LEAST_PART,
    )


def check_room_for(target: Path, *, output: int, scratch: int) -> None:
    """Reject a bundle for which there is not enough space.

    Args:
        output: minimum bytes written next to `target`.
        scratch: minimum bytes written to the temporary folder.

    Raises:
        OutputError: names the folder, the free space and the space needed.
    """
    temporary = Path(tempfile.gettempdir())
    check_room({target.parent: (output + _SMALL, _OUTPUT), temporary: (scratch + _SMALL, _SCRATCH)})


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights as stored in memory."""
    return sum(each.numel() * each.element_size() for each in module.state_dict().values())
