"""Construction of the student, a smaller model to be trained.

It has some of the teacher's layers with their weights, or is the same kind of model with other arguments, or
any other model. Narrower students come from earlier prune stages, which keep the most important heads,
neurons and hidden features, and are trained as they are.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress.errors import ModelError, StageError
from compress.layer_choice import Keep, LayerKeep, layers_to_keep
from compress.model.files.config import ModelConfig
from compress.system.disk import scratch_directory
from compress.tasks import TaskName
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from compress.model.files.definition import Definition
    from compress.model.files.load import LoadedModel

__all__ = [
    "StudentConfig",
    "build_student",
    "initialise_",
    "load_student",
    "rebuilt",
]


class StudentConfig(BaseModel):
    """Kind of student; without layers, args and model: the model as the previous stages left it.

    Attributes:
        layers: number of the model's layers to keep, or their indices (from 0).
        keep: which to keep if `layers` is a number: evenly spaced including the last, the first, the last, or
            the best, found by repeatedly dropping the layer whose removal hurts validation least.
        args: the same kind of model with other arguments; weights with matching shapes are the teacher's.
        model: another model, as in a recipe's `model:`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int | tuple[int, ...] | None = Field(default=None)
    keep: Keep = "spaced"
    args: dict[str, Any] = {}
    model: ModelConfig | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [name for name in ("layers", "args", "model") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"give exactly one of layers, args and model (given: {', '.join(given)})")
        if isinstance(self.layers, int) and self.layers < 1:
            raise ValueError(f"layers must be at least 1; got {self.layers}")
        if self.keep != "spaced" and not isinstance(self.layers, int):
            raise ValueError(f"keep: {self.keep} is only allowed with layers as a number")
        if self.model is not None and self.model.train is not None:
            raise ValueError(
                "model.train is not allowed here, because the stage trains the student; use the stage's train"
            )
        return self


def build_student(
    config: StudentConfig,
    model: nn.Module,
    *,
    seed: int,
    classes: int | None = None,
    task: TaskName | None = None,
    best: Callable[[int], tuple[list[int], dict[str, int]]] | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the untrained student, and return facts about its initialization.

    Args:
        model: the model to make smaller; unchanged.
        classes: of the task, for a Hugging Face student without a head; None uses the model's.
        task: the task of a Hugging Face student.
        best: returns the best layers and facts about the choice; None (no model may be run) takes the first.

    Raises:
        StageError, ModelError: if the student can't be built from this model.
    """
    from compress.model.cutting.depth import keep_layers_, layer_count

    if config.model is not None:
        return load_student(config.model, model, classes, seed, task).module, {}
    if config.args:
        student = rebuilt(model, config.args, seed)
        return student, {"tensors_from_teacher": initialise_(student, model, "spaced")}
    student, facts = copy.deepcopy(model).eval(), dict[str, Any]()
    if config.layers is None:
        return student, {}
    try:
        total = layer_count(model)
        if not isinstance(config.layers, int):
            kept = list(config.layers)
        elif config.keep != "best":
            kept = layers_to_keep(total, config.layers, config.keep)
        else:
            kept = layers_to_keep(total, config.layers, "first")
            if best is not None:
                kept, facts = best(config.layers)
        keep_layers_(student, kept)
    except (ModelError, ValueError) as error:
        raise StageError(f"student: {error}") from error
    return student, {**facts, "layers_kept": kept, "layers_before": total}


def rebuilt(model: nn.Module, arguments: dict[str, Any], seed: int) -> nn.Module:
    """Build the same kind of model with other arguments and random weights.

    Raises:
        StageError: if the model was not built by modelpress, or has no such arguments.
    """
    from compress.model.files.definition import definition_of

    definition = definition_of(model)
    if definition is None:
        raise StageError(
            "modelpress can't build a student like this model, because it did not build it; load it with "
            "model.file and model.builder"
        )
    try:
        changed = definition.changed(arguments)
        for fewer in _with_lists_cut(model, definition, arguments):
            try:
                return fewer.changed(arguments).build(seed=seed)
            except ModelError:
                continue
        return changed.build(seed=seed)
    except ModelError as error:
        raise StageError(f"student: {error}") from error


def _with_lists_cut(
    model: nn.Module, definition: Definition, arguments: dict[str, Any]
) -> Iterator[Definition]:
    """Definitions with fewer layers, whose per-layer lists are cut to the layers that the student keeps.

    Yields nothing if the student has as many layers as the model.
    """
    from compress.model.cutting.depth import layer_count, shallower

    try:
        total = layer_count(model)
    except ModelError:
        return
    for name, count in arguments.items():
        if definition.args.get(name) == total and type(count) is int and 0 < count < total:
            yield from shallower(definition, name, layers_to_keep(total, count, "spaced"))


def load_student(
    config: ModelConfig,
    model: nn.Module,
    classes: int | None,
    seed: int,
    task: TaskName | None = None,
    scratch: Path | None = None,
) -> LoadedModel:
    """Load another model for a task; a Hugging Face one without a head gets the task's number of classes.

    Args:
        scratch: an existing directory for derived files (the tokenizer of a .gguf file), which the result
            refers to; None uses a temporary one that is gone on return.

    Raises:
        ModelError: if it can't be loaded.
    """
    from compress.model.files.load import load_model

    if scratch is None:
        with scratch_directory("student") as folder:
            return load_student(config, model, classes, seed, task, folder)
    if classes is None:
        classes = getattr(getattr(model, "config", None), "num_labels", None)
    trained_later = config.model_copy(update={"train": TrainConfig()})
    return load_model(trained_later, seed=seed, scratch=scratch, num_labels=classes, task=task)


def initialise_(student: nn.Module, model: nn.Module, keep: LayerKeep) -> str:
    """Copy all tensors with matching name (layers mapped) and shape; return "N of TOTAL".

    Raises:
        StageError: if the student has other layers, and the model's structure doesn't give them; or if
            nothing matches.
    """
    source, target = model.state_dict(), student.state_dict()
    origins = {name: name for name in target}
    if set(source) != set(target):  # with equal names, as of a layer that is called several times, all match
        try:
            origins = _origins(student, model, keep)
        except (ModelError, ValueError) as error:
            raise StageError(f"a student initialized from its teacher: {error}") from error
    copied = 0
    for name, tensor in target.items():
        origin = origins[name]
        if origin in source and source[origin].shape == tensor.shape:
            tensor.copy_(source[origin])
            copied += 1
    if not copied:
        raise StageError(
            "a student initialized from its teacher: no tensor of both has the same name and shape"
        )
    return f"{copied} of {len(target)}"


def _origins(student: nn.Module, model: nn.Module, keep: LayerKeep) -> dict[str, str]:
    """Name in the model of each tensor of the student, which has some of its layers."""
    from compress.model.structure.find import lacking, structure_of

    layers = structure_of(model).layers
    if layers is None:
        raise ModelError(lacking(model, "layers", "layers"))
    total, count = (len(list(each.get_submodule(layers).children())) for each in (model, student))
    chosen = layers_to_keep(total, count, keep)
    pattern = re.compile(rf"^{re.escape(layers)}\.(\d+)\.")
    return {
        name: pattern.sub(lambda found: f"{layers}.{chosen[int(found.group(1))]}.", name)
        for name in student.state_dict()
    }
