"""From the `data:` part of a recipe to train, validation and test rows that a model can be given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from compress.data.config import (
    ArraysData,
    CorpusData,
    DatasetsData,
    DataSource,
    DigitImagesData,
    DigitsData,
    FileData,
    ImagesData,
    StdlibData,
)
from compress.data.labels import numbers_of, order_labels
from compress.data.pairs import check_one_text
from compress.data.partition import PARTS, Partition, distinct_from, partition
from compress.data.readers.image_processor import PIXELS, ImageProcessor
from compress.data.readers.tokenize import TextEncoder
from compress.data.sources.array_files import read_array_files
from compress.data.sources.corpus import load_corpus
from compress.data.sources.digits import DIGITS_INPUTS, read_digits
from compress.data.sources.images import processor_for, read_digit_images, read_image_folders
from compress.data.sources.text import (
    read_datasets,
    read_text_file,
    read_unlabelled_dataset,
    read_unlabelled_file,
)
from compress.data.split import Row, Split, Splits
from compress.data.table import Note, Table, counted
from compress.errors import DataError
from compress.tasks import InputSpec, task_class

__all__ = ["load_splits"]


def load_splits(
    config: DataSource,
    *,
    encoder: TextEncoder | None = None,
    label_order: Sequence[str] | None = None,
    processor: ImageProcessor | None = None,
) -> Splits:
    """Read, deduplicate, split and encode the rows of a source.

    Args:
        config: where the rows are, and how they are split.
        encoder: the model's tokenizer; needed for texts, without meaning for numbers.
        label_order: class names by the model's output index; none: the data decides.
        processor: how the model reads pictures, but for what the config says itself.

    Raises:
        DataError: data that is missing, empty, leaking between splits or mislabelled; texts but no encoder.
    """
    if isinstance(config, DigitsData):
        table, features = read_digits()
        return _split_digits(config, table, features, label_order)
    if isinstance(config, DigitImagesData | ImagesData):
        return _split_images(config, processor_for(config, processor), label_order)
    if isinstance(config, ArraysData):
        return _split_arrays(config, label_order)
    if encoder is None:
        raise DataError(
            "texts need a tokenizer: set model.tokenizer to a directory with tokenizer.json, "
            "or use a model.hf that has one"
        )
    if isinstance(config, CorpusData | StdlibData):
        return load_corpus(config, encoder)
    check_one_text(config, label_order)
    tables = _read_files(config) if isinstance(config, FileData) else read_datasets(config)
    splits = _split_texts(config, tables, encoder, label_order)
    return splits if config.unlabelled is None else _with_unlabelled(config, splits, encoder)


def _read_files(config: FileData) -> dict[str, Table]:
    paths = {"train": config.train, "validation": config.validation, "test": config.test}
    return {
        part: read_text_file(path, text=config.text, label=config.label)
        for part, path in paths.items()
        if path is not None
    }


def _split_digits(
    config: DigitsData, table: Table, features: NDArray[np.float32], label_order: Sequence[str] | None
) -> Splits:
    tables = {"train": table}
    parts = _partition(config, tables)
    rows = {part: tuple({"features": features[i]} for i in picked) for part, picked in parts.indices.items()}
    return _assemble(config, tables, parts, rows, DIGITS_INPUTS, label_order)


def _split_images(
    config: DigitImagesData | ImagesData, processor: ImageProcessor, label_order: Sequence[str] | None
) -> Splits:
    if isinstance(config, ImagesData):
        read = read_image_folders(config, processor)
    else:
        read = {"train": read_digit_images()}
    tables = {part: pictures.table for part, pictures in read.items()}
    parts = _partition(config, tables)
    rows: dict[str, tuple[Row, ...]] = {
        part: tuple({PIXELS: read.get(part, read["train"]).values[i]} for i in picked)
        for part, picked in parts.indices.items()
    }
    _, height, width = read["train"].values.shape[1:]
    notes = tuple(note for pictures in read.values() for note in pictures.notes)
    inputs = processor.inputs(height, width)
    return _assemble(config, tables, parts, rows, inputs, label_order, notes=notes, processor=processor)


def _split_arrays(config: ArraysData, label_order: Sequence[str] | None) -> Splits:
    files = read_array_files(config)
    parts = _partition(config, files.tables)
    rows = {
        part: tuple(files.rows[part if part in files.rows else "train"][index] for index in picked)
        for part, picked in parts.indices.items()
    }
    return _assemble(config, files.tables, parts, rows, files.inputs, label_order)


def _split_texts(
    config: FileData | DatasetsData,
    tables: Mapping[str, Table],
    encoder: TextEncoder,
    label_order: Sequence[str] | None,
) -> Splits:
    parts = _partition(config, tables)
    texts = {part: _texts(_table_of(tables, part), picked) for part, picked in parts.indices.items()}
    rows: dict[str, tuple[Row, ...]] = {}
    notes = tuple(note for table in tables.values() for note in table.notes)
    for part, raw in texts.items():
        rows[part], cut = encoder.encode(raw, max_length=config.max_length)
        notes += _cut_note(part, cut, len(raw), config.max_length)
    return _assemble(config, tables, parts, rows, encoder.inputs, label_order, texts=texts, notes=notes)


def _with_unlabelled(config: FileData | DatasetsData, splits: Splits, encoder: TextEncoder) -> Splits:
    """Add the rows without labels, encoded as the others; rows of validation and test stay out."""
    if isinstance(config, FileData):
        assert config.unlabelled is not None
        table = read_unlabelled_file(config.unlabelled, text=config.text)
    else:
        table = read_unlabelled_dataset(config)
    picked, notes = distinct_from(table, (*splits.validation.texts, *splits.test.texts))
    texts = _texts(table, picked)
    rows, cut = encoder.encode(texts, max_length=config.max_length)
    return replace(
        splits,
        source=f"{splits.source}, {table.name} ({counted(len(table), 'row')} without labels)",
        notes=splits.notes
        + table.notes
        + notes
        + _cut_note("unlabelled", cut, len(texts), config.max_length),
        unlabelled=Split.without_labels("unlabelled", rows, encoder.inputs, texts),
    )


def _cut_note(part: str, cut: int, count: int, max_length: int) -> tuple[Note, ...]:
    line = f"{part}: {cut} of {count} texts cut to {max_length} tokens (max_length)"
    return (Note(line, "cut"),) if cut else ()


def _partition(
    config: DigitsData | DigitImagesData | ImagesData | ArraysData | FileData | DatasetsData,
    tables: Mapping[str, Table],
) -> Partition:
    fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
    return partition(
        tables,
        fractions=fractions,
        task=task_class(config.task),
        train_limit=config.train_limit,
        seed=config.seed,
    )


def _assemble(
    config: DataSource,
    tables: Mapping[str, Table],
    parts: Partition,
    rows: Mapping[str, tuple[Row, ...]],
    inputs: tuple[InputSpec, ...],
    label_order: Sequence[str] | None,
    *,
    texts: Mapping[str, tuple[str, ...]] | None = None,
    notes: tuple[Note, ...] = (),
    processor: ImageProcessor | None = None,
) -> Splits:
    train, kind = tables["train"], task_class(config.task)
    present = {name for index in parts.indices["train"] for name in kind.label_names(train.labels[index])}
    labels, label_notes = order_labels(present, label_order, declared=train.declared)
    number = numbers_of(labels)
    splits = {
        part: Split(
            part,
            rows[part],
            kind.encode_labels([_table_of(tables, part).labels[i] for i in parts.indices[part]], number),
            inputs,
            texts[part] if texts else (),
        )
        for part in PARTS
    }
    return Splits(
        kind(inputs, labels),
        **splits,
        source=_source(tables),
        notes=parts.notes + notes + label_notes,
        processor=processor,
    )


def _table_of(tables: Mapping[str, Table], part: str) -> Table:
    return tables.get(part, tables["train"])


def _texts(table: Table, picked: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(str(table.items[index]) for index in picked)


def _source(tables: Mapping[str, Table]) -> str:
    """Name the sources and their rows: `a.csv (90 rows; test drawn from it), b.csv (10 rows)`."""
    drawn = [part for part in PARTS if part not in tables]
    aside = f"; {' and '.join(drawn)} drawn from it" if drawn else ""
    lines = [f"{tables[part].name} ({counted(len(tables[part]), 'row')}" for part in PARTS if part in tables]
    return ", ".join([f"{lines[0]}{aside})", *(f"{line})" for line in lines[1:])])
