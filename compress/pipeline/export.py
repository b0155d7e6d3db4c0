"""Export a model without compressing it: a Hugging Face directory or name, a bundle, or a recipe's model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from compress.data import PIXELS, CommandLineText, ImageProcessor, Split, Splits, TextEncoder
from compress.data.readers.synthetic import random_lengths, synthetic_corpus, synthetic_split
from compress.errors import DataError, ModelError, OutputError
from compress.export import (
    ONNX_PATH,
    check_parity,
    export_onnx,
    longest_row,
    proof_lengths,
    write_bundle_,
    write_manifest_,
)
from compress.model import LoadedModel, ModelConfig, load_model
from compress.model.files.load import task_of
from compress.pipeline.cache import Cache
from compress.pipeline.exported import exported
from compress.pipeline.prepare import Prepared, check_can_be_made, encoder_of, fitting, limit_of, prepare
from compress.pipeline.room import check_room_for, weight_bytes
from compress.pipeline.run import trained_model
from compress.progress import Progress, Silent
from compress.recipe import Recipe, load_recipe, recipe_of_model
from compress.recipe.config import ExportConfig
from compress.system.disk import new_directory, remove_leftovers, scratch_directory
from compress.task import Task, TaskName
from compress.train.threads import limit_threads_
from compress.version import __version__

__all__ = ["export_model", "may_replace", "model_config_of", "own_recipe"]

_OWN_RECIPE = "recipe.resolved.yaml"
_WORK = "exporting to ONNX and comparing its answers with PyTorch's"
_SYNTHETIC_ROWS = 64
_SYNTHETIC_CORPUS = 8  # rows for a language model, which answers each position
_LONGEST_SYNTHETIC = 64  # tokens
_LONGEST = 128  # the same of a text, where nobody says more


def export_model(
    model: str | Path,
    output: Path,
    *,
    max_length: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Write a bundle of a model as it is.

    Args:
        model: a recipe (its model, trained if it says so, exported and compared as its `export:` says), or a
            run's bundle (the same with the rows of its own recipe, where they are still there), or a Hugging
            Face directory or name (compared on synthetic rows: random tokens of random length, or random
            pixels).
        output: the bundle's directory.
        max_length: tokens to which texts are cut; None: as the recipe says, else 128, or as many as the model
            takes.

    Returns:
        Parity: rows, agreement, metric_difference, max_abs_error, relative_error; and a recipe's limits.

    Raises:
        CompressError: the model can't be loaded or exported, or its answers differ.
    """
    progress = progress or Silent()
    remove_leftovers(output.absolute().parent)
    replace = may_replace(output, overwrite)
    if not replace:
        check_can_be_made(output)
    with scratch_directory() as scratch:
        prepared = _with_rows(model, scratch, max_length, progress)
        if prepared is not None:
            encoder, task, where = prepared.encoder, prepared.splits.task, "validation rows"
            module, _ = trained_model(
                prepared, Cache(output.absolute().parent / ".cache", progress.say), progress
            )
            processor = prepared.splits.processor
            longest = getattr(prepared.recipe.data, "max_length", _LONGEST)
            _check_room(module, output)
            progress.say(_WORK)
            made = exported(module, prepared, prepared.splits, scratch / "exported")
            onnx_file, parity = made.path, made.parity.model_dump()
        else:
            limit_threads_()
            config = model_config_of(model)
            task_name = task_of(config)
            loaded = load_model(config, seed=0, scratch=scratch, task=task_name)
            module, processor = loaded.module, loaded.processor
            for note in loaded.notes:
                progress.say(f"note: {note}")
            longest = _longest_text(loaded, max_length, task_name)
            if processor is not None:
                where = "synthetic rows (random pixels), not real ones"
                encoder, (task, rows) = None, _synthetic_pictures(loaded, processor)
            else:
                where = "synthetic rows (random tokens), not real ones"
                encoder, task, rows = _synthetic(loaded, longest, task_name)
            _check_room(module, output)
            progress.say(_WORK)
            onnx_file, parity = _exported(module, rows, task, longest, scratch)
        with new_directory(output, replace=replace) as directory:
            write_bundle_(
                directory,
                module,
                onnx_file,
                task,
                encoder=encoder,
                max_length=longest,
                processor=processor,
            )
            write_manifest_(
                directory,
                task,
                {
                    "modelpress": __version__,
                    "max_length": longest if encoder is not None else None,
                    **({} if processor is None else {"image": processor.facts()}),
                    "stages": [],
                    "parity": {**parity, "rows_from": where},
                },
            )
    return parity


def _check_room(module: nn.Module, output: Path) -> None:
    size = weight_bytes(module)
    check_room_for(output, output=2 * size, scratch=size)


def _exported(
    module: nn.Module, rows: Split, task: Task, max_length: int, folder: Path
) -> tuple[Path, dict[str, float]]:
    """Export a model that comes without a recipe, and compare the file on made up rows."""
    limits = ExportConfig()
    longest = longest_row(module, task, None if task.vocabulary else max_length)
    file = export_onnx(module, rows, task, folder / ONNX_PATH.name, longest=longest, check=False)
    parity = check_parity(
        module,
        file,
        rows.take(limits.parity_rows, seed=0),
        task,
        min_agreement=limits.min_agreement,
        max_metric_difference=limits.max_metric_difference,
        lengths=proof_lengths(rows, task, longest, module),
    )
    return file, parity.model_dump()


def own_recipe(bundle: Path) -> Recipe | None:
    """The recipe that a run's bundle holds, or None: the bundle is of a model as it was.

    Raises:
        RecipeError: it can't be read.
    """
    file = bundle / _OWN_RECIPE
    return load_recipe(file, need_stages=False) if file.is_file() else None


def _with_rows(
    model: str | Path, scratch: Path, max_length: int | None, progress: Progress
) -> Prepared | None:
    """A model with real rows: those of a recipe, or of a bundle's own recipe; None: there are none here."""
    if str(model).endswith((".yaml", ".yml")):
        return prepare(load_recipe(Path(model), need_stages=False), scratch)
    config = model_config_of(model)
    own = None if config.bundle is None else own_recipe(config.bundle)
    if own is None:
        return None
    assert config.bundle is not None
    changed = (
        ()
        if max_length is None or not hasattr(own.data, "max_length")
        else (f"data.max_length={max_length}",)
    )
    recipe = recipe_of_model(config, own.run_name, changed, data=own.data)
    try:
        return prepare(recipe.model_copy(update={"export": own.export}), scratch)
    except DataError as error:
        progress.say(f"the rows of the bundle's own recipe can't be read: {error}")
        return None


def may_replace(output: Path, overwrite: bool) -> bool:
    """Say whether something is to be replaced: an empty directory, or with `overwrite` a bundle.

    Raises:
        OutputError: something else is there.
    """
    if not output.exists():
        return False
    if output.is_dir() and not any(output.iterdir()):
        return True
    if not (output / "manifest.json").is_file():
        raise OutputError(
            f"{output} exists and is not a bundle of modelpress: choose another place with -o, or move it"
        )
    if not overwrite:
        raise OutputError(f"{output} exists already; give --overwrite to replace it")
    return True


def model_config_of(model: str | Path) -> ModelConfig:
    """Say what a model is that is named on the command line: a bundle, or a Hugging Face directory or name.

    Raises:
        ModelError: it is a Python file, which says too little, or a path that cannot be looked up.
    """
    path = Path(model)
    key = "bundle" if (path / "manifest.json").is_file() else "hf"
    if path.suffix == ".py":
        raise ModelError(
            f"{model}: a model file needs its builder, arguments and data: give a recipe that names it"
        )
    try:
        return ModelConfig.model_validate({key: CommandLineText(model)})
    except RuntimeError as error:  # of a home directory, as in ~somebody
        raise ModelError(f"{model}: the path cannot be looked up: {error}") from error


def _longest_text(loaded: LoadedModel, wanted: int | None, task: TaskName) -> int:
    """Tokens to which texts are cut: as wanted, or else what the model takes, 128 at most."""
    limit = limit_of(loaded.module, task)
    if wanted is not None and limit is not None and wanted > limit:
        raise ModelError(
            f"--max-length {wanted:,} is more than {loaded.source} takes: at most {limit:,} tokens, special "
            f"ones counted; give {limit} or less"
        )
    return wanted or (_LONGEST if limit is None else min(_LONGEST, limit))


def _synthetic(loaded: LoadedModel, max_length: int, task_name: TaskName) -> tuple[TextEncoder, Task, Split]:
    """Rows of random tokens, for a model that comes without data."""
    if loaded.tokenizer is None:
        raise ModelError(
            f"{loaded.source} reads no text, so rows to trace it with can't be made up: give a recipe with "
            "this model and its data"
        )
    encoder = encoder_of(loaded)
    assert encoder is not None
    if task_name == "language-modelling":
        rows = synthetic_corpus(encoder, _SYNTHETIC_CORPUS, min(max_length, _LONGEST_SYNTHETIC), seed=0)
        task = Task(encoder.inputs, vocabulary=encoder.vocab_size)
        return encoder, fitting(loaded, Splits(task, rows, rows, rows, "random tokens")).task, rows
    task = Task(encoder.inputs, loaded.label_order or ())
    lengths = random_lengths(_SYNTHETIC_ROWS, min(max_length, _LONGEST_SYNTHETIC), seed=0)
    rows = synthetic_split(encoder, lengths, seed=0)
    fitting(loaded, Splits(task, rows, rows, rows, "random tokens"), max_length)
    return encoder, task, rows


def _synthetic_pictures(loaded: LoadedModel, processor: ImageProcessor) -> tuple[Task, Split]:
    """Rows of random pixels, for a model of pictures that comes without data."""
    if processor.result is None:
        raise ModelError(f"{loaded.source} doesn't say how large its pictures are: give a recipe with data")
    shape = (*processor.result, processor.channels)
    draw = np.random.default_rng(0)
    pictures = (draw.integers(0, 256, shape).astype(np.uint8) for _ in range(_SYNTHETIC_ROWS))
    rows = tuple({PIXELS: processor.values(picture)} for picture in pictures)
    inputs = processor.inputs(*processor.result)
    return Task(inputs, loaded.label_order or ()), Split.without_labels("synthetic", rows, inputs)
