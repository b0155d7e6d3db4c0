"""Everything that can be found wrong before work starts: files, data, model, stages, the output directory."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from compress.data import (
    PIXELS,
    ArraysData,
    CorpusData,
    DataSource,
    DigitImagesData,
    DigitsData,
    FileData,
    ImagesData,
    Split,
    Splits,
    StdlibData,
    TextEncoder,
    load_splits,
)
from compress.data.pairs import one_text_notes
from compress.data.sources.corpus import with_end_token
from compress.data.sources.text import what_is_there
from compress.data.words import unknown_token_notes
from compress.errors import DataError, MeasureError, ModelError, OutputError, RecipeError, StageError
from compress.export import HUB_FILES, check_branches, proof_rows, sha256_of
from compress.keys import base_key, run_key, stage_key
from compress.measure import check_runtimes
from compress.measure.process.noise import usable_threads
from compress.measure.rows import resolve_sequence
from compress.model import LoadedModel, ModelConfig, load_model, logits, structure_of, to_tensors
from compress.model.decoder_cache import cache_layers, context_length
from compress.model.files.computed_weights import computed_weights
from compress.model.files.definition import definition_of
from compress.model.limits import token_limit
from compress.pipeline.timer import check_point, machine_facts, timing_point
from compress.recipe import Recipe
from compress.stage import Context, Stage
from compress.system.cores import available_cores
from compress.system.files import read_json
from compress.tasks import TASKS, TaskName, task_class
from compress.train.threads import limit_threads_

__all__ = [
    "Prepared",
    "check_can_be_made",
    "check_files",
    "check_output",
    "encoder_of",
    "files_named",
    "fitting",
    "gates_are_measured",
    "limit_of",
    "prepare",
    "within_limit",
]


@dataclass(frozen=True)
class Prepared:
    """A recipe whose data and model are loaded and fit together.

    Attributes:
        base_key: fingerprint of the model after its own training.
        stage_keys: fingerprint of the model after each stage; the last one is the run's.
        notes: what a reader must know of the model and its rows before trusting a figure, a sentence each.
    """

    recipe: Recipe
    splits: Splits
    loaded: LoadedModel
    encoder: TextEncoder | None
    base_key: str
    stage_keys: tuple[str, ...]
    run_key: str
    notes: tuple[str, ...] = ()


def prepare(recipe: Recipe, scratch: Path) -> Prepared:
    """Load data and model, and see that they and the stages fit together; only scratch is written to.

    Raises:
        CompressError: of the kind that names what is wrong.
    """
    check_files(recipe)
    limit_threads_()
    trained = recipe.model.train is not None
    loaded = load_model(
        recipe.model, seed=recipe.seed, scratch=scratch, task=recipe.data.task, for_training=trained
    )
    _kinds_match(loaded, recipe.data)
    recipe = recipe.model_copy(update={"data": within_limit(loaded, recipe.data)})
    encoder = encoder_of(loaded)
    if encoder is not None and isinstance(recipe.data, CorpusData | StdlibData):
        encoder = with_end_token(encoder, recipe.data)
    splits = load_splits(
        recipe.data, encoder=encoder, label_order=loaded.label_order, processor=loaded.processor
    )
    if not loaded.has_trained_head:  # a fresh head is as wide as the data has labels
        loaded = load_model(
            recipe.model,
            seed=recipe.seed,
            scratch=scratch,
            num_labels=len(splits.task.labels),
            task=recipe.data.task,
            for_training=trained,
        )
    if callable(getattr(loaded.module, "structure", None)):
        structure_of(loaded.module)  # wrong, it would be as if it weren't there to some of what follows
    splits = fitting(loaded, splits, getattr(recipe.data, "max_length", None))
    gates_are_measured(recipe, splits)
    definition, shape = definition_of(loaded.module), loaded.module
    assert definition is not None
    if computed_weights(shape):  # what stages will be given is plain
        shape = definition.build()
    if recipe.model.file is not None:  # those of transformers have no branches, and bundles were exported
        _check_branches(shape, splits, recipe)
    context = Context(
        splits.task,
        splits.train,
        splits.validation,
        unlabelled=splits.unlabelled,
        teacher=shape,
        encoder=encoder,
    )
    for stage in recipe.stages:
        try:
            if stage.is_timed:
                asked = (getattr(stage, name, None) for name in ("batch", "sequence", "threads"))
                check_point(shape, splits, timing_point(recipe, splits, *asked))
            stage.check(shape, context)
            shape = _rehearsed(stage, shape, splits, recipe)
        except (StageError, ModelError, MeasureError) as error:
            raise RecipeError(f"{recipe.path or recipe.run_name}: {error}") from error
    base = base_key(
        loaded.module,
        splits,
        train=_plain(recipe.model.train),
        seed=recipe.seed,
        device=recipe.device,
        tokenizer=None if encoder is None else encoder.tokenizer.to_str(),
    )
    export, measure = _plain(recipe.export), _plain(recipe.measure)
    keys: list[str] = []
    for index, stage in enumerate(recipe.stages):
        settings = _plain(stage)
        keys.append(
            stage_key(
                keys[-1] if keys else base,
                base,
                (stage.name, settings),
                files=files_named(settings),
                seed=recipe.seed,
                unlabelled=splits.unlabelled,
                later=_later_facts(recipe, index) if stage.sees_later else None,
                timed=[machine_facts(), recipe.export.opset, _plain(recipe.measure, "runtimes", "ladder")]
                if stage.is_timed
                else None,
            )
        )
    run = run_key(
        keys[-1] if keys else base,
        export=export,
        measure=measure,
        machine=machine_facts(),
        shipped=[] if encoder is None else _shipped(encoder),
    )
    notes = (*loaded.notes, *one_text_notes(recipe.data), *unknown_token_notes(splits.test, encoder))
    return Prepared(recipe, splits, loaded, encoder, base, tuple(keys), run, notes)


def _plain(settings: BaseModel | None, *without: str) -> Any:
    return None if settings is None else settings.model_dump(mode="json", exclude=set(without))


def _shipped(encoder: TextEncoder) -> list[Path]:
    """Files beside a tokenizer that are copied into the bundle."""
    return [path for name in HUB_FILES if (path := encoder.directory / name).is_file()]


def _rehearsed(stage: Stage, module: nn.Module, splits: Splits, recipe: Recipe) -> nn.Module:
    """What a stage makes of a module, as far as that is known; a student of other code is looked at, too."""
    made = stage.rehearse(module)
    longest, limit = getattr(recipe.data, "max_length", None), limit_of(made, recipe.data.task)
    if longest is not None and limit is not None and longest > limit:
        raise StageError(
            f"{stage.name}: what it makes takes {limit:,} tokens at most, special ones counted, and texts "
            f"have {longest:,} (data.max_length): give data.max_length={limit} or less"
        )
    before, after = definition_of(module), definition_of(made)
    if after is not None and after.kind == "file" and after != before:
        _check_branches(made, splits, recipe)
    return made


def _check_branches(module: nn.Module, splits: Splits, recipe: Recipe) -> None:
    longest = getattr(recipe.data, "max_length", None)
    check_branches(module, splits.train, splits.task, opset=recipe.export.opset, longest=longest)


def files_named(settings: Any) -> list[tuple[str, str]]:
    """Files that a stage's settings name by their whole path, such as a student's: each with its SHA-256.

    Of a directory all files below it.
    """
    if isinstance(settings, dict | list):
        inner = settings.values() if isinstance(settings, dict) else settings
        return [found for each in inner for found in files_named(each)]
    if not isinstance(settings, str) or not os.path.isabs(settings):
        return []
    path = Path(settings)
    below = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(str(each), sha256_of(each)) for each in below if each.is_file()]


def gates_are_measured(recipe: Recipe, splits: Splits) -> None:
    """See that the recipe measures where its gates judge speed, and what they judge.

    Raises:
        RecipeError: it doesn't.
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


def _later_facts(recipe: Recipe, index: int) -> list[object]:
    return [(stage.name, stage.model_dump(mode="json")) for stage in recipe.stages[index + 1 :]]


def check_files(recipe: Recipe) -> None:
    """See that files, device and runtimes that a recipe names are there: what costs nothing to know.

    Raises:
        ModelError, DataError, RecipeError: one of them is not.
    """
    _files_exist(recipe.model, recipe.data)
    _device_exists(recipe.device)
    check_runtimes(recipe.measure.runtimes)


def check_output(target: Path, run_key: str, *, overwrite: bool) -> bool:
    """Say whether the run is in `target` already, whole and the same.

    Raises:
        OutputError: something else is there.
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
    """See that a directory can be made there.

    Raises:
        OutputError: it cannot.
    """
    there = next(parent for parent in target.absolute().parents if parent.exists())
    if not there.is_dir():
        raise OutputError(f"cannot write {target}: {there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {target}: {there} is read-only for this user")


def _files_exist(model: ModelConfig, data: DataSource) -> None:
    wrong = "" if model.file is None else what_is_there(model.file)
    if wrong:
        raise ModelError(f"model.file: {model.file} {wrong}; give the Python file that builds the model")
    if model.bundle is not None and not model.bundle.is_dir():
        what = "is not a directory" if model.bundle.exists() else "does not exist"
        raise ModelError(f"model.bundle: {model.bundle} {what}; give a directory that modelpress wrote")
    if isinstance(data, FileData | ArraysData):
        for name in ("train", "validation", "test", "unlabelled"):
            path = getattr(data, name, None)
            wrong = "" if path is None else what_is_there(path)
            if path is not None and wrong:
                others = _sources_of_directory(path) if path.is_dir() else ""
                raise DataError(f"data.{name}: {path} {wrong}; give yours with data.{name}=FILE{others}")
    if isinstance(data, ImagesData):
        for name in ("train", "validation", "test"):
            path = getattr(data, name)
            if path is not None and not path.is_dir():
                what = "is no folder" if path.exists() else "does not exist"
                raise DataError(f"data.{name}: {path} {what}; give yours with data.{name}=DIR")
    if isinstance(data, CorpusData):
        for name in ("train", "validation", "test"):
            path = getattr(data, name)
            wrong = "" if path is None or path.is_dir() else what_is_there(path)
            if wrong:
                raise DataError(f"data.{name}: {path} {wrong}; give yours with data.{name}=FILE or DIR")


def _sources_of_directory(path: Path) -> str:
    """Name the data sources that read a directory, the likely one alone where its files show which."""
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        return f", or read it with data.source=datasets data.name={path}"
    return "; data.source=images (a folder a class), datasets (save_to_disk) and corpus read directories"


def _kinds_match(loaded: LoadedModel, data: DataSource) -> None:
    """See that pictures go to a model that sees, and texts to one that reads: before a row is read.

    Raises:
        ModelError: they don't.
    """
    parameters = inspect.signature(loaded.module.forward).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    sees = PIXELS in parameters or (takes_all and not {"input_ids", "features"} & parameters.keys())
    pictures = isinstance(data, ImagesData | DigitImagesData)
    texts = not isinstance(data, ImagesData | DigitImagesData | DigitsData | ArraysData)
    if pictures and not sees:
        raise ModelError(
            f"{loaded.source} reads {', '.join(list(parameters)[:3]) or 'nothing'}, no pictures; data.source "
            f"{data.source} needs a model whose forward takes {PIXELS}"
        )
    if texts and PIXELS in parameters and "input_ids" not in parameters:
        raise ModelError(
            f"{loaded.source} reads pictures ({PIXELS}), but data.source {data.source} has texts; give "
            "folders of pictures: data.source=images data.train=DIR"
        )


def within_limit(loaded: LoadedModel, data: DataSource) -> DataSource:
    """The data with a `max_length` that the model takes: as many tokens as it can, if the recipe says none.

    Raises:
        ModelError: the recipe asks for more.
    """
    wanted, limit = getattr(data, "max_length", None), limit_of(loaded.module, data.task)
    if wanted is None or limit is None or wanted <= limit:
        return data
    if "max_length" in data.model_fields_set:
        raise ModelError(
            f"data.max_length: {wanted:,} is more than {loaded.source} takes: at most {limit:,} tokens, "
            f"special ones counted; give data.max_length={limit} or less"
        )
    return data.model_copy(update={"max_length": limit})


def limit_of(module: nn.Module, task: TaskName) -> int | None:
    """How many tokens a row may have; None: the model doesn't say."""
    return context_length(module) if task_class(task).keeps_past else token_limit(module)


def _device_exists(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RecipeError(
            f"device: {device} was asked for, but torch finds no CUDA device here; use device=cpu"
        )


def encoder_of(loaded: LoadedModel) -> TextEncoder | None:
    """The tokenizer of a model that reads texts; none of another.

    Raises:
        ModelError, DataError: it belongs to another model, or can't be read.
    """
    if loaded.tokenizer is None:
        return None
    encoder = TextEncoder.from_directory(loaded.tokenizer, input_names=loaded.text_inputs)
    _tokenizer_belongs(loaded, encoder.vocab_size)
    return encoder


def _tokenizer_belongs(loaded: LoadedModel, vocab_size: int) -> None:
    # By attribute, not class: the table of a quantized bundle is no nn.Embedding.
    sizes = (getattr(module, "num_embeddings", None) for module in loaded.module.modules())
    largest = max((size for size in sizes if isinstance(size, int)), default=vocab_size)
    if vocab_size > largest:
        raise ModelError(
            f"the tokenizer in {loaded.tokenizer} has {vocab_size} tokens, but the model's largest embedding "
            f"has {largest}: it belongs to another model"
        )


def fitting(loaded: LoadedModel, splits: Splits, max_length: int | None = None) -> Splits:
    """Answer the longest rows: input names, shapes, positions and the number of classes must fit.

    Args:
        max_length: tokens of the longest text there may be: one is made up, unless rows are cut to it anyway.

    Returns:
        The splits, whose task is as wide as the model answers.

    Raises:
        ModelError: they don't fit, or a decoder keeps no keys and values.
    """
    rows, length = _longest(splits)
    batch = next(rows.batches(len(rows)))
    try:
        with torch.inference_mode():
            answer = logits(loaded.module.eval(), to_tensors(batch, splits.task.input_names))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{loaded.source} cannot answer the data's rows ({', '.join(splits.task.input_names)}; "
            f"{_longest_words(splits, length)}): {type(error).__name__}: {_first_line(error)}"
        ) from error
    task = splits.task
    if max_length is not None and not task.keeps_past:
        _takes(loaded, splits, max_length)
    wrong = task.misfit(answer.shape, len(rows), length)
    if wrong is not None:
        raise ModelError(f"{loaded.source} answers {wrong}")
    if task.keeps_past:
        cache_layers(loaded.module)
        _causal(loaded, splits)
    return replace(splits, task=task.widened(answer.shape))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _longest_words(splits: Splits, length: int) -> str:
    shape = splits.task.inputs[0].shape
    if splits.processor is None:
        return f"the longest has {length} positions"
    return f"pictures of {shape[2]}x{shape[1]} in {shape[0]} channels; data.size and data.channels set that"


def _takes(loaded: LoadedModel, splits: Splits, length: int) -> None:
    """See that a model answers a text of so many tokens: one may come once it is deployed."""
    row = proof_rows(splits.train, splits.task, [length])
    try:
        with torch.inference_mode():
            logits(loaded.module, to_tensors(next(row.batches(1)), splits.task.input_names))
    except Exception as error:
        raise ModelError(
            f"{loaded.source} cannot answer a text of {length} tokens, to which longer ones are cut: "
            f"{type(error).__name__}: {_first_line(error)}; give a smaller data.max_length (--max-length)"
        ) from error


def _causal(loaded: LoadedModel, splits: Splits) -> None:
    """Check that no answer depends on the tokens that follow.

    Raises:
        ModelError: one does, as an encoder's.
    """
    inputs = to_tensors(next(splits.train.batches(1)), splits.task.input_names)
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, -1] = (other["input_ids"][:, -1] + 1) % splits.task.classes
    with torch.inference_mode():
        first, second = (logits(loaded.module, each)[:, :-1] for each in (inputs, other))
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
        raise ModelError(
            f"{loaded.source} sees the tokens that it is to predict: its answers change with those that "
            "follow, as an encoder's do; a language model needs a decoder (is_decoder of config.json)"
        )


def _longest(splits: Splits) -> tuple[Split, int]:
    """Take the longest row of each split as a batch; also say how long the longest is."""
    parts = [splits.train, splits.validation, splits.test]
    parts += [] if splits.unlabelled is None else [splits.unlabelled]
    name = splits.task.input_names[0]
    rows = [max(part.rows, key=lambda row: row[name].shape[0]) for part in parts]
    labels = np.zeros((len(rows), *splits.train.labels.shape[1:]), np.int64)
    split = Split("longest", tuple(rows), labels, splits.task.inputs)
    return split, max(row[name].shape[0] for row in rows)
