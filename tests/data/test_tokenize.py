from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from compress.data import TextEncoder
from compress.errors import DataError


def _edit_tokenizer(directory: Path, **changes: object) -> None:
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_encode_gives_ids_and_mask_with_special_tokens_and_no_padding(encoder: TextEncoder) -> None:
    rows, cut = encoder.encode(["good film", "bad"], max_length=8)
    assert [row["input_ids"].tolist() for row in rows] == [[2, 4, 6, 3], [2, 5, 3]]
    assert [row["attention_mask"].tolist() for row in rows] == [[1, 1, 1, 1], [1, 1, 1]]
    assert all(set(row) == {"input_ids", "attention_mask"} for row in rows)
    assert rows[0]["input_ids"].dtype == np.int64
    assert cut == 0


def test_encode_cuts_long_texts_but_keeps_special_tokens_and_counts_them(encoder: TextEncoder) -> None:
    rows, cut = encoder.encode(["w0 w1 w2 w3", "w0 w1", "w0 w1 w2"], max_length=4)
    assert [row["input_ids"].tolist() for row in rows] == [[2, 7, 8, 3]] * 3
    assert cut == 2


def test_encode_gives_the_inputs_that_the_model_takes_in_its_order(tokenizer_directory: Path) -> None:
    names = ("token_type_ids", "input_ids")
    encoder = TextEncoder.from_directory(tokenizer_directory, input_names=names)
    rows, _ = encoder.encode(["good"], max_length=8)
    assert tuple(rows[0]) == names
    assert rows[0]["token_type_ids"].tolist() == [0, 0, 0]
    assert tuple(spec.name for spec in encoder.inputs) == names
    assert {spec.shape for spec in encoder.inputs} == {("sequence_length",)}


def test_encode_ignores_truncation_and_padding_that_the_file_sets(tokenizer_directory: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_directory / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tokenizer_directory / "tokenizer.json"))
    rows, cut = TextEncoder.from_directory(tokenizer_directory).encode(["w0 w1 w2"], max_length=8)
    assert rows[0]["input_ids"].tolist() == [2, 7, 8, 9, 3]
    assert cut == 0


def test_encode_cuts_the_left_end_where_the_tokenizer_says_so(tokenizer_directory: Path) -> None:
    config = {"pad_token": "[PAD]", "truncation_side": "left"}
    (tokenizer_directory / "tokenizer_config.json").write_text(json.dumps(config))
    rows, _ = TextEncoder.from_directory(tokenizer_directory).encode(["w0 w1 w2"], max_length=3)
    assert rows[0]["input_ids"].tolist() == [2, 9, 3]


def test_tokenizer_json_alone_gives_the_same_ids(encoder: TextEncoder) -> None:
    texts = ["good film w1 w2 w3", "bad"]
    shipped = Tokenizer.from_str(encoder.tokenizer_json(max_length=4))
    rows, _ = encoder.encode(texts, max_length=4)
    assert [shipped.encode(text).ids for text in texts] == [row["input_ids"].tolist() for row in rows]


def test_vocab_size_is_one_more_than_the_highest_id_even_where_ids_have_gaps(
    encoder: TextEncoder, tokenizer_directory: Path
) -> None:
    assert encoder.vocab_size == 67
    model = json.loads((tokenizer_directory / "tokenizer.json").read_text())["model"]
    model["vocab"]["far"] = 99
    _edit_tokenizer(tokenizer_directory, model=model)
    assert TextEncoder.from_directory(tokenizer_directory).vocab_size == 100


@pytest.mark.parametrize("token", ["film", {"content": "film"}])
def test_pad_id_is_that_of_the_pad_token_in_the_config(tokenizer_directory: Path, token: object) -> None:
    (tokenizer_directory / "tokenizer_config.json").write_text(json.dumps({"pad_token": token}))
    encoder = TextEncoder.from_directory(tokenizer_directory)
    assert [(spec.name, spec.pad_value) for spec in encoder.inputs] == [
        ("input_ids", 6),
        ("attention_mask", 0),
    ]


def test_pad_id_falls_back_to_the_special_tokens_then_to_padding_then_to_zero(
    tokenizer_directory: Path,
) -> None:
    (tokenizer_directory / "tokenizer_config.json").unlink()
    assert TextEncoder.from_directory(tokenizer_directory).pad_id == 0
    tokenizer = Tokenizer.from_file(str(tokenizer_directory / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=5, pad_token="bad")
    tokenizer.save(str(tokenizer_directory / "tokenizer.json"))
    assert TextEncoder.from_directory(tokenizer_directory).pad_id == 5
    (tokenizer_directory / "special_tokens_map.json").write_text(json.dumps({"pad_token": "film"}))
    assert TextEncoder.from_directory(tokenizer_directory).pad_id == 6


def test_missing_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tokenizer.json.*save_pretrained"):
        TextEncoder.from_directory(tmp_path)


def test_corrupt_tokenizer_is_refused(tokenizer_directory: Path) -> None:
    (tokenizer_directory / "tokenizer.json").write_text("{not json")
    with pytest.raises(DataError, match="tokenizer.json"):
        TextEncoder.from_directory(tokenizer_directory)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{oops", "tokenizer_config.json: not JSON"),
        ("[]", "tokenizer_config.json: must be a JSON object, not list"),
        ('{"pad_token": "<pad>"}', "tokenizer_config.json: pad_token '<pad>' is not in tokenizer.json"),
        ('{"truncation_side": "middle"}', "truncation_side.*'middle'"),
    ],
)
def test_broken_tokenizer_config_is_refused(tokenizer_directory: Path, config: str, message: str) -> None:
    (tokenizer_directory / "tokenizer_config.json").write_text(config)
    with pytest.raises(DataError, match=message):
        TextEncoder.from_directory(tokenizer_directory)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("input_ids", "position_ids"),
            "model's.*'position_ids'.*input_ids",
        ),
        (("attention_mask",), "input_ids.*attention_mask"),
        (("input_ids", "input_ids"), "each input once"),
    ],
)
def test_inputs_that_texts_cannot_fill_are_refused(
    tokenizer_directory: Path, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        TextEncoder.from_directory(tokenizer_directory, input_names=names)


def test_max_length_must_leave_room_beside_special_tokens(encoder: TextEncoder) -> None:
    with pytest.raises(DataError, match="max_length 2 .*2 special"):
        encoder.encode(["good"], max_length=2)


def test_text_without_tokens_is_refused(tokenizer_directory: Path) -> None:
    _edit_tokenizer(tokenizer_directory, post_processor=None)
    encoder = TextEncoder.from_directory(tokenizer_directory)
    with pytest.raises(DataError, match=r"the text '\\u3000' has no tokens"):
        encoder.encode(["\u3000"], max_length=4)


def test_unknown_word_of_a_tokenizer_without_unknown_token_is_an_error_of_ours(
    tokenizer_directory: Path,
) -> None:
    vocab = {"[CLS]": 2, "[SEP]": 3, "good": 4, "[PAD]": 0}
    _edit_tokenizer(tokenizer_directory, model={"type": "WordLevel", "vocab": vocab, "unk_token": "absent"})
    with pytest.raises(DataError, match="tokenizer.json: cannot encode"):
        TextEncoder.from_directory(tokenizer_directory).encode(["film"], max_length=4)
