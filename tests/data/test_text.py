from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compress.data import DatasetsData
from compress.data.sources.datasets import read_datasets
from compress.data.sources.file import read_text_file
from compress.errors import DataError


def _read(path: Path, text: str = "text", label: str = "label") -> tuple[tuple[Any, ...], tuple[str, ...]]:
    table = read_text_file(path, text=text, label=label)
    return table.items, table.labels


def _jsonl(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def _parquet(path: Path, **columns: list[object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def _saved(path: Path, labels: list[int], names: list[str] | None = None) -> datasets.Dataset:
    kind = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"text": datasets.Value("string"), "label": kind})
    columns = {"text": [f"w{i}" for i in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(columns, features=features)


def test_csv_is_read_with_byte_order_mark_quotes_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffid,text,label\r\n1,"one, ""two""\nthree",pos\r\n\r\n2,ü, neg \r\n'.encode())
    assert _read(path) == (('one, "two"\nthree', "ü"), ("pos", "neg"))


def test_csv_places_are_the_lines_that_rows_begin_on(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"one\ntwo",1\n\nthree,0\n')
    table = read_text_file(path, text="text", label="label")
    assert [table.place(0), table.place(1)] == ["line 2", "line 5"]


def test_csv_field_may_be_longer_than_the_csv_modules_own_limit(write_csv: Callable[..., Path]) -> None:
    assert len(_read(write_csv("a.csv", [("x" * 200_000, 1)]))[0][0]) == 200_000


def test_jsonl_labels_may_be_whole_numbers_strings_and_booleans(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": value} for value in (1, 1.0, "x", True)]
    assert _read(_jsonl(tmp_path / "a.jsonl", *rows))[1] == ("1", "1", "x", "True")


def test_parquet_is_read_and_its_folder_names_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "label=7"
    folder.mkdir()
    path = _parquet(folder / "a.PARQUET", text=["a", "b"], label=[1, 0], other=[None, None])
    assert _read(path) == (("a", "b"), ("1", "0"))


def test_columns_go_by_the_names_given(write_csv: Callable[..., Path]) -> None:
    path = write_csv("a.csv", [("a", 1)], header=("review", "stars"))
    assert _read(path, "review", "stars") == (("a",), ("1",))


def test_missing_column_is_named_with_the_columns_there_are_and_the_nearest(
    write_csv: Callable[..., Path],
) -> None:
    path = write_csv("a.csv", [("a", 1)], header=("text", "labels"))
    with pytest.raises(
        DataError, match=r"a\.csv: no column 'label'; did you mean 'labels'\? \(columns: text, labels\)"
    ):
        _read(path)
    with pytest.raises(DataError, match=r"a\.csv: no column 'stars' \(columns: text, labels\)"):
        _read(path, label="stars")


@pytest.mark.parametrize("write", [_jsonl, _parquet])
def test_missing_column_is_an_error_in_jsonl_and_parquet_too(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    if write is _jsonl:
        path = _jsonl(tmp_path / "a.jsonl", {"txt": "a", "label": 1})
    else:
        path = _parquet(tmp_path / "a.parquet", txt=["a"], label=[1])
    with pytest.raises(DataError, match=r"no column 'text'; did you mean 'txt'\? \(columns: txt, label\)"):
        _read(path)


def test_missing_file_and_folder_and_unknown_ending_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dir.csv").mkdir()
    (tmp_path / "dir.csv" / "inside.jsonl").touch()
    (tmp_path / "a.xls").touch()
    os.mkfifo(tmp_path / "fifo.csv")
    for name, message in [
        ("no.csv", "no.csv does not exist"),
        ("dir.csv", "dir.csv.*inside.jsonl"),
        ("fifo.csv", "fifo.csv is not a regular file"),
        ("a.xls", "a.xls: .*'.xls'.*allowed: .csv, .tsv, .jsonl, .parquet"),
    ]:
        with pytest.raises(DataError, match=message):
            _read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "a.csv: is empty"),
        ("a.csv", b"text,label\n", "a.csv: has no rows"),
        ("a.csv", b"text,label\na,1\nb,c,1\n", "a.csv:3.*3.*2"),
        ("a.csv", b'text,label\na,1\n"b,1\nc,1\n', "a.csv:4.*CSV"),
        ("a.csv", b"text,text,label\na,b,1\n", "'text'.*2"),
        ("a.csv", b"text,label\n\xff\xfe,1\n", "a.csv: .*UTF-8"),
        (
            "a.csv",
            b"text,label\na,1\n ,1\n,0\n",
            "'text'.*lines 3, 4",
        ),
        ("a.csv", b"text,label\na,\n", "'label'.*2"),
        ("a.jsonl", b"", "a.jsonl: has no rows"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n\n{"text"\n', "a.jsonl:3.*JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1.*JSON"),
        ("a.jsonl", b'{"text": 3, "label": 1}\n', r"'text'.*\(line.*1\)"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}\n', "'label'.*line 2"),
        ("a.jsonl", b'{"text": "a", "label": NaN}\n', "'label'.*line 1"),
        ("a.jsonl", b'{"text": "a", "label": 0.5}\n', "a.jsonl: line 1: .* 0.5 .*regression"),
        ("a.jsonl", b'{"text": "a", "label": ["x"]}\n', "line 1: .*multi-label"),
        ("a.jsonl", b'{"text": "a", "label": Infinity}\n', "a.jsonl: line 1: .* inf .*regression"),
        ("a.csv", b"text,label\na,1\nb,-.25\n", "column 'label': .* -.25 .*regression"),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), "a.csv: is UTF-16; save it as UTF-8"),
        ("a.csv", "text,label\na,1\n".encode("utf-16-le"), "a.csv.*UTF-16"),
        ("a.jsonl", "{}".encode("utf-32"), "a.jsonl: is UTF-32; save it as UTF-8"),
        ("a.csv.gz", b"text,label\na,1\n", "a.csv.gz: cannot be read: Not a gzipped file"),
        ("a.csv.gz", gzip.compress(b"text,label\na,1\n", mtime=0)[:-9], "a.csv.gz: cannot be read"),
        ("a.csv", b"txt;label\na;1\n", r"no column 'text'; did you mean 'txt'\? \(columns: txt, label\)"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1.*JSON"),
        ("a.jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}", "a.jsonl:1.*JSON"),
        ("a.parquet", b"nothing of the kind", "a.parquet.*Parquet"),
    ],
)
def test_broken_file_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        _read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "separator", "noted"),
    [
        ("a.csv", ",", False),
        ("a.csv", ";", True),
        ("a.csv", "\t", True),
        ("a.csv", "|", True),
        ("a.tsv", "\t", False),
        ("a.TSV", ";", True),
        ("a.tsv", ",", True),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_the_separator_is_the_one_under_which_the_header_has_the_columns(
    tmp_path: Path, name: str, separator: str, noted: bool, compressed: bool
) -> None:
    lines = ["id,label,text", '7,pos,"one, two; three\tfour | five"', "8,neg,plain"]
    content = "\ufeff" + "\r\n".join(line.replace(",", separator, 2) for line in lines)
    path = tmp_path / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(content.encode()) if compressed else content.encode())
    table = read_text_file(path, text="text", label="label")
    assert table.items == ("one, two; three\tfour | five", "plain")
    assert table.labels == ("pos", "neg")
    assert len(table.notes) == noted and all("separated by" in note for note in table.notes)


def test_a_column_name_may_hold_a_separator(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b,label\none;two,1\n")
    assert _read(tmp_path / "a.csv", "a;b") == (("one;two",), ("1",))


def test_compressed_jsonl_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a", "label": "x"}\n'))
    assert _read(tmp_path / "a.jsonl.gz") == (("a",), ("x",))


def test_where_all_labels_are_numbers_one_point_zero_is_the_class_one(write_csv: Callable[..., Path]) -> None:
    assert _read(write_csv("a.csv", [("a", "1.0"), ("b", "0"), ("c", "07")]))[1] == ("1", "0", "07")
    assert _read(write_csv("b.csv", [("a", "1.0"), ("b", "v1.5")]))[1] == ("1.0", "v1.5")


def test_only_the_first_of_many_empty_rows_are_listed(write_csv: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="lines 2, 3, 4, 5, 6 and 4 more"):
        _read(write_csv("a.csv", [(" ", 1)] * 9))


def test_parquet_rows_without_text_are_told_by_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'text'.*row 2"):
        _read(_parquet(tmp_path / "a.parquet", text=["a", None], label=[1, 1]))


def test_saved_dataset_is_read_with_its_class_names(tmp_path: Path) -> None:
    _saved(tmp_path, [1, 0], ["neg", "pos"]).save_to_disk(tmp_path / "mine")
    tables = read_datasets(DatasetsData(name=str(tmp_path / "mine")))
    assert list(tables) == ["train"]
    assert (tables["train"].items, tables["train"].labels) == (("w0", "w1"), ("pos", "neg"))
    assert tables["train"].declared == ("neg", "pos")
    assert tables["train"].name == "mine[train]"


def test_saved_dataset_dict_is_read_by_split_names(tmp_path: Path) -> None:
    parts = {"train": _saved(tmp_path, [1, 0, 1]), "dev": _saved(tmp_path, [0])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "mine")
    tables = read_datasets(DatasetsData(name=str(tmp_path / "mine"), validation="dev"))
    assert {part: table.labels for part, table in tables.items()} == {
        "train": ("1", "0", "1"),
        "validation": ("0",),
    }
    with pytest.raises(DataError, match="no split 'test' for test; allowed: dev, train"):
        read_datasets(DatasetsData(name=str(tmp_path / "mine"), test="test"))


def test_dataset_with_hidden_labels_or_without_the_column_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path, [0, -1], ["neg", "pos"]).save_to_disk(tmp_path / "mine")
    with pytest.raises(DataError, match=r"mine\[train\].*'label'.*row 2"):
        read_datasets(DatasetsData(name=str(tmp_path / "mine")))
    with pytest.raises(DataError, match=r"mine\[train\]: no column 'sentence' \(columns: text, label\)"):
        read_datasets(DatasetsData(name=str(tmp_path / "mine"), text="sentence"))


def test_directory_that_holds_no_saved_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="datasets'.*save_to_disk"):
        read_datasets(DatasetsData(name=str(tmp_path)))


def test_file_and_absent_path_are_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="a.csv: is a file; .*source: file"):
        read_datasets(DatasetsData(name=str(tmp_path / "a.csv")))
    with pytest.raises(DataError, match="absent: .*not exist"):
        read_datasets(DatasetsData(name=str(tmp_path / "absent")))


def test_hub_name_is_loaded_through_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, config: str | None) -> Any:
        asked.append((name, config))
        return datasets.DatasetDict({"train": _saved(tmp_path, [0, 1])})

    monkeypatch.setattr(datasets, "load_dataset", load)
    tables = read_datasets(DatasetsData(name="org/set", config="en"))
    assert asked == [("org/set", "en")]
    assert tables["train"].name == "org/set[train]"


def test_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, config: str | None) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"'org/set' .*\(ConnectionError: no route\).*network.*save_to_disk"):
        read_datasets(DatasetsData(name="org/set"))
