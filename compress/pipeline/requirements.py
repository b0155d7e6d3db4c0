"""Checks of a recipe before work starts: files, device, runtimes, gates."""

from __future__ import annotations

import torch

from compress.data import Splits
from compress.data.paths import what_is_there
from compress.errors import ModelError, RecipeError
from compress.measure import check_runtimes
from compress.measure.process.noise import usable_threads
from compress.measure.rows import resolve_sequence
from compress.model import ModelConfig
from compress.recipe import Recipe
from compress.system.cores import available_cores
from compress.tasks import TASKS, Task, task_class

__all__ = ["check_files", "check_gates", "check_task_gates"]


def check_files(recipe: Recipe) -> None:
    """Check that the files, device and runtimes that a recipe names exist, which costs nothing.

    Raises:
        ModelError, DataError, RecipeError: one of them does not.
    """
    _check_model(recipe.model)
    kind = recipe.data.kind
    if recipe.model.train is not None and kind.labels_from_model:
        raise RecipeError(
            f"{recipe.path or recipe.run_name}: model.train: a {kind.words.model} can't be trained on rows "
            "without labels; omit it, and train a smaller model from a trained one with distill/student",
            see="how-to/embeddings",
        )
    recipe.data.check_files()
    if recipe.device.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError(f"device: {recipe.device}: torch finds no CUDA device here; use device=cpu")
    check_runtimes(recipe.measure.runtimes)


def _check_model(model: ModelConfig) -> None:
    wrong = "" if model.file is None else what_is_there(model.file)
    if wrong:
        raise ModelError(f"model.file: {model.file} {wrong}; give the Python file that builds the model")
    if model.bundle is not None and not model.bundle.is_dir():
        what = "is not a directory" if model.bundle.exists() else "does not exist"
        raise ModelError(f"model.bundle: {model.bundle} {what}; give a directory that modelpress wrote")


def check_task_gates(recipe: Recipe, task: type[Task]) -> None:
    """Check that the gates apply to the task.

    Raises:
        RecipeError: one belongs to another task.
    """
    for name in recipe.gates.of_tasks:
        if name not in task.gates:
            owner = next(each for each in map(task_class, TASKS) if name in each.gates)
            raise RecipeError(
                f"{recipe.path or recipe.run_name}: gates.{name} applies to a {owner.words.model} only, and "
                f"this is a {task.words.model}; remove the gate",
                see="reference/gates",
            )


def check_gates(recipe: Recipe, splits: Splits) -> None:
    """Check that the gates apply to the task, and their setting is measured.

    Raises:
        RecipeError: they do not.
    """
    check_task_gates(recipe, type(splits.task))
    gates, measured = recipe.gates, recipe.measure
    lengths = measured.sequence or (resolve_sequence(splits.test, None),)
    threads, _ = usable_threads(measured.threads, available_cores())
    places = {"batch": measured.batch, "sequence": lengths, "threads": threads}
    for name, known in places.items():
        wanted = getattr(gates, name)
        if wanted is not None and wanted not in known:
            raise RecipeError(
                f"{recipe.path or recipe.run_name}: gates.{name}: {wanted} is not among the measured values; "
                f"measure.{name} is {', '.join(map(str, known))} here"
            )
