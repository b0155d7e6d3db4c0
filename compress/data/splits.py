"""Conversion of a recipe's `data:` section to train, validation and test rows for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compress.data.labels import numbers_of, order_labels
from compress.data.partition import PARTS, Partition
from compress.data.split import Row, Split, Splits
from compress.data.table import Note, Table, counted, listed
from compress.tasks import InputSpec, task_class

if TYPE_CHECKING:
    from compress.data.readers.reader import Reader
    from compress.data.source import DataSource

__all__ = ["assemble", "load_splits", "table_of"]


def load_splits(
    config: DataSource, *, reader: Reader | None = None, label_order: Sequence[str] | None = None
) -> Splits:
    """Read, deduplicate, split and encode the rows of a source; see `DataSource.read`."""
    return config.read(reader, label_order)


def assemble(
    config: DataSource,
    tables: Mapping[str, Table],
    parts: Partition,
    rows: Mapping[str, tuple[Row, ...]],
    inputs: tuple[InputSpec, ...],
    label_order: Sequence[str] | None,
    *,
    texts: Mapping[str, tuple[str, ...]] | None = None,
    notes: tuple[Note, ...] = (),
    reader: Reader,
) -> Splits:
    """Build splits from rows that were read, picked and encoded; labels become numbers.

    Args:
        rows: rows of each split, as picked by `parts`.
        label_order: class names by the model's output index; None lets the data decide.
    """
    train, kind = tables["train"], task_class(config.task)
    present = {name for index in parts.indices["train"] for name in kind.label_names(train.labels[index])}
    absent = [name for name in train.declared if kind.several_labels and name not in present]
    labels, label_notes = order_labels((*present, *absent), label_order, declared=train.declared)
    if absent:
        label_notes += (Note(f"train has no row of {listed(absent)}: the model can't learn them"),)
    number = numbers_of(labels)
    splits = {
        part: Split(
            part,
            rows[part],
            kind.encode_labels([table_of(tables, part).labels[i] for i in parts.indices[part]], number),
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
        reader=reader,
    )


def table_of(tables: Mapping[str, Table], part: str) -> Table:
    """The table that a split's rows come from."""
    return tables.get(part, tables["train"])


def _source(tables: Mapping[str, Table]) -> str:
    """Describe the sources and their rows: `a.csv (90 rows; test drawn from it), b.csv (10 rows)`."""
    drawn = [part for part in PARTS if part not in tables]
    aside = f"; {' and '.join(drawn)} drawn from it" if drawn else ""
    lines = [f"{tables[part].name} ({counted(len(tables[part]), 'row')}" for part in PARTS if part in tables]
    return ", ".join([f"{lines[0]}{aside})", *(f"{line})" for line in lines[1:])])
