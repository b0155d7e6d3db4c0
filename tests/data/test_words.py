"""Tokens that a tokenizer doesn't know are counted, and a tokenizer without words is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from compress.data import NumbersReader, Split, TextEncoder
from compress.data.words import unknown_share, unknown_token_notes
from compress.errors import DataError


def _encoded(encoder: TextEncoder, *texts: str) -> Split:
    rows, _ = encoder.encode(texts, max_length=16)
    return Split("test", rows, np.zeros(len(rows), np.int64), encoder.inputs)


def _encoder(directory: Path, model: Any) -> TextEncoder:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    return TextEncoder.from_directory(directory)


def test_special_tokens_do_not_count(bert_directory: Path) -> None:
    encoder = TextEncoder.from_directory(bert_directory)  # [CLS] ... [SEP] around each text
    split = _encoded(encoder, "good film", "xyzzy film")
    assert unknown_share(split, encoder.tokenizer) == 1 / 4
    (note,) = unknown_token_notes(split, encoder.tokenizer)
    assert "25%" in note
    assert unknown_token_notes(_encoded(encoder, "a good film", "bad"), encoder.tokenizer) == ()


@pytest.mark.parametrize(
    ("words", "expected"), [("a a a a a a a a a x", 0), ("a a a a a a a a x x", 1)]
)  # a tenth is let pass
def test_more_than_a_tenth_is_noted(tmp_path: Path, words: str, expected: int) -> None:
    encoder = _encoder(tmp_path, models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    assert len(unknown_token_notes(_encoded(encoder, words), encoder.tokenizer)) == expected


def test_the_unknown_token_of_every_kind_of_tokenizer_is_found(tmp_path: Path) -> None:
    for model in (
        models.WordPiece({"?": 0, "a": 1}, unk_token="?"),
        models.BPE({"?": 0, "a": 1}, [], unk_token="?"),
        models.Unigram([("?", 0.0), ("a", -1.0)], unk_id=0),
    ):
        encoder = _encoder(tmp_path, model)
        assert unknown_share(_encoded(encoder, "a x"), encoder.tokenizer) == 0.5
    assert NumbersReader().doubts(_encoded(encoder, "x")) == ()


def test_a_tokenizer_without_words_is_refused(bert_directory: Path, tmp_path: Path) -> None:
    empty = json.loads((bert_directory / "tokenizer.json").read_text())
    empty["model"]["vocab"] = {
        token: index for token, index in empty["model"]["vocab"].items() if token.startswith("[")
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(empty))
    with pytest.raises(DataError, match="tokenizer.json"):
        TextEncoder.from_directory(tmp_path)
