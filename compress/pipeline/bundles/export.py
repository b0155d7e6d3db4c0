"""Export a model without compression: a Hugging Face directory or name, a bundle, or a recipe's model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from compress.data import CommandLineText, Reader, Split, Splits
from compress.data.pairs import pair_labels
from compress.data.readers.tokenize import encoder_among
from compress.data.table import listed
from compress.errors import DataError, ModelError
from compress.export import ONNX_PATH, check_answers, described, export_onnx, write_bundle_, write_manifest_
from compress.model import LoadedModel, ModelConfig, load_model
from compress.model.files.load import own_entries, task_of
from compress.pipeline.cache import Cache
from compress.pipeline.exported import exported
from compress.pipeline.fitting import fitting, limit_of, reader_of
from compress.pipeline.output import check_can_be_made, check_room_for, may_replace, weight_bytes
from compress.pipeline.prepare import Run, prepare
from compress.pipeline.stages import decided, trained_model, with_truth
from compress.progress import Progress, Silent
from compress.recipe import Recipe, load_recipe, recipe_of_model
from compress.recipe.config import ExportConfig
from compress.system.disk import new_directory, remove_leftovers, scratch_directory
from compress.tasks import Task, TaskName, task_class
from compress.train.threads import limit_threads_
from compress.version import __version__

__all__ = ["export_model", "model_config_of", "own_recipe"]

_OWN_RECIPE = "recipe.resolved.yaml"
_SYNTHETIC_ROWS = 64
_SYNTHETIC_CORPUS = 8  # rows for a language model, which has one answer per position
_LONGEST_SYNTHETIC = 64  # tokens
_LONGEST = 128  # default for text, in tokens


@dataclass(frozen=True)
class _Source:
    """A model, and the rows to compare it on.

    Attributes:
        longest: tokens to which texts are truncated.
        rows_from: description of the rows for the manifest.
        run: the run, if the rows are a recipe's; None: `rows` are synthetic.
    """

    module: nn.Module
    task: Task
    reader: Reader
    longest: int | None
    rows_from: str
    run: Run | None
    rows: Split


def export_model(
    model: str | Path,
    output: Path,
    *,
    max_length: int | None = None,
    pairs: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Write a bundle of a model without compressing it.

    Args:
        model: a recipe (its model, trained if configured, exported and compared by its `export:` settings), a
            run's bundle (the same with the rows of its own recipe, if they still exist), or a Hugging Face
            directory or name (compared on synthetic rows: random tokens of random length, or random pixels).
        output: the bundle's directory.
        max_length: tokens to which texts are truncated; None: the recipe's value, or 128, or the model's
            limit if that is less.
        pairs: rows are pairs of texts; a recipe, and a bundle of such a model, say so themselves.

    Returns:
        Parity: rows, agreement, metric_difference, max_abs_error, relative_error; and a recipe's limits.

    Raises:
        CompressError: the model cannot be loaded or exported, or its outputs differ.
    """
    progress = progress or Silent()
    remove_leftovers(output.absolute().parent)
    replace = may_replace(output, overwrite)
    if not replace:
        check_can_be_made(output)
    with scratch_directory() as scratch:
        cache = Cache(output.absolute().parent / ".cache", progress.say)
        run = _with_rows(model, scratch, max_length, cache, progress)
        source = _of_run(run) if run is not None else _of_model(model, scratch, max_length, pairs, progress)
        size = weight_bytes(source.module)
        check_room_for(output, output=2 * size, scratch=size)
        progress.say("exporting to ONNX and comparing the outputs with PyTorch's")
        onnx_file, parity = _exported(source, scratch)
        with new_directory(output, replace=replace) as directory:
            write_bundle_(
                directory,
                source.module,
                onnx_file,
                source.task,
                reader=source.reader,
                max_length=source.longest,
            )
            write_manifest_(directory, source.task, _manifest_facts(source, parity))
    return parity


def _manifest_facts(source: _Source, parity: dict[str, float]) -> dict[str, Any]:
    return {
        "modelpress": __version__,
        "max_length": source.longest if source.reader.modality == "text" else None,
        **source.reader.facts(),
        "stages": [],
        **described(source.module, source.task),
        "parity": {**parity, "rows_from": source.rows_from},
    }


def _of_run(run: Run) -> _Source:
    """The model of a recipe, trained if configured."""
    module, _ = trained_model(run)
    run = replace(run, splits=decided(module, with_truth(module, run.splits)))
    longest, splits = run.recipe.data.longest, run.splits
    return _Source(module, splits.task, splits.reader, longest, "validation rows", run, splits.validation)


def _of_model(
    model: str | Path, scratch: Path, max_length: int | None, pairs: bool, progress: Progress
) -> _Source:
    """A model that comes without data."""
    limit_threads_()
    config = model_config_of(model)
    task_name = task_of(config)
    loaded = load_model(config, seed=0, scratch=scratch, task=task_name)
    for note in loaded.notes:
        progress.say(f"note: {note}")
    longest = _longest_text(loaded, max_length, task_name)
    reader = reader_of(loaded)
    if reader is None:
        raise ModelError(
            f"{loaded.source} has neither a tokenizer nor an image processor, so no synthetic rows can be "
            "made to trace it with; give a recipe with this model and its data"
        )
    own = own_entries(config)
    named = pair_labels(loaded.label_order)
    if named and not pairs:
        progress.say(f"note: by its labels ({listed(named)}) the model reads pairs of texts, as with --pairs")
    if pairs or named or own.get("texts") == 2:
        reader = encoder_among(reader, texts=2)
    task, rows = _synthetic(loaded, reader, longest, task_name)
    task = task.with_decision(own)
    rows_from = f"synthetic rows ({reader.made_up}), not real ones"
    return _Source(loaded.module, task, reader, longest, rows_from, None, rows)


def _exported(source: _Source, scratch: Path) -> tuple[Path, dict[str, float]]:
    """Export a model and compare the file, by its recipe's settings or on the synthetic rows."""
    module, task, rows, run = source.module, source.task, source.rows, source.run
    if run is not None:
        made = exported(run.recipe, module, run.splits, scratch / "exported")
        return made.path, made.parity.model_dump()
    longest = None if task.keeps_past else source.longest
    path = scratch / ONNX_PATH.name
    file = export_onnx(module, rows, task, path, longest=longest, check=False)
    return file, check_answers(module, file, rows, task, ExportConfig(), longest=longest).model_dump()


def own_recipe(bundle: Path) -> Recipe | None:
    """The recipe in a run's bundle; None for a bundle of an uncompressed model.

    Raises:
        RecipeError: it cannot be read.
    """
    file = bundle / _OWN_RECIPE
    return load_recipe(file, need_stages=False) if file.is_file() else None


def _with_rows(
    model: str | Path, scratch: Path, max_length: int | None, cache: Cache, progress: Progress
) -> Run | None:
    """A run with real rows, from a recipe or a bundle's own recipe; None if there are none."""
    if str(model).endswith((".yaml", ".yml")):
        recipe = load_recipe(Path(model), need_stages=False)
        return prepare(recipe, scratch, cache=cache, progress=progress)
    config = model_config_of(model)
    own = None if config.bundle is None else own_recipe(config.bundle)
    if own is None:
        return None
    assert config.bundle is not None
    cut = max_length is not None and own.data.longest is not None
    changed = (f"data.max_length={max_length}",) if cut else ()
    recipe = recipe_of_model(config, own.run_name, changed, data=own.data)
    try:
        recipe = recipe.model_copy(update={"export": own.export})
        return prepare(recipe, scratch, cache=cache, progress=progress)
    except DataError as error:
        progress.say(
            f"the rows of the bundle's own recipe cannot be read, so synthetic rows are used: {error}"
        )
        return None


def model_config_of(model: str | Path) -> ModelConfig:
    """ModelConfig of a model named on the command line: a bundle, or a Hugging Face directory or name.

    Raises:
        ModelError: a Python file, which is not sufficient, or a path that cannot be looked up.
    """
    path = Path(model)
    key = "bundle" if (path / "manifest.json").is_file() else "hf"
    if path.suffix == ".py":
        raise ModelError(
            f"{model}: a Python file needs its builder, arguments and data; give a recipe that names them"
        )
    try:
        return ModelConfig.model_validate({key: CommandLineText(model)})
    except RuntimeError as error:  # unknown home directory, as in ~somebody
        raise ModelError(f"{model}: this path cannot be resolved: {error}") from error


def _longest_text(loaded: LoadedModel, wanted: int | None, task: TaskName) -> int:
    """Tokens to which texts are truncated: `wanted`, or else the model's limit, at most 128."""
    limit = limit_of(loaded.module, task)
    if wanted is not None and limit is not None and wanted > limit:
        raise ModelError(
            f"--max-length {wanted:,} exceeds the limit of {loaded.source}: {limit:,} tokens including "
            f"special ones; give {limit} or less"
        )
    usual = loaded.longest or _LONGEST
    return wanted or (usual if limit is None else min(usual, limit))


def _synthetic(
    loaded: LoadedModel, reader: Reader, max_length: int, task_name: TaskName
) -> tuple[Task, Split]:
    """Synthetic rows for the model."""
    kind, longest = task_class(task_name), min(max_length, _LONGEST_SYNTHETIC)
    try:
        if kind.names_tokens:
            rows = encoder_among(reader).random_stream(_SYNTHETIC_CORPUS, longest, seed=0)
        else:
            rows = reader.synthetic(_SYNTHETIC_ROWS, longest, seed=0)
    except DataError as error:
        raise ModelError(f"{loaded.source}: {error}") from error
    task = kind.of_model(rows.inputs, loaded.label_order, reader.vocab_size)
    if not kind.names_tokens:
        labels, label_lengths = task.stand_ins(rows.lengths)
        rows = replace(rows, labels=labels, label_lengths=label_lengths)
    if reader.modality == "text":
        task = fitting(loaded, Splits(task, rows, rows, rows, "random tokens"), max_length).task
    return task, rows
