"""Rows of numbers from .npz files, as a recipe names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from compress.data import ArraysData, from_arrays, load_splits
from compress.errors import DataError
from compress.pipeline.requirements import check_files
from compress.recipe import load_recipe


def _columns(count: int = 40, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {
        "about": draw.normal(size=(count, 3)),
        "input_ids": draw.integers(1, 50, size=(count, 6)),
        "labels": np.arange(count) % 2,
    }


def _file(path: Path, **columns: Any) -> Path:
    np.savez(path, **columns)
    return path


def test_fixed_rows_have_no_open_dimension(tmp_path: Path) -> None:
    file = _file(tmp_path / "rows.npz", **_columns())
    inputs = load_splits(_config(file, fixed=True)).task.inputs
    assert {each.name: each.shape for each in inputs} == {"about": (3,), "input_ids": (6,)}
    longer = _columns(8, 1) | {"input_ids": np.ones((8, 7), np.int64)}
    with pytest.raises(DataError, match=r"input_ids.* \[7\], not \[6\]"):
        load_splits(_config(file, validation=_file(tmp_path / "more.npz", **longer), fixed=True))


def _config(train: Path, **rest: Any) -> ArraysData:
    return ArraysData.model_validate({"train": train, **rest}, context={"base": train.parent})


def test_inputs_come_by_name_and_splits_are_drawn_where_there_are_none(tmp_path: Path) -> None:
    columns = _columns()
    splits = load_splits(_config(_file(tmp_path / "rows.npz", **columns)))
    # What has a dynamic length comes first, since a batch is as long as it is.
    assert [(each.name, each.dtype, each.shape) for each in splits.task.inputs] == [
        ("input_ids", "int64", ("sequence_length",)),
        ("about", "float32", (3,)),
    ]
    assert splits.task.labels == ("0", "1")
    assert [len(each) for each in (splits.train, splits.validation, splits.test)] == [28, 4, 8]
    whole = {
        row["input_ids"].tobytes()
        for part in (splits.train, splits.validation, splits.test)
        for row in part.rows
    }
    assert whole == {row.tobytes() for row in columns["input_ids"]}
    assert splits.source == "rows.npz (40 rows; validation and test drawn from it)"


def test_files_of_their_own_may_be_of_another_length_and_labels_may_be_names(tmp_path: Path) -> None:
    names = np.array(["no", "yes"])
    train, test = _columns(), _columns(10, seed=1)
    test["input_ids"] = test["input_ids"][:, :4]
    for each in (train, test):
        each["labels"] = names[each["labels"]]
    splits = load_splits(
        _config(_file(tmp_path / "a.npz", **train), test=str(_file(tmp_path / "b.npz", **test)))
    )
    assert splits.task.labels == ("no", "yes")
    assert splits.test.rows[0]["input_ids"].shape == (4,) and splits.test.labels.tolist() == [0, 1] * 5


def test_a_repeated_row_is_dropped_and_a_leak_refused_whatever_the_type(tmp_path: Path) -> None:
    columns = _columns()
    repeated = {name: np.concatenate([each, each[:2]]) for name, each in columns.items()}
    path = _file(tmp_path / "rows.npz", **repeated)
    (note,) = load_splits(_config(path)).notes
    assert note.kind == "dropped" and note.startswith("rows.npz: 2 rows")
    leaking = {
        name: each[:4].astype("float32") if name == "about" else each[:4] for name, each in columns.items()
    }
    with pytest.raises(DataError, match=r"test\.npz: 4 of 4 test rows .*train"):
        load_splits(_config(path, test=str(_file(tmp_path / "test.npz", **leaking))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, r"rows\.npz: no 'labels'"),
        ({"labels": np.arange(40) / 2}, "float64"),
        ({"labels": np.arange(40) - 1}, "label -1"),
        ({"labels": np.zeros(40, int)}, r"rows\.npz: all rows have the label '0'"),
        ({"labels": np.arange(39) % 2}, r"rows\.npz: input 'input_ids' has 40 rows, but there are 39 labels"),
        ({"about": np.full((40, 3), np.nan)}, r"rows\.npz: row 0 .*'about'"),
        ({"about": np.array(["x"] * 40)}, r"rows\.npz.*'about'.*<U1"),
        (
            {"about": np.array([[1], [1, 2]] * 20, dtype=object)},
            "objects.*mask",
        ),
        ({"about": None, "input_ids": None}, r"rows\.npz.*'labels'"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    columns = {name: each for name, each in (_columns() | change).items() if each is not None}
    with pytest.raises(DataError, match=message):
        load_splits(_config(_file(tmp_path / "rows.npz", **columns)))


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("a,b\n")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes(_file(tmp_path / "rows.npz", **_columns()).read_bytes()[:500])
    with pytest.raises(DataError, match=r"one\.npy.*numpy\.savez"):
        load_splits(_config(tmp_path / "one.npy"))
    for name in ("text", "empty", "cut"):
        with pytest.raises(DataError, match=rf"{name}\.npz: .*numpy\.savez"):
            load_splits(_config(tmp_path / f"{name}.npz"))


def test_a_recipe_names_the_file_that_is_not_there_and_what_numbers_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("")
    text = "model: {file: m.py, builder: build}\ndata: {source: arrays, train: rows.npz}\nstages:\n"
    recipe = tmp_path / "own.yaml"
    recipe.write_text(text + "  - quantize/int8_dynamic\n")
    with pytest.raises(DataError, match=r"data\.train.*rows\.npz.*data\.train=FILE"):
        check_files(load_recipe(recipe))
    recipe.write_text(text + "  - quantize/int8_static: {calibration: synthetic}\n")
    with pytest.raises(Exception, match="for texts only.*calibration: train"):
        load_recipe(recipe)


def _graded(count: int = 40, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Four candidates a query, of which the first is relevant; all queries have the same features."""
    columns = _columns(count, seed) | {"labels": np.tile([2.0, 0.0, 0.0, 1.0], count // 4)}
    columns["about"] = np.tile(columns["about"][:4], (count // 4, 1))
    columns["input_ids"] = np.tile(columns["input_ids"][:4], (count // 4, 1))
    return columns | {"query": np.repeat(np.arange(count // 4), 4)} | changes


def test_candidates_of_a_query_are_together_and_the_group_is_no_input(tmp_path: Path) -> None:
    file = _file(tmp_path / "rows.npz", **_graded())
    splits = load_splits(_config(file, task="reranking", group="query", test_fraction=0.2))
    assert splits.task.input_names == ("input_ids", "about")
    sizes = [len(each) for each in (splits.train, splits.validation, splits.test)]
    assert sizes == [28, 4, 8]
    assert splits.test.labels.tolist()[:5] == [[2, 0], [0, 0], [0, 0], [1, 0], [2, 1]]
    again = from_arrays(_graded(8), _graded(8, query=np.repeat(["a", "b"], 4)), group="query")
    assert again.task.facts() == splits.task.facts()
    assert again.validation.labels.tolist() == again.train.labels.tolist()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": np.full(40, -1.0)}, "negative"),
        ({"labels": np.ones(40)}, "relevan"),
        ({"query": np.zeros((40, 2), np.int64)}, r"\[40, 2\]"),
        ({"query": np.zeros(40)}, "float64"),
    ],
)
def test_groups_that_cannot_be_learnt_are_refused(tmp_path: Path, changes: Any, problem: str) -> None:
    file = _file(tmp_path / "rows.npz", **_graded(**changes))
    with pytest.raises(DataError, match=problem):
        load_splits(_config(file, task="reranking", group="query"))
    with pytest.raises(DataError, match=problem):
        from_arrays(_graded(**changes), _graded(seed=1), group="query")


def test_groups_without_their_task_or_array_are_refused(tmp_path: Path) -> None:
    file = _file(tmp_path / "rows.npz", **_graded())
    for given in ({"group": "query"}, {"task": "reranking"}):
        with pytest.raises(ValidationError, match="group"):
            _config(file, **given)
    with pytest.raises(DataError, match="'querry'.*'query'"):
        load_splits(_config(file, task="reranking", group="querry"))


def test_rows_of_one_query_in_two_files_are_a_leak(tmp_path: Path) -> None:
    file = _file(tmp_path / "rows.npz", **_graded())
    first = {name: each[:8] for name, each in _graded().items()}
    test = _file(tmp_path / "test.npz", **first)
    with pytest.raises(DataError, match="also occur"):
        load_splits(_config(file, test=test, task="reranking", group="query"))
    with pytest.raises(DataError, match="also occur"):
        from_arrays(_graded(), first, group="query")
