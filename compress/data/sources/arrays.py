"""Splits from a user's own arrays, for models that take neither digits nor texts.

Shapes: n = rows, s = the row's own length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.data.sources.label_columns import graded_of_columns, labels_of_matrix, numbers_of_column
from compress.data.split import Array, Row, Split
from compress.data.splits import Splits
from compress.errors import DataError, did_you_mean
from compress.tasks import LABELS_KEY, ROW_INDEX_KEY, InputSpec, task_class
from compress.tasks.registry import task_of_labels
from compress.tasks.spec import TaskName

__all__ = ["derived_inputs", "from_arrays", "group_column", "rows_of"]

Columns = Mapping[str, Any]


def from_arrays(
    train: Columns,
    validation: Columns,
    test: Columns | None = None,
    *,
    labels: Sequence[str] | None = None,
    inputs: Sequence[InputSpec] | None = None,
    fixed: bool = False,
    group: str | None = None,
    source: str = "arrays",
) -> Splits:
    """Make splits from arrays; nothing is dropped or sampled.

    Each mapping holds the model's inputs by the argument names of its forward, and under "labels" class
    indices [n], 0 and 1 [n, labels] for several labels per row (the task is multi-label then), or floats [n]
    (regression). An input is an array [n, s, ...] or a list of n arrays [s, ...].

    Input types and shapes are inferred from train unless `inputs` gives them: integers and booleans become
    int64, floats float32. A row's first dimension is dynamic, named "sequence_length" and padded with 0, for
    lists, integers (token ids, masks) and floats [n, s, f]; it is fixed for floats [n, f] (a feature vector)
    and floats of four or more dimensions (images). All further dimensions are fixed. In the task, inputs with
    a dynamic length come first, because they determine the length of a batch. With `fixed`, all dimensions
    are those of the first row, for modules that take one length only.

    Args:
        train: rows for training.
        validation: rows for model selection.
        test: rows for the final evaluation; None gives an empty test split.
        labels: class names by index; None uses "0", "1" and so on, up to the highest index or column.
        inputs: input specifications, to set other pad values or dimensions.
        fixed: whether all rows have one shape, which the exported file then requires.
        group: name of the array [n] that says which rows are candidates of one query, numbers or names;
            labels are relevances then (the task is reranking).
        source: description of the rows' origin, for people.

    Raises:
        DataError: if an input or label is missing, has another shape or type, or is not finite, or a row
            occurs in two splits.
    """
    given = {"train": train, "validation": validation} | ({} if test is None else {"test": test})
    groups = {} if group is None else {part: group_column(part, given[part], group) for part in given}
    given = {part: {name: each for name, each in given[part].items() if name != group} for part in given}
    kind, names, indices = _labels(given, labels, groups)
    specs = tuple(inputs) if inputs is not None else derived_inputs("train", given["train"], fixed=fixed)
    rows = {part: rows_of(part, columns, specs, len(indices[part])) for part, columns in given.items()}
    _check_leaks(rows, specs, groups)
    splits = {part: Split(part, rows[part], indices[part], specs) for part in given}
    no_test = Split("test", (), indices["train"][:0], specs)
    task = task_class(kind)(specs, names).fitted(indices["train"])
    return Splits(task, splits["train"], splits["validation"], splits.get("test", no_test), source)


def group_column(part: str, columns: Columns, group: str) -> NDArray[Any]:
    """The array of groups.

    Raises:
        DataError: there is none of this name.
    """
    if group not in columns:
        raise DataError(f"{part}: no array '{group}' with each row's query{did_you_mean(group, columns)}")
    return np.asarray(columns[group])


def _labels(
    given: Mapping[str, Columns], labels: Sequence[str] | None, groups: Mapping[str, NDArray[Any]]
) -> tuple[TaskName, tuple[str, ...], dict[str, NDArray[Any]]]:
    """The task that the labels are of, the names of its classes, and the labels of each split."""
    columns_of_labels = [np.asarray(columns.get(LABELS_KEY, ())) for columns in given.values()]
    several = all(each.ndim == 2 for each in columns_of_labels)
    numbers = all(each.ndim == 1 and each.size and each.dtype.kind == "f" for each in columns_of_labels)
    if groups:
        kind = task_of_labels("graded")
        return kind, (), {part: _graded(part, given[part], groups[part], kind) for part in given}
    read = _label_matrix if several else _numbers if numbers else _class_indices
    indices: dict[str, NDArray[Any]] = {part: read(part, columns) for part, columns in given.items()}
    if several:
        return task_of_labels("classes"), _column_names(indices, labels), indices
    if numbers:
        return task_of_labels("number"), (), indices
    return task_of_labels("class"), _label_names(indices, labels), indices


def _graded(part: str, columns: Columns, groups: NDArray[Any], kind: TaskName) -> NDArray[Any]:
    found = graded_of_columns(part, _label_column(part, columns), groups)
    if part == "train" and len({group for _, group in found}) == len(set(found)):
        raise DataError(
            f"{part}: in each group, all candidates are as relevant, so there is no order to learn"
        )
    return task_class(kind).encode_labels(found, {})


def _label_column(part: str, columns: Columns) -> NDArray[Any]:
    if LABELS_KEY not in columns:
        raise DataError(f"{part}: no '{LABELS_KEY}'{did_you_mean(LABELS_KEY, columns)}")
    values = np.asarray(columns[LABELS_KEY])
    if not values.size:
        raise DataError(f"{part}: has no rows")
    return values


def _numbers(part: str, columns: Columns) -> NDArray[np.float64]:
    values = numbers_of_column(part, np.asarray(columns[LABELS_KEY]))
    if len(set(values.tolist())) < 2 and part == "train":
        raise DataError("train: all rows have the same label; at least two different numbers must occur")
    return values


def _label_matrix(part: str, columns: Columns) -> NDArray[np.int64]:
    values = np.asarray(columns[LABELS_KEY])
    rows, _ = labels_of_matrix(part, values, None)
    if not rows:
        raise DataError(f"{part}: has no rows")
    return values.astype(np.int64)


def _column_names(indices: Mapping[str, NDArray[np.int64]], labels: Sequence[str] | None) -> tuple[str, ...]:
    widths = {part: values.shape[1] for part, values in indices.items()}
    names = tuple(map(str, range(widths["train"]))) if labels is None else tuple(labels)
    for part, width in widths.items():
        if width != len(names):
            raise DataError(f"{part}: labels have {width} columns, but there are {len(names)} label names")
    return names


def _class_indices(part: str, columns: Columns) -> NDArray[np.int64]:
    values = _label_column(part, columns)
    if values.ndim == 1 and values.dtype.kind == "f":
        raise DataError(
            f"{part}: labels are {values.dtype}, as for regression, but not in all splits; give floats in "
            "all splits, or class indices"
        )
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{part}: labels must be whole numbers [n], not {values.dtype} {list(values.shape)}")
    return values.astype(np.int64)


def derived_inputs(where: str, train: Columns, *, fixed: bool = False) -> tuple[InputSpec, ...]:
    """Infer input specifications from train, as described in `from_arrays`.

    Args:
        where: name of the rows, for messages.
        fixed: whether no dimension is dynamic.

    Raises:
        DataError: if there is no input, or one is not valid.
    """
    specs = []
    for name, column in train.items():
        if name == LABELS_KEY:
            continue
        ragged = isinstance(column, list | tuple)
        rows = [np.asarray(row) for row in column]
        if not rows:
            raise DataError(f"{where}: input '{name}' has no rows")
        if name == ROW_INDEX_KEY:
            raise DataError(f"{where}: '{name}' is reserved for batches; rename the input")
        kinds = {row.dtype.kind for row in rows if row.size}  # numpy treats an empty list as floats
        if not kinds <= set("biuf"):
            raise DataError(f"{where}: input '{name}' is {rows[0].dtype}; allowed: whole numbers and floats")
        dtype: Literal["int64", "float32"] = "float32" if "f" in kinds else "int64"
        shape = rows[0].shape
        if not shape:
            raise DataError(
                f"{where}: rows of input '{name}' have no dimension; it must be an array [n, s, ...]"
            )
        dynamic = not fixed and (ragged or dtype == "int64" or len(shape) == 2)
        specs.append(InputSpec(name, dtype, ("sequence_length", *shape[1:]) if dynamic else shape))
    if not specs:
        raise DataError(f"{where}: has no input besides '{LABELS_KEY}'")
    return tuple(sorted(specs, key=lambda spec: isinstance(spec.shape[0], int)))


def rows_of(part: str, columns: Columns, specs: tuple[InputSpec, ...], count: int) -> tuple[Row, ...]:
    """Check columns against the input specifications, and convert them to rows.

    Args:
        part: name of the columns, for messages.
        count: number of labels.

    Raises:
        DataError: if an input is missing, unknown, or of another shape, type or count, or a value is not
            finite.
    """
    names = {spec.name for spec in specs}
    for name in columns:
        if name not in names | {LABELS_KEY}:
            raise DataError(f"{part}: the task has no input '{name}'{did_you_mean(name, names)}")
    arrays: dict[str, list[Array]] = {}
    for spec in specs:
        if spec.name not in columns:
            raise DataError(f"{part}: no input '{spec.name}'{did_you_mean(spec.name, columns)}")
        column = columns[spec.name]
        if len(column) != count:
            raise DataError(
                f"{part}: input '{spec.name}' has {len(column)} rows, but there are {count} labels"
            )
        arrays[spec.name] = [_row(part, index, spec, row) for index, row in enumerate(column)]
    rows = tuple({name: column[index] for name, column in arrays.items()} for index in range(count))
    for index, row in enumerate(rows):
        _check_shared_dimensions(part, index, row, specs)
    return rows


def _row(part: str, index: int, spec: InputSpec, value: Any) -> Array:
    row = np.asarray(value)
    where = f"{part}: row {index} of input '{spec.name}'"
    if not row.size:
        raise DataError(f"{where} is empty")
    if row.dtype.kind not in ("biuf" if spec.dtype == "float32" else "biu"):
        raise DataError(f"{where} is {row.dtype}, not {spec.dtype}")
    fits = len(row.shape) == len(spec.shape) and all(
        isinstance(want, str) or want == have for want, have in zip(spec.shape, row.shape, strict=True)
    )
    if not fits:
        raise DataError(f"{where} has shape {list(row.shape)}, not [{', '.join(map(str, spec.shape))}]")
    if not np.isfinite(row).all():
        raise DataError(f"{where} contains a value that is not finite")
    return np.ascontiguousarray(row, dtype=spec.dtype)


def _check_shared_dimensions(part: str, index: int, row: Row, specs: tuple[InputSpec, ...]) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for spec in specs:
        for name, size in zip(spec.shape, row[spec.name].shape, strict=True):
            if isinstance(name, int):
                continue
            first, owner = sizes.setdefault(name, (size, spec.name))
            if first != size:
                raise DataError(
                    f"{part}: row {index}: {name} is {first} in '{owner}' and {size} in '{spec.name}'; "
                    "give `inputs` with different dimension names if these are different dimensions"
                )


def _label_names(indices: Mapping[str, NDArray[np.int64]], labels: Sequence[str] | None) -> tuple[str, ...]:
    if len(set(indices["train"].tolist())) < 2:
        raise DataError("train: all rows have the same label; at least two labels must occur")
    highest = max(int(values.max()) for values in indices.values())
    names = tuple(labels) if labels is not None else tuple(str(index) for index in range(highest + 1))
    for part, values in indices.items():
        if values.min() < 0 or values.max() >= len(names):
            wrong = int(values.min() if values.min() < 0 else values.max())
            raise DataError(f"{part}: label {wrong} is outside 0..{len(names) - 1}")
        unseen = sorted(set(values.tolist()) - set(indices["train"].tolist()))
        if unseen:
            raise DataError(f"{part}: label {unseen[0]} ('{names[unseen[0]]}') does not occur in train")
    return names


def _check_leaks(
    rows: Mapping[str, tuple[Row, ...]], specs: tuple[InputSpec, ...], groups: Mapping[str, NDArray[Any]]
) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for part, part_rows in rows.items():
        keys = [tuple((row[s.name].shape, row[s.name].tobytes()) for s in specs) for row in part_rows]
        if groups:  # candidates of one query may have the features of another's
            keys = [(group, *key) for group, key in zip(groups[part].tolist(), keys, strict=True)]
        leaks = [(index, seen[key]) for index, key in enumerate(keys) if key in seen]
        if leaks:
            index, earlier = leaks[0]
            raise DataError(
                f"{part}: {len(leaks)} of {len(keys)} rows also occur in {earlier} (row {index}). Accuracy "
                f"measured on them would be too high; remove them from {earlier}"
            )
        seen |= dict.fromkeys(keys, part)
