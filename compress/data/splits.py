"""Train, validation and test rows of a task, and how sources assemble them from tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compress.data.labels import numbers_of, order_labels
from compress.data.partition import PARTS, Partition
from compress.data.readers.reader import NumbersReader, Reader
from compress.data.split import Row, Split, with_placed_labels
from compress.data.table import Note, Table, Text, counted, listed
from compress.tasks import InputSpec, Integers, Task

__all__ = ["Splits", "assemble", "table_of"]


@dataclass(frozen=True)
class Splits:
    """Train, validation and test rows of one task; no row occurs in two of them.

    Attributes:
        task: inputs and labels.
        source: description of the rows' origin, for people.
        notes: what was dropped or decided, a line each (duplicates, truncated texts, label mapping).
        unlabelled: additional rows without labels, none of which occurs in validation or test; None if not
            given.
        reader: the reader that encoded the rows.
    """

    task: Task
    train: Split
    validation: Split
    test: Split
    source: str
    notes: tuple[Note, ...] = ()
    unlabelled: Split | None = None
    reader: Reader = field(default_factory=NumbersReader)

    def fingerprint(self) -> str:
        """SHA-256 over the three splits, label names, padding, and the reader's settings."""
        splits = (self.train, self.validation, self.test)
        sizes = [each.label_bytes for each in splits]
        parts = (
            [each.fingerprint() for each in splits],
            [None if each is None else each.tolist() for each in sizes],
            self.task.facts(),
            self.reader.settings(),
        )
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def assemble(
    kind: type[Task],
    tables: Mapping[str, Table],
    parts: Partition,
    rows: Mapping[str, tuple[Row, ...]],
    inputs: tuple[InputSpec, ...],
    label_order: Sequence[str] | None,
    *,
    texts: Mapping[str, tuple[Text, ...]] | None = None,
    places: Mapping[str, Integers] | None = None,
    notes: tuple[Note, ...] = (),
    reader: Reader,
) -> Splits:
    """Build splits from rows that were read, picked and encoded; labels become numbers.

    Args:
        rows: rows of each split, as picked by `parts`.
        label_order: class names by the model's output index; None lets the data decide.
        places: of rows of words, the position that has the label of each, as in `placed_labels`.
    """
    train = tables["train"]
    present = {name for index in parts.indices["train"] for name in kind.label_names(train.labels[index])}
    if not kind.has_classes():
        label_order = ()
    absent = [name for name in train.declared if kind.label_kind == "classes" and name not in present]
    labels, label_notes = order_labels((*present, *absent), label_order, declared=train.declared)
    if absent:
        label_notes += (Note(f"train has no row of {listed(absent)}: the model can't learn them"),)
    number = numbers_of(labels, (*present, *absent))

    def split(part: str) -> Split:
        found = kind.encode_labels([table_of(tables, part).labels[i] for i in parts.indices[part]], number)
        made = Split(part, rows[part], found, inputs, texts[part] if texts else ())
        return with_placed_labels(made, found, places[part]) if places else made

    splits = {part: split(part) for part in PARTS}
    return Splits(
        kind(inputs, labels).fitted(splits["train"].labels),
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
