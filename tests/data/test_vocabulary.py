"""A smaller tokenizer splits a text whose tokens are all kept as before, and any other text somehow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from compress.data import TextEncoder
from compress.data.readers.vocabulary import (
    encode_again,
    required_tokens,
    smaller_encoder,
    smaller_tokenizer,
    token_counts,
)
from compress.data.split import Split
from compress.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
CORPUS = [line for line in (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines() if line.strip()]
DOMAIN, REST = CORPUS[::5], [line for index, line in enumerate(CORPUS) if index % 5]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=700, show_progress=False, special_tokens=BERT_SPECIAL)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, made.token_to_id(name)) for name in BERT_SPECIAL[2:4]]
    )
    return made


def _byte_level_bpe() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, special_tokens=ROBERTA_SPECIAL, initial_alphabet=alphabet
    )
    made.train_from_iterator(CORPUS, trainer)
    ids = {name: made.token_to_id(name) for name in ROBERTA_SPECIAL}
    made.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    return made


def _suffixed_bpe() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, special_tokens=ROBERTA_SPECIAL, end_of_word_suffix="</w>"
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def _unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        REST,  # so that some characters of the domain are unknown
        trainers.UnigramTrainer(
            vocab_size=700, show_progress=False, special_tokens=ROBERTA_SPECIAL, unk_token="<unk>"
        ),
    )
    ids = [(name, made.token_to_id(name)) for name in ("<s>", "</s>")]
    made.post_processor = processors.Sequence(
        [processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)]
    )
    return made


def _word_level() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(
        CORPUS, trainers.WordLevelTrainer(show_progress=False, special_tokens=BERT_SPECIAL)
    )
    return made


KINDS = {
    "WordPiece": _word_piece,
    "byte-level BPE": _byte_level_bpe,
    "BPE with suffix": _suffixed_bpe,
    "Unigram": _unigram,
    "WordLevel": _word_level,
}


@pytest.fixture(scope="module", params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


def _read(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_str())


def _smaller(tokenizer: Tokenizer, texts: list[str]) -> tuple[Tokenizer, tuple[int, ...]]:
    wanted = {index for text in texts for index in tokenizer.encode(text).ids}
    kept = required_tokens(_read(tokenizer), wanted)
    assert wanted <= set(kept)
    return Tokenizer.from_str(json.dumps(smaller_tokenizer(_read(tokenizer), kept))), kept


def test_texts_of_kept_tokens_are_split_into_the_same_tokens(tokenizer: Tokenizer) -> None:
    smaller, kept = _smaller(tokenizer, DOMAIN)
    assert len(kept) < 0.9 * tokenizer.get_vocab_size()
    assert smaller.get_vocab_size() == len(kept)
    checked = 0
    for text in [*CORPUS, *(word for line in CORPUS for word in line.split())]:
        before, after = tokenizer.encode(text), smaller.encode(text)
        if set(before.ids) <= set(kept):
            assert after.tokens == before.tokens
            assert after.ids == [kept.index(old) for old in before.ids]
            checked += 1
    assert checked > len(DOMAIN)


def test_tokens_that_are_gone_come_out_as_pieces_unless_words_are_never_split(tokenizer: Tokenizer) -> None:
    smaller, _ = _smaller(tokenizer, DOMAIN[:3])
    unknown = {"[UNK]", "<unk>"}
    before = [token in unknown for text in REST for token in tokenizer.encode(text).tokens]
    after = [token in unknown for text in REST for token in smaller.encode(text).tokens]
    if type(tokenizer.model) is models.WordLevel:
        assert sum(after) > sum(before)
    else:
        assert len(after) > len(before) and sum(after) <= sum(before)


def test_every_token_that_is_kept_keeps_its_name(tokenizer: Tokenizer) -> None:
    smaller, kept = _smaller(tokenizer, DOMAIN[:3])
    assert [smaller.id_to_token(new) for new in range(len(kept))] == [tokenizer.id_to_token(i) for i in kept]
    old, new = tokenizer.get_added_tokens_decoder(), smaller.get_added_tokens_decoder()
    assert [str(token) for token in new.values()] == [str(token) for token in old.values()]


def test_bpe_keeps_the_merges_on_the_way_and_no_others() -> None:
    vocabulary = {token: i for i, token in enumerate(["a", "b", "c", "ab", "bc", "abc", "cab"])}
    bpe = models.BPE(vocab=vocabulary, merges=[("a", "b"), ("b", "c"), ("ab", "c"), ("c", "ab")])
    read = _read(Tokenizer(bpe))
    kept = required_tokens(read, [5])
    assert kept == (0, 1, 2, 3, 5)  # abc is ab + c, ab is a + b; bc and cab are on no way to it
    made = smaller_tokenizer(read, kept)["model"]
    assert made["vocab"] == {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}
    assert made["merges"] == [["a", "b"], ["ab", "c"]]


def test_unigram_keeps_the_lowest_score_because_unknown_is_worse_by_a_constant() -> None:
    pieces = [("<unk>", 0.0), ("x", -1.0), ("yy", -2.0), ("zz", -9.0)]
    read = _read(Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False)))
    assert required_tokens(read, []) == (0, 1, 3)


def test_a_kind_of_tokenizer_that_is_not_known_is_refused() -> None:
    with pytest.raises(DataError, match="Other.*can't.*BPE.*Unigram"):
        required_tokens({"model": {"type": "Other"}, "added_tokens": []}, [])


def _encoder(tokenizer: Tokenizer, directory: Path) -> TextEncoder:
    tokenizer.save(str(directory / "tokenizer.json"))
    pad = next(name for name in ("[PAD]", "<pad>") if tokenizer.token_to_id(name) is not None)
    decoder = {str(i): {"content": str(token)} for i, token in tokenizer.get_added_tokens_decoder().items()}
    settings = {"pad_token": pad, "added_tokens_decoder": decoder}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "vocab.txt").write_text("old ids")
    return TextEncoder.from_directory(directory)


def test_what_is_written_loads_as_the_same_encoder_and_has_no_old_ids(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    encoder = _encoder(tokenizer, tmp_path)
    wanted = {i for text in DOMAIN for i in tokenizer.encode(text).ids} | {encoder.pad_id}
    kept = required_tokens(_read(tokenizer), wanted)
    made = smaller_encoder(encoder, kept, tmp_path / "smaller")
    again = TextEncoder.from_directory(tmp_path / "smaller")
    assert sorted(p.name for p in (tmp_path / "smaller").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert again.pad_id == made.pad_id == kept.index(encoder.pad_id)
    rows = [each.encode(DOMAIN, max_length=20)[0] for each in (made, again)]
    assert all((a["input_ids"] == b["input_ids"]).all() for a, b in zip(*rows, strict=True))
    decoder = json.loads((tmp_path / "smaller" / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {int(i): made.tokenizer.token_to_id(token["content"]) for i, token in decoder.items()} == {
        int(i): int(i) for i in decoder
    }


def test_rows_are_encoded_again_in_new_ids_and_cut_where_they_were(tmp_path: Path) -> None:
    encoder = _encoder(_word_level(), tmp_path)
    texts = ("the model is the model", "run a recipe")
    rows, _ = encoder.encode(texts, max_length=4)
    split = Split("train", rows, np.array([0, 1]), encoder.inputs, texts)
    counts = token_counts(split, encoder.vocab_size)
    assert counts.sum() == 7 and counts[encoder.tokenizer.token_to_id("the")] == 2
    kept = required_tokens(_read(encoder.tokenizer), counts.nonzero()[0].tolist())
    again = encode_again(split, smaller_encoder(encoder, kept))
    assert [[kept[i] for i in row["input_ids"]] for row in again.rows] == [
        row["input_ids"].tolist() for row in rows
    ]
    assert again.texts == texts and (again.labels == split.labels).all()
    with pytest.raises(DataError, match="the train split has no texts"):
        encode_again(Split("train", rows, split.labels, encoder.inputs), encoder)


def test_rows_of_another_tokenizer_cannot_be_counted() -> None:
    rows = ({"input_ids": np.array([1, 7])},)
    with pytest.raises(DataError, match="token 7"):
        token_counts(Split("train", rows, np.array([0]), ()), 5)


def test_rows_without_tokens_cannot_be_counted() -> None:
    rows = ({"features": np.zeros((2, 4))},)
    with pytest.raises(DataError, match="input_ids"):
        token_counts(Split("train", rows, np.array([0]), ()), 5)


def test_an_end_token_gets_its_new_id_and_one_that_is_cut_none(tmp_path: Path) -> None:
    encoder = _encoder(_word_level(), tmp_path)
    words = sorted(
        set(encoder.tokenizer.get_vocab().values()) - set(required_tokens(_read(encoder.tokenizer), []))
    )
    ending = replace(encoder, end_id=words[-1])
    kept = required_tokens(_read(encoder.tokenizer), words[-1:])
    assert smaller_encoder(ending, kept).end_id == kept.index(words[-1]) < words[-1]
    assert smaller_encoder(ending, required_tokens(_read(encoder.tokenizer), words[:1])).end_id is None
