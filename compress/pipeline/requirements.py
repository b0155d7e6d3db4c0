"""Checks of a recipe before work starts: files, device, runtimes, gates."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from compress.data import Splits
from compress.data.paths import near_path, what_is_there
from compress.errors import ModelError, Problem, RecipeError
from compress.measure import check_runtimes
from compress.measure.process.noise import usable_threads
from compress.measure.rows import resolve_sequence
from compress.model.files.hf.directory import may_be_name
from compress.model.files.timm_files import check_timm
from compress.recipe import Recipe
from compress.system.cores import available_cores
from compress.tasks import TASKS, Task, task_class

__all__ = ["check_files", "check_gates", "check_task_gates"]


def check_files(recipe: Recipe) -> None:
    """Check that the files, device and runtimes that a recipe names exist, which costs nothing.

    Raises:
        ModelError, DataError, RecipeError: one of them does not.
    """
    _check_model(recipe)
    kind = recipe.data.kind
    if recipe.model.train is not None and kind.labels_from_model and not kind.learns_links:
        raise RecipeError(
            f"{recipe.path or recipe.run_name}: model.train: a {kind.words.model} can't be trained on rows "
            "without labels; omit it, and train a smaller model from a trained one with distill/student, or "
            "give queries with relevant documents",
            see="how-to/embeddings",
        )
    recipe.data.check_files()
    _check_hf(recipe)
    if recipe.device.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError(f"device: {recipe.device}: torch finds no CUDA device here; use device=cpu")
    check_runtimes(recipe.measure.runtimes)


def _check_model(recipe: Recipe) -> None:
    model = recipe.model
    wrong = "" if model.file is None else what_is_there(model.file)
    if model.file is not None and wrong:
        text = f"{model.file} {wrong}; give the Python file that builds the model"
        raise _no_model("file", text, model.file)
    if model.timm is not None:
        check_timm(model.timm)
    wrong = "" if model.weights is None else what_is_there(model.weights)
    if model.weights is not None and wrong:
        raise _no_model("weights", f"{model.weights} {wrong}; give a file with weights", model.weights)
    if model.bundle is not None and not model.bundle.is_dir():
        what = "is not a directory" if model.bundle.exists() else what_is_there(model.bundle)
        raise _no_model(
            "bundle", f"{model.bundle} {what}; give a directory that modelpress wrote", model.bundle
        )


def _check_hf(recipe: Recipe) -> None:
    """Refuse a path that does not exist; whether a name is on the Hub is found out by loading it."""
    name, place = recipe.model.hf, recipe.problem("model.hf", "")
    if name is None or may_be_name(name):
        return
    base = Path.cwd() if place.overrides or recipe.path is None else recipe.path.parent
    path = Path(os.path.normpath(base / Path(name).expanduser()))
    if not path.exists():
        text = f"{path} {what_is_there(path)}; give a directory or a name on the Hugging Face Hub"
        raise _no_model("hf", text, path)


def _no_model(key: str, text: str, path: Path) -> ModelError:
    near = near_path(path)
    nearest = None if near is None else str(near)
    return ModelError(Problem(f"model.{key}: {text}", key=f"model.{key}", value=path, nearest=nearest))


def check_task_gates(recipe: Recipe, task: type[Task]) -> None:
    """Check that the gates apply to the task.

    Raises:
        RecipeError: one belongs to another task.
    """
    for name in recipe.gates.of_tasks:
        if name not in task.gates:
            owners = [each.words.model for each in map(task_class, TASKS) if name in each.gates]
            whose = f"a {' or a '.join(owners)} only, and this is a {task.words.model}"
            text = f"gates.{name} applies to {whose}; remove the gate"
            raise RecipeError(recipe.problem(f"gates.{name}", text), see="reference/gates")


def check_gates(recipe: Recipe, splits: Splits) -> None:
    """Check that the gates apply to the task, and their setting is measured.

    Raises:
        RecipeError: they do not.
    """
    check_task_gates(recipe, type(splits.task))
    gates, measured = recipe.gates, recipe.measure
    length = resolve_sequence(splits.test, None)
    lengths = measured.sequence or (() if length is None else (length,))
    threads, _ = usable_threads(measured.threads, available_cores())
    places = {"batch": measured.batch, "sequence": lengths, "threads": threads}
    for name, known in places.items():
        wanted = getattr(gates, name)
        if wanted is None or wanted in known:
            continue
        if not known and wanted in (1, splits.test.inputs[0].shape[0]):  # what earlier versions called so
            continue
        here = f"measure.{name} is {', '.join(map(str, known))} here" if known else "these rows have none"
        text = f"gates.{name}: {wanted} is not among the measured values; {here}"
        raise RecipeError(recipe.problem(f"gates.{name}", text))
