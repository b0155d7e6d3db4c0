"""Rows of numbers from .npz files: any inputs of a model, by name.

Shapes: n = rows.
"""

from __future__ import annotations

import zipfile
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.data.paths import RecipePath
from compress.data.readers.reader import Reader, reader_of_numbers
from compress.data.source import DataSource
from compress.data.sources.arrays import derived_inputs, group_column, rows_of
from compress.data.sources.label_columns import (
    LABEL_NAMES_KEY,
    graded_of_columns,
    labels_of_matrix,
    numbers_of_column,
    says_task,
)
from compress.data.split import Row
from compress.data.splits import Splits, assemble
from compress.data.table import Label, Table
from compress.errors import DataError, did_you_mean
from compress.tasks import LABELS_KEY, InputSpec
from compress.tasks.registry import task_of_labels
from compress.tasks.spec import LabelKind

__all__ = ["ArrayFiles", "ArraysData", "read_array_files"]

Columns = dict[str, NDArray[Any]]


class ArraysData(DataSource):
    """The user's arrays in .npz files (numpy.savez): the model's inputs by name, and "labels".

    Input types and shapes are inferred from train, as in `compress.from_arrays`. Labels are class indices or
    names [n]; for several labels per row 0 and 1 [n, labels], with "label_names" as optional names; for a
    task of numbers, numbers [n]; for candidates of a query, relevances [n]. A split without its own file is
    drawn from train, stratified by label and seeded.

    Attributes:
        train: the .npz file of training rows.
        validation: that of validation rows; None: drawn from train.
        test: that of test rows; None: drawn from train.
        fixed: whether all rows have one shape, which the exported file then requires; for modules that take
            one length only.
        group: name of the array [n] that says which rows are candidates of one query: numbers or names.
    """

    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("class", "classes", "number", "graded")
    column: ClassVar[str] = "array"

    source: Literal["arrays"] = "arrays"
    train: RecipePath
    validation: RecipePath | None = None
    test: RecipePath | None = None
    fixed: bool = False
    group: str | None = Field(default=None, min_length=1)

    def read(self, reader: Reader | None, label_order: Sequence[str] | None) -> Splits:
        """See `DataSource.read`."""
        files = read_array_files(self)
        parts = self.divided(files.tables)
        rows = {
            part: tuple(files.rows[part if part in files.rows else "train"][index] for index in picked)
            for part, picked in parts.indices.items()
        }
        return assemble(
            self.kind, files.tables, parts, rows, files.inputs, label_order, reader=reader_of_numbers(reader)
        )


@dataclass(frozen=True)
class ArrayFiles:
    """Contents of the files.

    Attributes:
        tables: train, and validation and test if given: labels, and rows as bytes.
        rows: the rows themselves, by the same names.
        inputs: input specifications, inferred from train.
    """

    tables: Mapping[str, Table]
    rows: Mapping[str, tuple[Row, ...]]
    inputs: tuple[InputSpec, ...]


def read_array_files(config: ArraysData) -> ArrayFiles:
    """Read the files and check that they are consistent.

    Raises:
        DataError: if one can't be read or has no labels, or its inputs differ from those of train.
    """
    given = {"train": config.train, "validation": config.validation, "test": config.test}
    paths = {part: path for part, path in given.items() if path is not None}
    columns = {part: _read(path) for part, path in paths.items()}
    read = {part: _labels(path, columns[part], config) for part, path in paths.items()}
    labels = {part: found for part, (found, _) in read.items()}
    inputs = derived_inputs(str(paths["train"]), columns["train"], fixed=config.fixed)
    rows = {
        part: rows_of(str(path), columns[part], inputs, len(labels[part])) for part, path in paths.items()
    }
    tables = {
        part: Table(
            name=path.name,
            where=str(path),
            # Keys include the shapes, because lengths may differ between files; and the query, because its
            # candidates may have the features of another's.
            items=tuple(
                _key(row, inputs, config.kind.group_of(label))
                for row, label in zip(rows[part], labels[part], strict=True)
            ),
            labels=labels[part],
            declared=read[part][1],
        )
        for part, path in paths.items()
    }
    return ArrayFiles(tables, rows, inputs)


def _read(path: Path) -> Columns:
    try:
        with path.open("rb") as file:
            opened = np.load(file, allow_pickle=False)
            if isinstance(opened, np.ndarray):
                raise DataError(f"{path}: contains one unnamed array; write it with numpy.savez")
            with opened:
                return {name: opened[name] for name in opened.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error) and zipfile.is_zipfile(path):
            raise DataError(
                f"{path}: one of its arrays contains objects, not numbers; pad rows to one length, and give "
                "a mask as another input"
            ) from error
        raise DataError(f"{path}: is not an .npz file as written by numpy.savez: {error}") from error


def _labels(path: Path, columns: Columns, config: ArraysData) -> tuple[tuple[Label, ...], tuple[str, ...]]:
    """The label of each row, and the names of all where each has a column."""
    if LABELS_KEY not in columns:
        raise DataError(f"{path}: no '{LABELS_KEY}'{did_you_mean(LABELS_KEY, columns)}")
    values, kind = columns[LABELS_KEY], config.kind.label_kind
    if not values.size:
        raise DataError(f"{path}: has no rows")
    if config.group is not None:
        groups = group_column(str(path), columns, config.group)
        del columns[config.group]
        return graded_of_columns(str(path), values, groups), ()
    if kind == "number":
        return tuple(numbers_of_column(str(path), values).tolist()), ()
    if kind == "classes":
        names = columns.pop(LABEL_NAMES_KEY, None)
        return labels_of_matrix(str(path), values, names)
    if values.ndim == 1 and values.dtype.kind == "f":
        raise DataError(
            f"{path}: labels are {values.dtype}: to learn numbers set "
            f"data.task={task_of_labels('number')}; for classification give class indices or names"
        )
    if values.ndim == 2:
        raise DataError(
            f"{path}: labels are {list(values.shape)}, several per row; for one column of 0 and 1 per label "
            f"set {says_task()}"
        )
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: labels must be class indices or names [n], not {values.dtype} {list(values.shape)}"
        )
    if values.dtype.kind == "i" and values.min() < 0:
        raise DataError(f"{path}: label {values.min()} is negative; class indices start at 0")
    return tuple(str(value) for value in values), ()


def _key(row: Row, inputs: tuple[InputSpec, ...], group: Hashable) -> bytes:
    whose = b"" if group is None else repr(group).encode()
    return whose + b"".join(repr(row[spec.name].shape).encode() + row[spec.name].tobytes() for spec in inputs)
