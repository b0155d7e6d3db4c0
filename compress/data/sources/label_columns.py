"""Several labels a row: lists, texts with a separator, or columns of 0 and 1. Rows may have none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError, shortened
from compress.tasks.registry import task_of_labels
from compress.tasks.spec import LabelKind

__all__ = [
    "LABEL_NAMES_KEY",
    "LabelColumns",
    "graded_of_columns",
    "labels_of_columns",
    "labels_of_matrix",
    "numbers_of_column",
    "says_task",
]

LABEL_NAMES_KEY = "label_names"
_YES = frozenset({"1", "1.0", "true"})
_NO = frozenset({"0", "0.0", "false"})


@dataclass(frozen=True)
class LabelColumns:
    """Where the labels of a table are.

    Attributes:
        names: of the columns; with several labels a row, if there are several, each is a label and holds 0 or
            1; with groups, the label and the group.
        kind: what labels a row has.
        separator: of labels in a text.
    """

    names: tuple[str, ...] = ("label",)
    kind: LabelKind = "class"
    separator: str | None = None

    @property
    def several(self) -> bool:
        """Whether a row has any number of labels."""
        return self.kind == "classes"

    @property
    def of_words(self) -> bool:
        """Whether each word of a text has a label."""
        return self.kind == "tags"

    @property
    def declared(self) -> tuple[str, ...]:
        """Names of the labels, where each has its column."""
        return self.names if len(self.names) > 1 and self.kind in ("class", "classes") else ()


def says_task() -> str:
    """How a recipe says that rows have several labels."""
    return f"data.task={task_of_labels('classes')}"


def labels_of_columns(
    labels: LabelColumns,
    values: Sequence[Sequence[Any]],
    name_of: Callable[[Any, str], str],
    places: Sequence[str],
) -> tuple[tuple[str, ...], ...]:
    """Sorted names of each row's labels.

    Args:
        values: of each column.
        name_of: the name of one label, or the empty one; takes the value and where it is.
        places: where each row is, for errors.

    Raises:
        DataError: a value that is no label, or neither 0 nor 1.
    """
    if labels.declared:
        columns = list(zip(labels.names, values, strict=True))
        return tuple(
            tuple(sorted(name for name, column in columns if _holds(column[row], name, place)))
            for row, place in enumerate(places)
        )
    return tuple(
        tuple(sorted({name_of(each, place) for each in _cell(value, labels, place)} - {""}))
        for value, place in zip(values[0], places, strict=True)
    )


def labels_of_matrix(
    where: str, values: NDArray[Any], names: Iterable[object] | None
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Names of each row's labels, and those of all columns of a matrix of 0 and 1, [n, c].

    Raises:
        DataError: it is no such matrix, or has another number of names.
    """
    if values.ndim != 2 or values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise DataError(
            f"{where}: labels must be 0 and 1 [rows, labels], not {values.dtype} {list(values.shape)} with "
            "other values; for one label per row omit data.task"
        )
    known = tuple(map(str, range(values.shape[1]) if names is None else names))
    if len(known) != values.shape[1] or len(set(known)) != len(known):
        raise DataError(
            f"{where}: {LABEL_NAMES_KEY} must have {values.shape[1]} different names, one per column"
        )
    rows = tuple(tuple(sorted(known[at] for at in np.flatnonzero(row))) for row in values)
    return rows, known


def numbers_of_column(where: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Labels that are numbers, [n].

    Raises:
        DataError: they are not, or one is not finite.
    """
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise DataError(f"{where}: labels must be numbers [n], not {values.dtype} {list(values.shape)}")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise DataError(f"{where}: label {values[wrong[0]]} of row {wrong[0]} is not a finite number")
    return values.astype(np.float64)


def graded_of_columns(
    where: str, values: NDArray[Any], groups: NDArray[Any]
) -> tuple[tuple[float, str], ...]:
    """Relevance and group of each row.

    Args:
        values: relevances, [n].
        groups: numbers or names, [n].

    Raises:
        DataError: a relevance is no finite number of 0 or more, or groups are not one a row.
    """
    relevances = numbers_of_column(where, values)
    if relevances.size and relevances.min() < 0:
        raise DataError(f"{where}: label {relevances.min()} is negative; a relevance must be 0 or more")
    if groups.shape != values.shape or groups.dtype.kind not in "iuU":
        raise DataError(
            f"{where}: groups are {groups.dtype} {list(groups.shape)}; they must be whole numbers or names, "
            f"one for each of {len(relevances)} rows"
        )
    return tuple(zip(relevances.tolist(), map(str, groups.tolist()), strict=True))


def _cell(value: Any, labels: LabelColumns, place: str) -> Sequence[Any]:
    """The labels in a cell."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ()
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, str) and labels.separator is not None:
        return value.split(labels.separator)
    if isinstance(value, str) and not value.strip():
        return ()
    raise DataError(
        f"{place}: column '{labels.names[0]}' contains {shortened(repr(value))}, which is not a list; set "
        "the separator of labels with data.label_separator=',', or name one column of 0 and 1 per label "
        "with data.label=[NAME,NAME]"
    )


def _holds(value: Any, name: str, place: str) -> bool:
    text = str(value).strip().lower()
    if text not in _YES | _NO:
        raise DataError(
            f"{place}: column '{name}' contains {shortened(repr(value))}; allowed in a column per label "
            "(data.label): 0, 1, true, false"
        )
    return text in _YES
