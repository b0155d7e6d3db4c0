"""Rows of random tokens: wrapped as the tokenizer wraps a text, of the lengths that were asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from compress.data import TextEncoder
from compress.data.readers.synthetic import random_lengths
from compress.data.split import NO_LABEL

NAMES = ("input_ids", "attention_mask", "token_type_ids")
SPECIAL = {0, 1, 2, 3, 4}  # of conftest's Hugging Face directories: [PAD], [UNK], [CLS], [SEP], [MASK]


@pytest.fixture
def bert(bert_directory: Path) -> TextEncoder:
    return TextEncoder.from_directory(bert_directory, input_names=NAMES)


def test_random_tokens_stand_between_the_special_ones(bert: TextEncoder) -> None:
    made = bert.random_rows([3, 4, 9], seed=0)
    assert made.name == "synthetic" and made.inputs == bert.inputs
    for row, length in zip(made.rows, (3, 4, 9), strict=True):
        ids = row["input_ids"].tolist()
        assert len(ids) == length and (ids[0], ids[-1]) == (2, 3) and not SPECIAL & set(ids[1:-1])
        assert row["attention_mask"].tolist() == [1] * length
        assert row["token_type_ids"].tolist() == [0] * length
        assert all(array.dtype == np.int64 for array in row.values())
    assert set(made.labels.tolist()) == {NO_LABEL}


def test_every_token_that_is_not_special_comes_about_as_often(bert: TextEncoder) -> None:
    made = bert.random_rows([102] * 50, seed=0)
    counts = Counter(int(i) for row in made.rows for i in row["input_ids"][1:-1])
    assert set(counts) == set(range(5, bert.vocab_size))
    # 5,000 draws of 11 tokens: 455 each on average, with a standard deviation of 20; five of them here.
    assert all(355 < count < 555 for count in counts.values())


def test_a_row_holds_a_token_beside_the_special_ones_however_short_it_is_to_be(bert: TextEncoder) -> None:
    (row,) = bert.random_rows([1], seed=0).rows
    assert len(row["input_ids"]) == 3


def test_padding_that_a_tokenizer_file_asks_for_is_no_part_of_a_row(bert: TextEncoder) -> None:
    bert.tokenizer.enable_padding(length=12)
    (row,) = bert.random_rows([5], seed=0).rows
    assert len(row["input_ids"]) == 5 and row["attention_mask"].tolist() == [1] * 5


def test_the_same_seed_gives_the_same_rows(bert: TextEncoder) -> None:
    prints = [bert.random_rows([9, 9], seed=seed).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_a_tokenizer_without_special_tokens_gives_bare_rows(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="c"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = TextEncoder.from_directory(tmp_path)
    (row,) = encoder.random_rows([30], seed=0).rows
    assert set(row) == {"input_ids", "attention_mask"} and len(row["input_ids"]) == 30
    assert set(row["input_ids"].tolist()) == {1, 2}, "0 fills shorter rows"


def test_lengths_reach_from_a_few_tokens_to_the_longest() -> None:
    lengths = random_lengths(2000, 16, seed=0)
    assert set(lengths) == set(range(4, 17)) and lengths == random_lengths(2000, 16, seed=0)
    assert set(random_lengths(10, 3, seed=0)) == {3}
