"""Compatibility of model and rows: kind of rows, tokenizer, lengths, output shapes, and timed settings."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from compress.data import PIXELS, DataSource, Reader, Split, Splits, TextEncoder
from compress.data.pairs import column_names
from compress.data.sources.text_rows import TextRows
from compress.errors import ModelError, Problem, StageError, first_line
from compress.export import proof_rows
from compress.measure.rows import resolve_sequence, steady_batch
from compress.model import LoadedModel, logits, to_tensors
from compress.model.decoder_cache import cache_layers, context_length
from compress.model.limits import token_limit
from compress.recipe import Recipe
from compress.system.cores import available_cores
from compress.tasks import TaskName, task_class
from compress.timing import Setting

__all__ = [
    "check_modality",
    "check_setting",
    "fitting",
    "limit_of",
    "reader_of",
    "start_head_",
    "timing_setting",
    "within_limit",
]


def check_modality(loaded: LoadedModel, data: DataSource) -> None:
    """Check that images have an image model, texts a text model and pairs of texts a model of pairs.

    Called before any row is read.

    Raises:
        ModelError: they do not match.
    """
    parameters = inspect.signature(loaded.module.forward).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    sees = PIXELS in parameters or (takes_all and not {"input_ids", "features"} & parameters.keys())
    if data.modality == "image" and not sees:
        raise ModelError(
            f"{loaded.source} does not read images (inputs: {', '.join(list(parameters)[:3]) or 'none'}); "
            f"data.source {data.source} needs a model whose forward takes {PIXELS}"
        )
    if data.modality == "text" and PIXELS in parameters and "input_ids" not in parameters:
        raise ModelError(
            f"{loaded.source} reads images ({PIXELS}), but data.source {data.source} provides texts; give "
            "folders of images: data.source=images data.train=DIR"
        )
    if isinstance(data, TextRows) and loaded.texts is not None and data.texts_of_a_row < loaded.texts:
        raise ModelError(
            Problem(
                f"{loaded.source} reads pairs of texts (texts: {loaded.texts} in its manifest.json), but "
                f"data.text names one column, '{data.text_columns[0]}'; name both in the order in which the "
                f"model was trained, data.text=[FIRST,SECOND] (columns: {', '.join(column_names(data))})",
                key="data.text",
                value=data.text_columns[0],
                see="how-to/text-pairs",
            )
        )


def within_limit(loaded: LoadedModel, data: DataSource) -> DataSource:
    """The data with a `max_length` within the model's limit; by default the model's own, or the limit.

    Raises:
        ModelError: the recipe's value exceeds the limit.
    """
    wanted, limit = data.longest, limit_of(loaded.module, data.task)
    asked = "max_length" in data.model_fields_set
    if wanted is not None and loaded.longest is not None and not asked:
        wanted = loaded.longest
        data = data.model_copy(update={"max_length": wanted})
    if wanted is None or limit is None or wanted <= limit:
        return data
    if asked:
        raise ModelError(
            f"data.max_length: {wanted:,} exceeds the limit of {loaded.source}: {limit:,} tokens including "
            f"special ones; give data.max_length={limit} or less"
        )
    return data.model_copy(update={"max_length": limit})


def limit_of(module: nn.Module, task: TaskName) -> int | None:
    """Maximum tokens per row; None if the model does not define it."""
    return context_length(module) if task_class(task).keeps_past else token_limit(module)


def reader_of(loaded: LoadedModel) -> Reader | None:
    """Reader from the model's own files; None if they define none.

    Raises:
        ModelError, DataError: it belongs to another model, or cannot be read.
    """
    if loaded.tokenizer is None:
        return loaded.processor
    encoder = TextEncoder.from_directory(loaded.tokenizer, input_names=loaded.text_inputs)
    _tokenizer_belongs(loaded, encoder)
    return encoder


def _tokenizer_belongs(loaded: LoadedModel, encoder: TextEncoder) -> None:
    rows = _table_rows(loaded.module)
    vocabulary = encoder.tokenizer.get_vocab(with_added_tokens=True)
    if rows is not None and encoder.vocab_size > rows:
        token = max(vocabulary, key=vocabulary.__getitem__)
        raise ModelError(
            f"the tokenizer in {loaded.tokenizer} gives {token!r} the id {vocabulary[token]:,}, but the "
            f"model's table of tokens has only {rows:,} rows; give the tokenizer of this model"
        )


def _table_rows(module: nn.Module) -> int | None:
    """Rows of the token embedding: that which the model names, or else the largest; None: there is none."""
    # By attribute, not class: the embedding of a quantized bundle is not an nn.Embedding.
    try:
        named = getattr(module.get_input_embeddings(), "num_embeddings", None)  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        named = None
    if isinstance(named, int):
        return named
    sizes = (getattr(each, "num_embeddings", None) for each in module.modules())
    return max((size for size in sizes if isinstance(size, int)), default=None)


def fitting(loaded: LoadedModel, splits: Splits, max_length: int | None = None) -> Splits:
    """Run the longest rows through the model and check input names, shapes, positions and number of classes.

    Args:
        max_length: longest text allowed, in tokens; one is made up, unless rows are truncated anyway.

    Returns:
        The splits, with the task adapted to the model's output width.

    Raises:
        ModelError: they do not fit, or a decoder has no key-value cache.
    """
    rows, length = _longest(splits)
    batch = next(rows.batches(len(rows)))
    try:
        with torch.no_grad():
            answer = logits(loaded.module.eval(), to_tensors(batch, splits.task.input_names))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{loaded.source} fails on the data's rows ({', '.join(splits.task.input_names)}; "
            f"{splits.reader.longest_words(splits.task.inputs, length)}): {type(error).__name__}: "
            f"{first_line(error)}"
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


def _takes(loaded: LoadedModel, splits: Splits, length: int) -> None:
    """Check that a model accepts a text of N tokens, which can occur once it is deployed."""
    row = proof_rows(splits.train, splits.task, [length])
    try:
        with torch.no_grad():
            logits(loaded.module, to_tensors(next(row.batches(1)), splits.task.input_names))
    except Exception as error:
        raise ModelError(
            f"data.max_length: {loaded.source} fails on a text of {length} tokens, the maximum: "
            f"{type(error).__name__}: {first_line(error)}; give a smaller data.max_length (--max-length)"
        ) from error


def _causal(loaded: LoadedModel, splits: Splits) -> None:
    """Check that no output depends on later tokens.

    Raises:
        ModelError: one does, as in an encoder.
    """
    inputs = to_tensors(next(splits.train.batches(1)), splits.task.input_names)
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, -1] = (other["input_ids"][:, -1] + 1) % splits.task.classes
    with torch.no_grad():
        first, second = (logits(loaded.module, each)[:, :-1] for each in (inputs, other))
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
        raise ModelError(
            f"{loaded.source} is not causal: its outputs depend on later tokens, as in an encoder; a "
            "language model needs a decoder (is_decoder in config.json)"
        )


def start_head_(module: nn.Module, outputs: int, answers: tuple[float, float] | None) -> None:
    """Let the answers of a new head begin with a mean and spread; unchanged if its last layer has no bias.

    Args:
        answers: as `Task.first_answers`.
    """
    heads = [
        each for each in module.modules() if isinstance(each, nn.Linear) and each.out_features == outputs
    ]
    if answers is None or not heads or heads[-1].bias is None:
        return
    center, spread = answers
    with torch.no_grad():
        heads[-1].weight *= spread
        heads[-1].bias.fill_(center)


def _longest(splits: Splits) -> tuple[Split, int]:
    """The longest row of each split as a batch, and the length of the longest."""
    parts = [splits.train, splits.validation, splits.test]
    parts += [] if splits.unlabelled is None else [splits.unlabelled]
    name = splits.task.input_names[0]
    rows = [max(part.rows, key=lambda row: row[name].shape[0]) for part in parts]
    labels = np.zeros((len(rows), *splits.train.labels.shape[1:]), np.int64)
    split = Split("longest", tuple(rows), labels, splits.task.inputs)
    return split, max(row[name].shape[0] for row in rows)


def timing_setting(
    recipe: Recipe, splits: Splits, batch: int | None, sequence: int | None, threads: int | None
) -> Setting:
    """Complete a stage's setting with the first of each value that the recipe measures.

    Raises:
        MeasureError: the data has another fixed length.
        StageError: more threads than there are cores.
    """
    measured = recipe.measure
    wanted = sequence if sequence is not None else (measured.sequence or (None,))[0]
    # Only the lengths of test rows are used, so that targets apply to the setting that is measured.
    setting = Setting(
        batch=batch or measured.batch[0],
        sequence=resolve_sequence(splits.test, wanted),
        threads=threads or measured.threads[0],
    )
    if setting.threads > available_cores():
        raise StageError(
            f"threads: {setting.threads} cannot be timed here; this process may use {available_cores()} cores"
        )
    return setting


def check_setting(module: nn.Module, splits: Splits, setting: Setting) -> None:
    """Check that the model accepts a batch of this size.

    Raises:
        StageError: it does not.
    """
    batch = steady_batch(splits.validation, setting.batch, setting.sequence)
    try:
        with torch.no_grad():
            logits(module.eval(), to_tensors(batch, splits.task.input_names))
    except Exception as error:
        raise StageError(f"the model fails at {setting}: {first_line(error)}") from error
