"""Several labels a row: each way to write them gives the same rows, and what is no label is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from compress.data import FileData, Splits, TextEncoder, from_arrays, load_splits
from compress.data.sources.array_files import ArraysData
from compress.data.sources.datasets import DatasetsData
from compress.errors import DataError

SETS = ([], ["a"], ["b"], ["a", "b"], ["a"])
ROWS = [(f"w{at} w{at // 7}", SETS[at % 5]) for at in range(40)]
NAMES = ("a", "b")


def _matrix(rows: list[tuple[str, list[str]]]) -> list[list[int]]:
    return [[int(name in labels) for name in NAMES] for _, labels in rows]


def _write(tmp_path: Path, form: str) -> dict[str, Any]:
    if form == "separator":
        lines = [f"{text},{'|'.join(labels)}" for text, labels in ROWS]
        (tmp_path / "x.csv").write_text("\n".join(["text,label", *lines]))
        return {"train": tmp_path / "x.csv", "label_separator": "|"}
    if form == "columns":
        lines = [f"{text},{a},{b}" for (text, _), (a, b) in zip(ROWS, _matrix(ROWS), strict=True)]
        (tmp_path / "x.csv").write_text("\n".join(["text,a,b", *lines]))
        return {"train": tmp_path / "x.csv", "label": NAMES}
    objects = [{"text": text, "label": labels} for text, labels in ROWS]
    if form == "jsonl":
        (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, objects)))
        return {"train": tmp_path / "x.jsonl"}
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(objects), tmp_path / "x.parquet")
    return {"train": tmp_path / "x.parquet"}


@pytest.mark.parametrize("form", ["separator", "columns", "jsonl", "parquet"])
def test_each_form_gives_the_same_rows(form: str, tmp_path: Path, encoder: TextEncoder) -> None:
    given = _write(tmp_path, form)
    splits = load_splits(FileData(task="multi-label", **given), reader=encoder)
    wanted = dict(zip((text for text, _ in ROWS), _matrix(ROWS), strict=True))
    assert splits.task.labels == NAMES and [0, 0] in wanted.values()
    for split in (splits.train, splits.validation, splits.test):
        assert split.labels.tolist() == [wanted[text] for text in split.texts]


def test_the_models_order_of_labels_holds(tmp_path: Path, encoder: TextEncoder) -> None:
    config = FileData(task="multi-label", **_write(tmp_path, "jsonl"))
    plain, other = (
        load_splits(config, reader=encoder, label_order=order) for order in (None, ["b", "x", "a"])
    )
    assert other.task.labels == ("b", "x", "a")
    assert (other.train.labels[:, [2, 0]] == plain.train.labels).all() and not other.train.labels[:, 1].any()


@pytest.mark.parametrize("given", [{"label": ("a", "b")}, {"label_separator": "|"}])
def test_a_recipe_must_say_the_task(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="data.task=multi-label"):
        FileData(train=Path("x.csv"), **given)


def test_lists_without_the_task_are_refused(tmp_path: Path, encoder: TextEncoder) -> None:
    with pytest.raises(DataError, match="data.task=multi-label"):
        load_splits(FileData(**_write(tmp_path, "jsonl")), reader=encoder)


@pytest.mark.parametrize(
    ("text", "given", "place"),
    [
        ("text,label\nw1,a\n", {}, "line 2.*label_separator"),
        ("text,a,b\nw1,0,1\nw2,2,1\n", {"label": NAMES}, "line 3: column 'a'"),
        ("text,a,b\nw1,0,1\nw2,1,\n", {"label": NAMES}, "line 3: column 'b'"),
        ("text,label\nw1,\nw2,\n", {"label_separator": ","}, "no row has a label"),
    ],
)
def test_what_is_no_label_is_refused_with_its_place(
    text: str, given: dict[str, Any], place: str, tmp_path: Path, encoder: TextEncoder
) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=place):
        load_splits(FileData(task="multi-label", train=tmp_path / "x.csv", **given), reader=encoder)


def test_lists_of_classes_of_a_data_set_keep_their_names_and_order(
    tmp_path: Path, encoder: TextEncoder
) -> None:
    datasets = pytest.importorskip("datasets")
    classes = datasets.Sequence(datasets.ClassLabel(names=["b", "a", "never"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": classes})
    rows = [{"text": text, "label": labels} for text, labels in ROWS]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "set"))
    config = DatasetsData(name=str(tmp_path / "set"), task="multi-label")
    splits = load_splits(config, reader=encoder)
    assert splits.task.labels == ("b", "a", "never") and any("never" in note for note in splits.notes)
    assert splits.train.labels[:, 2].sum() == 0 < splits.train.labels[:, 0].sum()


def _arrays(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "features": draw.normal(size=(40, 4)).astype(np.float32),
        "labels": draw.integers(0, 2, (40, 3)),
    }


def test_a_matrix_of_0_and_1_says_the_task_of_arrays() -> None:
    train, validation = _arrays(0), _arrays(1)
    splits: Splits = from_arrays(train, validation, labels=["x", "y", "z"])
    assert splits.task.name == "multi-label" and splits.task.labels == ("x", "y", "z")
    assert (splits.train.labels == train["labels"]).all() and splits.test.labels.shape == (0, 3)
    with pytest.raises(DataError):
        from_arrays({**train, "labels": train["labels"] * 2}, validation)


def test_a_matrix_in_a_file_has_names(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **_arrays(0), label_names=np.array(["x", "y", "z"]))
    splits = load_splits(ArraysData(train=path, task="multi-label"))
    assert splits.task.labels == ("x", "y", "z") and splits.task.input_names == ("features",)
    with pytest.raises(DataError, match="data.task=multi-label"):
        load_splits(ArraysData(train=path))
