"""Linked texts: tables of pairs and BEIR's layout become splits, or are refused with their place."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from compress.data import BeirData, FileData, Splits, TextEncoder, load_splits
from compress.data.split import Split
from compress.errors import DataError
from compress.tasks.embeddings.retrieval import Retrieval
from compress.tasks.embeddings.scored_pairs import ScoredPairs

Rows = Sequence[tuple[object, ...]]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, rows: Rows, header: Sequence[str] = ("a", "b", "score")) -> Path:
        path = tmp_path / name
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    return write


def _file(train: Path, **more: Any) -> FileData:
    given = {"task": "embedding", "text": ["a", "b"], "train": train, "max_length": 16}
    return FileData.model_validate({**given, **more})


def _scored(count: int, start: int = 0) -> Rows:
    return [(f"w{2 * at}", f"w{2 * at + 1}", at % 5) for at in range(start, start + count)]


def _joined(split: Split) -> set[tuple[str, str, float]]:
    """Texts of each link that is there."""
    assert split.links is not None
    places, scores = split.links.places
    return {
        (str(split.texts[one]), str(split.texts[two]), float(score))
        for (one, two), score in zip(places.tolist(), scores, strict=True)
    }


def _read(data: FileData | BeirData, encoder: TextEncoder) -> Splits:
    return load_splits(data, reader=encoder)


def test_pairs_with_scores(write: Write, encoder: TextEncoder) -> None:
    rows = _scored(40)
    splits = _read(_file(write("a.csv", rows), label="score"), encoder)
    assert type(splits.task) is ScoredPairs
    parts = (splits.train, splits.validation, splits.test)
    assert [len(_joined(each)) for each in parts] == [28, 4, 8] and [len(each) for each in parts] == [
        56,
        8,
        16,
    ]
    every = set().union(*map(_joined, parts))
    assert every == {(a, b, float(score)) for a, b, score in rows}
    texts = [set(each.texts) for each in parts]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


def test_pairs_that_share_texts_stay_together(write: Write, encoder: TextEncoder) -> None:
    rows = [
        (f"w{5 * group + one}", f"w{5 * group + two}", one)
        for group in range(12)
        for one in range(4)
        for two in range(one + 1, 5)
    ]
    splits = _read(_file(write("a.csv", rows), label="score"), encoder)
    assert not set(splits.train.texts) & set(splits.test.texts)
    # All pairs of few texts can't be parted by text: this is said.
    rows = [(f"w{one}", f"w{two}", one) for one in range(9) for two in range(one + 1, 10)]
    splits = _read(_file(write("b.csv", rows), label="score"), encoder)
    assert len(_joined(splits.test)) == 9 and set(splits.test.texts) <= set(splits.train.texts)
    assert len([note for note in splits.notes if "pair" in note]) == 2


def test_repeated_and_contradicting_pairs(write: Write, encoder: TextEncoder) -> None:
    more = [("w1", "w0", 0), ("w90", "W90 ", 3), ("w91", "w92", 1), ("w91", "w92", 2)]
    splits = _read(_file(write("a.csv", [*_scored(40), *more]), label="score"), encoder)
    parts = (splits.train, splits.validation, splits.test)
    assert sum(len(_joined(each)) for each in parts) == 40
    assert [note.kind for note in splits.notes].count("dropped") == 3


def _search(queries: int, start: int = 0) -> Rows:
    """Each query has two documents, one of which it shares with the next."""
    return [(f"w{at}", f"w{100 + at + more}") for at in range(start, start + queries) for more in (0, 1)]


def test_queries_and_documents(write: Write, encoder: TextEncoder) -> None:
    path = write("a.csv", _search(40), ("a", "b"))
    splits = _read(_file(path), encoder)
    assert type(splits.task) is Retrieval
    parts = (splits.train, splits.validation, splits.test)
    queries = [{query for query, _, _ in _joined(each)} for each in parts]
    assert list(map(len, queries)) == [28, 4, 8] and len(set().union(*queries)) == 40
    for each in parts:
        assert each.links is not None and len(each.links.searched) == 41
        assert all(f"w{100 + at}" in each.texts for at in range(41))
    assert all(len([one for one, _, _ in _joined(splits.test) if one == query]) == 2 for query in queries[2])
    again = _read(_file(path), encoder)
    assert again.fingerprint() == splits.fingerprint()
    other = _read(_file(path, seed=1), encoder)
    assert other.test.fingerprint(labels=False) != splits.test.fingerprint(labels=False)


def test_a_document_that_is_a_held_out_query_is_not_learnt(write: Write, encoder: TextEncoder) -> None:
    both_ways = [
        row for at in range(0, 80, 2) for row in ((f"w{at}", f"w{at + 1}"), (f"w{at + 1}", f"w{at}"))
    ]
    splits = _read(_file(write("a.csv", both_ways, ("a", "b"))), encoder)
    held_out = {query for each in (splits.validation, splits.test) for query, _, _ in _joined(each)}
    assert held_out and not held_out & {text for link in _joined(splits.train) for text in link[:2]}


def test_train_limit_keeps_links(write: Write, encoder: TextEncoder) -> None:
    splits = _read(_file(write("a.csv", _search(40), ("a", "b")), train_limit=20), encoder)
    assert len(splits.train) == 20 and len(_joined(splits.train)) >= 5
    assert any(note.kind == "limit" for note in splits.notes)


def test_plain_texts_are_trained_on_and_validation_is_drawn_from_test(
    write: Write, encoder: TextEncoder, tmp_path: Path
) -> None:
    plain = tmp_path / "texts.txt"
    plain.write_text("".join(f"w{at} w1\n" for at in range(30)) + "w0\n")
    test = write("test.csv", _scored(40))
    splits = _read(_file(plain, test=test, label="score"), encoder)
    assert len(splits.train) == 30 and not _joined(splits.train)  # w0 is a text of a pair
    assert (len(_joined(splits.validation)), len(_joined(splits.test))) == (4, 36)
    assert not set(splits.validation.texts) & set(splits.test.texts)
    with pytest.raises(DataError, match=r"data\.test"):
        _read(_file(plain, label="score"), encoder)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("w1", "w2", "much")], ["line 2", "much"]),
        ([("w1", "w2", ""), *_scored(40)], ["line 2"]),
        ([("w1", "w2", 3)], ["1 groups"]),
        ([(f"w{2 * at}", f"w{2 * at + 1}", 1) for at in range(40)], ["score 1"]),
    ],
)
def test_bad_scores_are_refused(write: Write, encoder: TextEncoder, rows: Rows, said: list[str]) -> None:
    with pytest.raises(DataError) as error:
        _read(_file(write("a.csv", rows), label="score"), encoder)
    assert all(each in str(error.value) for each in [*said, "a.csv"])


def test_a_query_in_two_files_is_refused(write: Write, encoder: TextEncoder) -> None:
    train, test = (
        write("a.csv", _search(30), ("a", "b")),
        write("b.csv", [("w3", "w9"), ("w98", "w1")], ("a", "b")),
    )
    with pytest.raises(DataError) as error:
        _read(_file(train, test=test), encoder)
    assert all(each in str(error.value) for each in ("b.csv", "line 2", "a.csv"))


def test_which_columns_decide_and_survive_a_round_trip(write: Write) -> None:
    path = write("a.csv", _scored(20))
    scores, search = _file(path, label="score"), _file(path)
    assert (scores.label_kind, search.label_kind) == ("scores", "relevances")
    assert search.notes() and not scores.notes()  # a column of scores is not read
    for each in (scores, search, _file(path, label="label"), _file(path, text="a")):
        again = FileData.model_validate(each.model_dump(mode="json"))
        assert again.label_kind == each.label_kind and again == each
    for wrong in ({"label_separator": ","}, {"label": ["score", "b"]}, {"group": "score"}):
        with pytest.raises(ValidationError):
            _file(path, **wrong)


def _beir(folder: Path, relevances: dict[str, list[tuple[str, str, object]]], **more: object) -> BeirData:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = [{"_id": f"d{at}", "title": f"w{at}", "text": f"w{at + 1}"} for at in range(30)]
    queries = [{"_id": f"q{at}", "text": f"w{at + 50}"} for at in range(30)]
    for name, rows in (("corpus", [*documents, {"_id": "blank", "text": " "}]), ("queries", queries)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for part, lines in relevances.items():
        rows = [("query-id", "corpus-id", "score"), *lines]
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        (folder / "qrels" / f"{part}.tsv").write_text(text, encoding="utf-8")
    return BeirData.model_validate({"path": folder, "max_length": 16, **more})


def _qrels(start: int, stop: int) -> list[tuple[str, str, object]]:
    return [(f"q{at}", f"d{at}", 2) for at in range(start, stop)]


def test_beirs_layout(tmp_path: Path, encoder: TextEncoder) -> None:
    given = {
        "train": _qrels(0, 15),
        "dev": _qrels(15, 20),
        "test": [*_qrels(20, 29), ("q29", "d3", 0), ("q20", "d1", 1)],
    }
    data = _beir(tmp_path, given)
    splits = _read(data, encoder)
    assert type(splits.task) is Retrieval and data.task == "embedding"
    assert [len(_joined(each)) for each in (splits.train, splits.validation, splits.test)] == [15, 5, 11]
    assert ("w70", "w20 w21", 2.0) in _joined(splits.test) and ("w70", "w1 w2", 1.0) in _joined(splits.test)
    assert splits.test.links is not None and len(splits.test.links.searched) == 30
    assert sum("corpus" in note or "test.tsv" in note for note in splits.notes) == 2  # blank; no relevant one
    few = _read(_beir(tmp_path, given, document_limit=4), encoder)
    assert few.test.links is not None and len(few.test.links.searched) == 11 + 4
    assert few.train.links is not None and len(few.train.links.searched) == 30


def test_beir_with_test_alone_trains_on_documents(tmp_path: Path, encoder: TextEncoder) -> None:
    splits = _read(_beir(tmp_path, {"test": _qrels(0, 30)}), encoder)
    assert len(splits.train) == 30 and not _joined(splits.train)
    assert (len(_joined(splits.validation)), len(_joined(splits.test))) == (3, 27)


@pytest.mark.parametrize(
    ("relevances", "settings", "said"),
    [
        ([*_qrels(0, 5), ("q1", "d99", 1)], {}, ["test.tsv:7", "'d99'", "corpus.jsonl"]),
        ([*_qrels(0, 5), ("q99", "d1", 1)], {}, ["test.tsv:7", "'q99'", "queries.jsonl"]),
        ([*_qrels(0, 5), ("q1", "d1", "much")], {}, ["test.tsv:7", "much"]),
        ([("q1", "d1", 1), ("q2", "d1", 0)], {}, ["test.tsv"]),
        (_qrels(0, 5), {"test": "tset"}, ["data.test", "tset"]),
    ],
)
def test_bad_relevances_are_refused(
    tmp_path: Path, encoder: TextEncoder, relevances: list[Any], settings: dict[str, str], said: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        _read(_beir(tmp_path, {"test": relevances}, **settings), encoder)
    assert all(each in str(error.value) for each in said)


def test_bad_files_of_texts_are_refused(tmp_path: Path, encoder: TextEncoder) -> None:
    data = _beir(tmp_path, {"test": _qrels(0, 5)})
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(corpus.read_text() + '{"_id": "d3", "text": "w1"}\n')
    with pytest.raises(DataError, match=r"corpus.jsonl:32.*d3.*line 4"):
        _read(data, encoder)
    corpus.unlink()
    with pytest.raises(DataError, match=r"corpus\.jsonl"):
        _read(data, encoder)
    with pytest.raises(DataError, match=r"data\.path"):
        data.model_copy(update={"path": tmp_path / "nowhere"}).check_files()


def test_links_are_saved(tmp_path: Path, write: Write, encoder: TextEncoder) -> None:
    test = _read(_file(write("a.csv", _search(40), ("a", "b"))), encoder).test
    test.save(tmp_path / "rows.npz")
    again = Split.load(tmp_path / "rows.npz", "test", test.inputs)
    assert again.links is not None and test.links is not None
    assert all(np.array_equal(each, again.links.arrays()[name]) for name, each in test.links.arrays().items())
    assert again.fingerprint() == test.fingerprint() != test.at(np.arange(len(test))[::-1]).fingerprint()
