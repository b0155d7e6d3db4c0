"""Preparation of a run: check the recipe, load model and rows, rehearse the stages, compute the keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from compress.data import Splits, load_splits
from compress.errors import MeasureError, ModelError, RecipeError, StageError
from compress.export import check_branches
from compress.model import LoadedModel, load_model, structure_of
from compress.model.files.computed_weights import is_plain
from compress.model.files.definition import definition_of
from compress.pipeline.cache import Cache
from compress.pipeline.fitting import (
    check_modality,
    check_setting,
    fitting,
    limit_of,
    reader_of,
    start_head_,
    timing_setting,
    within_limit,
)
from compress.pipeline.requirements import check_files, check_gates
from compress.pipeline.run_keys import Keys
from compress.progress import Progress, Silent
from compress.recipe import Recipe
from compress.recovery import check_recovery
from compress.stage import Context, Stage
from compress.train.threads import limit_threads_

__all__ = ["Run", "prepare"]


@dataclass(frozen=True)
class Run:
    """A prepared recipe, with its loaded model and rows, and the places its work goes to.

    Attributes:
        splits: the rows, with the reader that encoded them.
        notes: caveats on the model and its rows for the report, one sentence each.
        scratch: an existing directory that is removed afterwards.
    """

    recipe: Recipe
    loaded: LoadedModel
    splits: Splits
    keys: Keys
    notes: tuple[str, ...]
    scratch: Path
    cache: Cache
    progress: Progress


def prepare(
    recipe: Recipe, scratch: Path, *, cache: Cache | None = None, progress: Progress | None = None
) -> Run:
    """Check a recipe, load model and rows, and rehearse the stages; writes only to scratch.

    Args:
        cache: cache of finished pieces; None: in scratch.

    Raises:
        CompressError: the subclass depends on the problem.
    """
    check_files(recipe)
    limit_threads_()
    recipe, loaded, splits = _loaded(recipe, scratch)
    check_gates(recipe, splits)
    _rehearse(recipe, loaded, splits)
    notes = (*loaded.notes, *recipe.data.notes(), *splits.reader.doubts(splits.test))
    keys = Keys.of(recipe, loaded.module, splits)
    cache = cache or Cache(scratch / "cache")
    return Run(recipe, loaded, splits, keys, notes, scratch, cache, progress or Silent())


def _loaded(recipe: Recipe, scratch: Path) -> tuple[Recipe, LoadedModel, Splits]:
    """Model and rows, and the recipe with a row length that the model accepts."""
    model, trained = recipe.model, recipe.model.train is not None
    loaded = load_model(model, seed=recipe.seed, scratch=scratch, task=recipe.data.task, for_training=trained)
    check_modality(loaded, recipe.data)
    data = within_limit(loaded, recipe.data)
    splits = load_splits(data, reader=reader_of(loaded), label_order=loaded.label_order)
    if not loaded.has_trained_head:  # a new head has as many outputs as the data has labels
        outputs = splits.task.classes
        loaded = load_model(
            model,
            seed=recipe.seed,
            scratch=scratch,
            num_labels=outputs,
            task=recipe.data.task,
            for_training=trained,
        )
        start_head_(loaded.module, outputs, splits.task.first_answers)
    if callable(getattr(loaded.module, "structure", None)):
        structure_of(loaded.module)  # an invalid structure would be ignored by some of the code below
    return recipe.model_copy(update={"data": data}), loaded, fitting(loaded, splits, data.longest)


def _rehearse(recipe: Recipe, loaded: LoadedModel, splits: Splits) -> None:
    """Let each stage check its input, by shapes alone.

    Raises:
        RecipeError: a stage cannot be applied.
        ModelError: the recipe's model branches on the size of rows.
    """
    definition, shape = definition_of(loaded.module), loaded.module
    assert definition is not None
    if not is_plain(shape):  # stages receive plain weights
        shape = definition.build()
    if recipe.model.file is not None:  # transformers' models have no branches, bundles were exported
        _check_branches(shape, splits, recipe)
    context = Context(
        splits.task,
        splits.train,
        splits.validation,
        unlabelled=splits.unlabelled,
        teacher=shape,
        reader=splits.reader,
    )
    for stage in recipe.stages:
        try:
            if stage.is_timed:
                asked = (getattr(stage, name, None) for name in ("batch", "sequence", "threads"))
                check_setting(shape, splits, timing_setting(recipe, splits, *asked))
            stage.check(shape, context)
            check_recovery(stage, context)
            shape = _rehearsed(stage, shape, splits, recipe)
        except (StageError, ModelError, MeasureError) as error:
            raise RecipeError(f"{recipe.path or recipe.run_name}: {error}") from error


def _rehearsed(stage: Stage, module: nn.Module, splits: Splits, recipe: Recipe) -> nn.Module:
    """The result of a stage as far as known; a student built by other code is checked as well."""
    made = stage.rehearse(module)
    longest, limit = recipe.data.longest, limit_of(made, recipe.data.task)
    if longest is not None and limit is not None and longest > limit:
        raise StageError(
            f"{stage.name}: the resulting model takes {limit:,} tokens at most, including special ones, but "
            f"data.max_length is {longest:,}; give data.max_length={limit} or less"
        )
    before, after = definition_of(module), definition_of(made)
    if after is not None and after.kind == "file" and after != before:
        _check_branches(made, splits, recipe)
    return made


def _check_branches(module: nn.Module, splits: Splits, recipe: Recipe) -> None:
    check_branches(module, splits.train, splits.task, opset=recipe.export.opset, longest=recipe.data.longest)
