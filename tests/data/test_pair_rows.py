"""Pairs of texts as rows: read from two columns, told apart, cut, changed and made up."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from compress.data import Splits, TextEncoder, load_splits
from compress.data.config import DatasetsData, FileData
from compress.data.readers.augment import augmented
from compress.data.readers.tokenize import encoder_among
from compress.data.readers.vocabulary import encode_splits_again, required_tokens, smaller_encoder
from compress.data.split import Split
from compress.data.table import Table, loose_key, shown
from compress.errors import DataError

NAMES = ("input_ids", "attention_mask", "token_type_ids")
CLS, SEP = 2, 3
Rows = Sequence[tuple[str, ...]]


@pytest.fixture
def encoder(encoder: TextEncoder) -> TextEncoder:
    """An encoder whose special tokens are marked as such."""
    encoder.tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return encoder


@pytest.fixture
def typed(encoder: TextEncoder) -> TextEncoder:
    """The same for a model with segment ids."""
    return replace(encoder, input_names=NAMES)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, rows: Rows, header: Sequence[str] = ("first", "second", "label")) -> Path:
        path = tmp_path / name
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    return write


def _config(train: Path, **more: Any) -> FileData:
    return FileData.model_validate({"train": train, "text": ["first", "second"], "max_length": 16, **more})


def _pairs(count: int) -> list[tuple[str, str, str]]:
    return [(f"w{at} good w{at + 1}", f"film w{at}", "yes" if at % 2 else "no") for at in range(count)]


@pytest.fixture
def splits(write: Callable[..., Path], typed: TextEncoder) -> Splits:
    return load_splits(_config(write("train.csv", _pairs(40))), reader=typed)


def test_a_pair_is_encoded_with_its_segments_where_the_model_has_them(
    typed: TextEncoder, encoder: TextEncoder
) -> None:
    (row,), cut = typed.encode([("good film", "bad")], max_length=8)
    assert row["input_ids"].tolist() == [CLS, 4, 6, SEP, 5, SEP] and cut == 0
    assert row["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1]
    (row,), _ = encoder.encode([("good film", "bad")], max_length=8)
    assert set(row) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("length", "words"),
    [(12, ("good w0 w1 w2 w3", "bad w4")), (9, ("good w0 w1 w2", "bad w4")), (7, ("good w0", "bad w4"))],
)
def test_of_a_pair_the_longer_text_is_cut_first(
    typed: TextEncoder, length: int, words: tuple[str, str]
) -> None:
    pair = ("good w0 w1 w2 w3", "bad w4")
    (whole,), _ = typed.encode([words], max_length=20)
    for texts, wanted in ((pair, words), (pair[::-1], words[::-1])):
        (row,), cut = typed.encode([texts], max_length=length)
        (whole,), _ = typed.encode([wanted], max_length=20)
        assert {name: row[name].tolist() for name in NAMES} == {name: whole[name].tolist() for name in NAMES}
        assert cut == (words != pair)


def test_a_length_without_room_for_a_token_of_each_text_is_refused(typed: TextEncoder) -> None:
    typed.encode([("good", "bad")], max_length=5)
    with pytest.raises(DataError, match="5 or more"):
        typed.encode([("good", "bad")], max_length=4)
    with pytest.raises(DataError, match="5 or more"):
        encoder_among(typed, texts=2).tokenizer_json(max_length=4)
    typed.encode(["good"], max_length=4)


def test_both_columns_are_read_from_every_kind_of_file(
    write: Callable[..., Path], typed: TextEncoder, tmp_path: Path
) -> None:
    import datasets

    rows = _pairs(40)
    columns = dict(zip(("first", "second", "label"), map(list, zip(*rows, strict=True)), strict=True))
    data = datasets.Dataset.from_dict(columns)
    data.to_parquet(tmp_path / "a.parquet")
    data.to_json(tmp_path / "a.jsonl")
    data.save_to_disk(str(tmp_path / "saved"))
    sources: list[FileData | DatasetsData] = [
        _config(path) for path in (write("a.csv", rows), tmp_path / "a.parquet", tmp_path / "a.jsonl")
    ]
    sources.append(DatasetsData(name=str(tmp_path / "saved"), text=("first", "second"), max_length=16))
    found = [load_splits(source, reader=typed) for source in sources]
    assert len({each.fingerprint() for each in found}) == 1
    assert set(found[0].train.texts) < {row[:2] for row in rows}
    assert found[0].reader.facts() == {"texts": 2} and typed.facts() == {}
    assert found[0].train.rows[0]["token_type_ids"].max() == 1


def test_texts_without_labels_are_pairs_too(write: Callable[..., Path], typed: TextEncoder) -> None:
    more = [("w1", "w2"), ("W1 ", "w2"), ("w2", "w1"), _pairs(2)[0][:2]]
    config = _config(
        write("train.csv", _pairs(40)),
        test=write("test.csv", [("good", "bad", "yes"), *_pairs(1)][:1]),
        unlabelled=write("more.csv", [*more, ("good", "bad")], ("first", "second")),
    )
    splits = load_splits(config, reader=typed)
    assert splits.unlabelled is not None
    # Of the same texts one row is left, in either order they are two rows, and a test row is left out.
    assert splits.unlabelled.texts[:2] == (("w1", "w2"), ("w2", "w1")) and len(splits.unlabelled) == 3


def test_a_row_is_a_duplicate_if_both_texts_are(write: Callable[..., Path], typed: TextEncoder) -> None:
    rows = [*_pairs(40), ("w0 GOOD  w1", "film w0", "no"), ("w0 good w1", "film w1", "yes")]
    splits = load_splits(_config(write("train.csv", rows)), reader=typed)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 41
    config = _config(write("train.csv", rows), test=write("test.csv", [("W1 good w2", "film W1", "yes")]))
    with pytest.raises(DataError, match="1 of 1 test rows.*'W1 good w2' and 'film W1'"):
        load_splits(config, reader=typed)


def test_keys_and_quotes_of_pairs_have_both_texts_in_order() -> None:
    assert loose_key(("A  b", "C")) == ("a b", "c") != loose_key(("C", "A b"))
    assert shown(("a", "b" * 70)) == f"'a' and '{'b' * 57}...'"
    assert Table("x", "x", (("a", "b"),), ("l",)).items[0] == ("a", "b")


@pytest.mark.parametrize(
    ("text", "word"),
    [(["first", "first"], "twice"), (["first"], "text"), (["first", "second", "label"], "text")],
)
def test_text_names_one_column_or_two(write: Callable[..., Path], text: list[str], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        _config(write("train.csv", _pairs(4)), text=text)


def test_a_row_without_its_second_text_is_refused_with_column_and_line(
    write: Callable[..., Path], typed: TextEncoder
) -> None:
    rows = [*_pairs(3), ("good", " ", "no")]
    with pytest.raises(DataError, match="column 'second' has no text in line 5"):
        load_splits(_config(write("train.csv", rows)), reader=typed)
    with pytest.raises(DataError, match="no column 'second'"):
        load_splits(_config(write("b.csv", [("a", "b")], ("first", "label"))), reader=typed)


def _parts(ids: np.ndarray) -> list[list[int]]:
    """Tokens of the two texts of [CLS] first [SEP] second [SEP]."""
    middle = ids.tolist().index(SEP)
    assert (ids[0], ids[-1]) == (CLS, SEP)
    return [ids[1:middle].tolist(), ids[middle + 1 : -1].tolist()]


def _words(split: Split) -> list[list[list[int]]]:
    return [_parts(row["input_ids"]) for row in split.rows]


def test_a_changed_copy_keeps_the_lengths_of_both_texts_and_mixes_first_with_first(
    write: Callable[..., Path], typed: TextEncoder
) -> None:
    rows = [
        (" ".join(["good"] * (3 + at % 5)), " ".join(["bad"] * (2 + at // 5)), str(at % 2))
        for at in range(40)
    ]
    splits = load_splits(_config(write("train.csv", rows), max_length=20), reader=typed)
    train, encoder = splits.train, encoder_among(splits.reader, texts=2)
    copies = [augmented(train, encoder, seed=seed) for seed in range(20)]
    before, after = _words(train), [_words(each) for each in copies]
    for each in after:
        assert [list(map(len, row)) for row in each] == [list(map(len, row)) for row in before]
    # A fifth of the tokens is drawn from both texts; a span of the same text changes nothing here.
    changed = np.mean([word != 4 for each in after for row in each for word in row[0]])
    assert 0.04 < changed < 0.12
    assert all(
        copy["token_type_ids"] is row["token_type_ids"]
        for copy, row in zip(copies[0].rows, train.rows, strict=True)
    )


def test_spans_are_exchanged_in_either_text(splits: Splits) -> None:
    before, changed = _words(splits.train), [0, 0]
    for seed in range(5):
        after = _words(augmented(splits.train, encoder_among(splits.reader, texts=2), seed=seed))
        for old, new in zip(before, after, strict=True):
            for which in range(2):
                changed[which] += old[which] != new[which]
    assert min(changed) > 20


def test_random_pairs_have_tokens_of_both_segments(typed: TextEncoder) -> None:
    encoder = encoder_among(typed, texts=2)
    made = encoder.random_rows([1, 5, 8, *[20] * 40], seed=0)
    lengths = set()
    for row, length in zip(made.rows, (5, 5, 8, *[20] * 40), strict=True):
        first, second = _parts(row["input_ids"])
        assert len(row["input_ids"]) == length and first and second
        assert row["token_type_ids"].tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
        assert row["attention_mask"].tolist() == [1] * length and not {CLS, SEP, 0} & {*first, *second}
        lengths.add(len(first))
    assert len(lengths) > 8
    assert encoder.random_rows([9], seed=0).fingerprint() == encoder.random_rows([9], seed=0).fingerprint()
    assert encoder.settings() != typed.settings()


def test_rows_are_encoded_again_as_pairs_with_a_smaller_vocabulary(splits: Splits) -> None:
    encoder = encoder_among(splits.reader, texts=2)
    wanted = {int(index) for row in splits.train.rows for index in row["input_ids"]}
    kept = required_tokens(json.loads(encoder.tokenizer.to_str()), {*wanted, encoder.pad_id})
    smaller = smaller_encoder(encoder, kept)
    assert smaller.texts == 2 and smaller.vocab_size == len(kept) < encoder.vocab_size
    again = encode_splits_again(splits, smaller)
    for old, new in zip(splits.train.rows, again.train.rows, strict=True):
        assert [kept[index] for index in new["input_ids"]] == old["input_ids"].tolist()
        assert new["token_type_ids"].tolist() == old["token_type_ids"].tolist()


def test_unknown_words_of_the_second_text_are_counted_and_undivided_pairs_noted(
    write: Callable[..., Path], encoder: TextEncoder
) -> None:
    rows = [(f"w{at}", f"zz{at} yy", str(at % 2)) for at in range(40)]
    splits = load_splits(_config(write("train.csv", rows)), reader=encoder)
    (note,) = splits.reader.doubts(splits.train)
    assert note.startswith("67%")
    encoder.tokenizer.post_processor = None  # type: ignore[assignment]
    plain = load_splits(_config(write("train.csv", _pairs(40))), reader=encoder)
    (note,) = plain.reader.doubts(plain.train)
    assert "no token between" in note
    assert len(augmented(plain.train, encoder_among(plain.reader, texts=2), seed=0)) == len(plain.train)
