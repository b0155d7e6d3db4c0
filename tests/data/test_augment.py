"""Changed copies of texts: same lengths and special tokens, other words, no labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.data import Splits, TextEncoder
from compress.data.readers.augment import augmented
from compress.data.split import NO_LABEL, Split

NAMES = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture
def encoder(bert_directory: Path) -> TextEncoder:
    return TextEncoder.from_directory(bert_directory, input_names=NAMES)


def test_a_copy_keeps_lengths_and_special_tokens_and_has_no_label(
    text_splits: Splits, encoder: TextEncoder
) -> None:
    train = text_splits.train
    made = augmented(train, encoder, seed=0)
    assert len(made) == len(train) and set(made.labels.tolist()) == {NO_LABEL}
    for row, copy in zip(train.rows, made.rows, strict=True):
        ids, changed = row["input_ids"], copy["input_ids"]
        assert len(ids) == len(changed) and (changed[0], changed[-1]) == (2, 3)
        assert copy["attention_mask"] is row["attention_mask"]


def test_some_tokens_are_others_and_all_come_from_the_rows(text_splits: Splits, encoder: TextEncoder) -> None:
    train = text_splits.train
    made = augmented(train, encoder, seed=0)
    words = np.concatenate([row["input_ids"][1:-1] for row in train.rows])
    others = np.concatenate([row["input_ids"][1:-1] for row in made.rows])
    assert set(others.tolist()) <= set(words.tolist())
    # 20 % are drawn anew (of six words: 17 % differ), half of the rows have up to half a span exchanged.
    assert 0.15 < float((words != others).mean()) < 0.45


def test_the_seed_decides(text_splits: Splits, encoder: TextEncoder) -> None:
    prints = [augmented(text_splits.train, encoder, seed=seed).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_rows_of_special_tokens_alone_stay_as_they_are(text_splits: Splits, encoder: TextEncoder) -> None:
    ids = np.array([2, 3])
    row = {name: ids if name == "input_ids" else np.ones(2, np.int64) for name in NAMES}
    empty = Split.without_labels("train", (row,), text_splits.train.inputs)
    assert augmented(empty, encoder, seed=0).rows[0]["input_ids"].tolist() == [2, 3]
    both = augmented(empty.joined(text_splits.train), encoder, seed=0)
    assert both.rows[0]["input_ids"].tolist() == [2, 3]
