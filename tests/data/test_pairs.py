"""Pairs of texts are refused where the recipe doesn't say which text is read, and noted where it does."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.data.config import DatasetsData, FileData
from compress.data.pairs import check_one_text, column_names, one_text_notes, second_texts
from compress.errors import DataError


def _config(path: Path, **more: Any) -> FileData:
    return FileData.model_validate({"source": "file", "train": str(path), **more})


def _csv(path: Path, *columns: str, separator: str = ",") -> Path:
    path.write_text(separator.join(columns) + "\n" + separator.join("x" for _ in columns) + "\n")
    return path


@pytest.mark.parametrize(
    "other",
    ["text_pair", "text2", "text_b", "Text B", "sentence2", "hypothesis", "premise", "question", "query"],
)
def test_a_column_of_second_texts_is_refused_unless_the_text_is_named(tmp_path: Path, other: str) -> None:
    path = _csv(tmp_path / "a.csv", "text", other, "label")
    with pytest.raises(DataError, match=r"data\.text=text"):
        check_one_text(_config(path), None)
    chosen = _config(path, text="text")
    check_one_text(chosen, None)
    (note,) = one_text_notes(chosen)
    assert repr(other) in note


@pytest.mark.parametrize(
    "other", ["id", "title", "context", "source", "text_length", "textual", "b", "stars"]
)
def test_other_columns_are_no_second_text(tmp_path: Path, other: str) -> None:
    config = _config(_csv(tmp_path / "a.csv", "text", other, "label"))
    check_one_text(config, ("0", "1"))
    assert one_text_notes(config) == ()


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("sentence1", "sentence2"),
        ("question_1", "question_2"),
        ("premise", "hypothesis"),
        ("review_a", "review_b"),
        ("body", "body_pair"),
    ],
)
def test_a_partner_of_the_named_column_is_noted(text: str, other: str) -> None:
    assert second_texts((text, other, "label"), text=text, labels=("label",)) == (other,)


def test_pairs_without_a_text_column_are_named_as_pairs(tmp_path: Path) -> None:
    config = _config(_csv(tmp_path / "a.csv", "premise", "hypothesis", "label"))
    with pytest.raises(DataError, match="'premise', 'hypothesis'"):
        check_one_text(config, None)


@pytest.mark.parametrize(
    ("labels", "is_pair"),
    [
        (("entailment", "neutral", "contradiction"), True),
        (("ENTAILMENT", "NOT_ENTAILMENT"), True),
        (("not-equivalent", "equivalent"), True),
        (("positive", "neutral", "negative"), False),
        (("LABEL_0", "LABEL_1"), False),
    ],
)
def test_a_model_of_pairs_is_known_by_its_labels(
    tmp_path: Path, labels: tuple[str, ...], is_pair: bool
) -> None:
    path = _csv(tmp_path / "a.csv", "text", "label")
    if is_pair:
        with pytest.raises(DataError, match=r"data\.text=text"):
            check_one_text(_config(path), labels)
    check_one_text(_config(path, text="text") if is_pair else _config(path), labels)


def test_columns_are_found_in_every_kind_of_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("text", "text_pair", "label")
    row = dict.fromkeys(names, "x")
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    pq.write_table(pa.table({name: ["x"] for name in names}), tmp_path / "a.parquet")
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write(",".join(names) + "\n")
    files = [tmp_path / name for name in ("a.jsonl", "a.parquet", "a.csv.gz")]
    files += [_csv(tmp_path / f"{i}.csv", *names, separator=each) for i, each in enumerate(";\t|")]
    assert [column_names(_config(path)) for path in files] == [names] * len(files)
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("bad.csv", "gone.csv"):
        assert column_names(_config(tmp_path / name)) == ()


def test_columns_of_a_dataset_are_found(tmp_path: Path, write_dataset: Callable[..., Path]) -> None:
    path = write_dataset(tmp_path / "saved", text=["a"], text_pair=["b"], label=[0])
    with pytest.raises(DataError, match="text_pair"):
        check_one_text(DatasetsData(name=str(path)), None)


@pytest.fixture
def write_dataset() -> Callable[..., Path]:
    """A function that saves a data set of these columns."""

    def write(path: Path, **columns: list[Any]) -> Path:
        import datasets

        datasets.Dataset.from_dict(columns).save_to_disk(str(path))
        return path

    return write
