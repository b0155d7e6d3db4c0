from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import compress.data
from compress.data import from_arrays
from compress.errors import DataError
from compress.tasks import InputSpec


def _columns(start: int = 0, **changes: Any) -> dict[str, Any]:
    ids = np.arange(start, start + 8).reshape(4, 2)
    columns = {"input_ids": ids, "labels": np.array([0, 1, 0, 1])} | changes
    return {name: value for name, value in columns.items() if value is not None}


def test_arrays_become_splits_with_inputs_and_labels_read_off_train() -> None:
    splits = from_arrays(_columns(), _columns(100), _columns(200), source="mine")
    assert splits.task.inputs == (InputSpec("input_ids", "int64", ("sequence_length",)),)
    assert splits.task.labels == ("0", "1")
    assert splits.validation.rows[1]["input_ids"].tolist() == [102, 103]
    assert splits.test.labels.tolist() == [0, 1, 0, 1]
    assert splits.source == "mine"


def test_absent_test_is_a_split_without_rows() -> None:
    splits = from_arrays(_columns(), _columns(100))
    assert (splits.test.name, len(splits.test), list(splits.test.batches(4))) == ("test", 0, [])
    assert splits.test.inputs == splits.task.inputs


@pytest.mark.parametrize(
    ("column", "shape", "dtype"),
    [
        (np.zeros((4, 3), bool), ("sequence_length",), "int64"),
        (np.zeros((4, 3), np.float64), (3,), "float32"),
        (np.zeros((4, 3, 5)), ("sequence_length", 5), "float32"),
        (np.zeros((4, 1, 2, 2)), (1, 2, 2), "float32"),
        ([np.zeros((n, 5)) for n in (1, 2, 3, 4)], ("sequence_length", 5), "float32"),
        ([[1], [1, 2], [1, 2, 3], [4]], ("sequence_length",), "int64"),
    ],
)
def test_shape_and_type_follow_from_the_array(column: Any, shape: tuple[int | str, ...], dtype: str) -> None:
    ids = np.arange(4).reshape(4, 1)
    inputs = [InputSpec("id", "int64", (1,))]
    train = {"x": column, "labels": [0, 1, 0, 1]}
    with pytest.raises(DataError, match="4 of 4 rows .*train"):
        from_arrays(train, train)
    validation = {"x": [np.asarray(column[0]) + 7], "labels": [0]}
    if isinstance(column, np.ndarray) and column.dtype == bool:
        validation = {"x": [np.array([7, 7])], "labels": [0]}
    (spec,) = from_arrays(train, validation).task.inputs
    assert (spec.shape, spec.dtype) == (shape, dtype)
    assert spec.pad_value == 0
    assert from_arrays({"id": ids, "labels": [0, 1, 0, 1]}, {"id": ids[:1] + 9, "labels": [0]}, inputs=inputs)


def test_given_inputs_say_the_pad_value_and_lists_may_be_ragged() -> None:
    spec = InputSpec("input_ids", "int64", ("sequence_length",), 5)
    ragged = {"input_ids": [[1], [1, 2]], "labels": [0, 1]}
    splits = from_arrays(ragged, {"input_ids": [[8]], "labels": [1]}, labels=["no", "yes"], inputs=[spec])
    (batch,) = splits.train.batches(2)
    assert batch["input_ids"].tolist() == [[1, 5], [1, 2]]
    assert splits.task.labels == ("no", "yes")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (_columns(labels=None), "train: no 'labels'; allowed: input_ids"),
        (_columns(labels=np.array([0.0, 1.0])), "regression"),
        (_columns(labels=np.zeros(0, int)), "train: has no rows"),
        (_columns(labels=[0, 0, 0, 0]), "train: .*label"),
        (_columns(labels=[0, 1, -1, 1]), "train: label -1 is outside 0..1"),
        (_columns(input_ids=None), "train: .*besides 'labels'"),
        (_columns(input_ids=[]), "train: input 'input_ids' has no rows"),
        (_columns(input_ids=np.array([["a"]] * 4)), "<U1"),
        (_columns(input_ids=np.arange(4)), r"'input_ids'.*\[n, s"),
        (_columns(input_ids=np.arange(6).reshape(3, 2)), "has 3 rows, but there are 4 labels"),
        (
            _columns(input_ids=[[1.0], [np.nan], [2.0], [3.0]]),
            "row 1 .*'input_ids'",
        ),
        (
            _columns(input_ids=[[1], [], [2], [3]]),
            "row 1 of input 'input_ids' is empty",
        ),
        (_columns(row_index=np.zeros((4, 1))), "'row_index'"),
        (
            _columns(mask=np.ones((4, 3), int)),
            "train: row 0: sequence_length is 2 in 'input_ids' and 3 in 'mask'; give `inputs`",
        ),
    ],
)
def test_broken_train_arrays_are_refused(train: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_arrays(train, _columns(100))


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (_columns(100, labels=[0, 1, 2, 1]), r"validation: label 2 .*train"),
        (_columns(100, input_ids=None), "validation: no input 'input_ids'"),
        (
            _columns(100, input_id=np.ones((4, 2))),
            "'input_id'.*'input_ids'",
        ),
        (
            _columns(100, input_ids=np.ones((4, 2))),
            "row 0 .*'input_ids'.*float64.*int64",
        ),
        (
            _columns(100, input_ids=np.ones((4, 2, 2), int)),
            r"\[2.*2\].*\[sequence_length\]",
        ),
        (_columns(6), r"validation: 1 of 4 rows .*train.*row 0"),
    ],
)
def test_validation_arrays_that_do_not_fit_train_are_refused(
    validation: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        from_arrays(_columns(), validation)


def test_public_names_are_sorted_and_exist() -> None:
    names = compress.data.__all__
    assert names == sorted(names)
    assert all(hasattr(compress.data, name) for name in names)
