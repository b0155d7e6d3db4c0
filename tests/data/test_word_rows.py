"""Rows of words with a tag each: files, refusals, encoding as by transformers, and cuts between words."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from compress.data import FileData, load_splits
from compress.data.readers.tokenize import TextEncoder
from compress.data.readers.word_encoding import encode_words, encoder_of_words
from compress.data.sources.datasets import DatasetsData
from compress.data.sources.file import read_text_file, read_unlabelled_file
from compress.data.sources.label_columns import LabelColumns
from compress.data.table import Table, Words
from compress.errors import DataError
from compress.tasks import NO_LABEL

TEXT = ["the lowest towers of Newport are lower", "newer towns and widest rivers", "a port, by the river"] * 8
WORDS = Words(["the", "lowest", "towers", "by", "Newport,", "are", "wide"])


def _table(path: Path, text: str = "text", label: str = "label") -> Table:
    return read_text_file(path, text=text, label=LabelColumns((label,), "tags"))


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


CONLL = [
    "-DOCSTART- -X- -X- O",
    "",
    "Ann NNP I-NP B-PER",
    "reads VBZ I-VP O",
    "",
    "",
    "# NN I-NP O",
    "1 CD I-NP O",
]


def test_a_conll_file_has_a_word_and_its_tag_per_line(tmp_path: Path) -> None:
    table = _table(_write(tmp_path / "a.conll", CONLL))
    assert [item.words for item in table.items if isinstance(item, Words)] == [("Ann", "reads"), ("#", "1")]
    assert table.labels == (("B-PER", "O"), ("O", "O"))
    assert [table.place(0), table.place(1)] == ["line 3", "line 7"]
    assert _table(tmp_path / "a.conll", "1", "2").labels == (("NNP", "VBZ"), ("NN", "CD"))
    tabs = _write(tmp_path / "b.bio", ["New York\tB-LOC", "calls\tO"])
    assert _table(tabs).items[0].words == ("New York", "calls")  # type: ignore[union-attr]


def test_a_conllu_file_gives_forms_and_universal_tags(tmp_path: Path) -> None:
    def line(number: str, form: str, tag: str) -> str:
        return "\t".join([number, form, form.lower(), tag, f"X{tag}", "_", "0", "root", "_", "_"])

    lines = ["# text = vámonos al", line("1-2", "vámonos", "_"), line("1", "vamos", "VERB")]
    lines += [line("2", "nos", "PRON"), line("2.1", "gone", "VERB"), line("3", "al", "ADP")]
    table = _table(_write(tmp_path / "a.conllu", lines))
    assert table.items == ("vamos nos al",) and table.labels == (("VERB", "PRON", "ADP"),)
    assert _table(tmp_path / "a.conllu", "form", "XPOS").labels == (("XVERB", "XPRON", "XADP"),)
    with pytest.raises(DataError, match=r"a\.conllu:1: "):
        _table(_write(tmp_path / "a.conllu", [line("1", "vamos", "_")]))


@pytest.mark.parametrize(
    ("lines", "columns", "place"),
    [
        (["Ann B-PER", "reads"], ("text", "label"), ":2: "),
        (["Ann", "reads"], ("text", "label"), ":1: "),
        (["Ann NNP B-PER"], ("1", "4"), "'4'"),
        (["Ann NNP B-PER"], ("words", "tags"), "'words'"),
        (["Ann NNP B-PER"], ("2", "2"), ":1: "),
        ([""], ("text", "label"), "no rows"),
    ],
)
def test_an_ambiguous_conll_file_is_refused(
    lines: list[str], columns: tuple[str, str], place: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=place):
        _table(_write(tmp_path / "a.conll", lines), *columns)


@pytest.mark.parametrize(
    "row",
    [
        {"words": ["a", "b"], "tags": ["O"]},
        {"words": "a b", "tags": ["O", "O"]},
        {"words": ["a", " "], "tags": ["O", "O"]},
        {"words": [], "tags": []},
        {"words": ["a", "b"], "tags": ["O", None]},
        {"words": ["a", "b"], "tags": "O O"},
        {"words": ["a", 2], "tags": ["O", "O"]},
        {"words": ["a", "b"], "tags": ["O", 0.5]},
    ],
)
def test_a_row_whose_words_and_tags_do_not_fit_is_refused_with_its_line(
    row: dict[str, Any], tmp_path: Path
) -> None:
    good = {"words": ["a", "b"], "tags": ["O", "B-X"]}
    path = _write(tmp_path / "a.jsonl", [json.dumps(good), json.dumps(row)])
    with pytest.raises(DataError, match=r"line 2\b"):
        _table(path, "words", "tags")


def test_lists_of_words_are_no_text_for_other_tasks_which_are_told_the_task(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.conll", ["Ann B-PER"])
    with pytest.raises(DataError, match=r"data\.task=token-labels"):
        read_text_file(path, text="text", label="label")
    path = _write(tmp_path / "a.txt", ["Ann reads a book"])
    assert read_unlabelled_file(path, text="text", of_words=True).items == ("Ann reads a book",)
    path = _write(tmp_path / "b.conll", ["Ann", "reads"])
    (item,) = read_unlabelled_file(path, text="text", of_words=True).items
    assert isinstance(item, Words) and item.words == ("Ann", "reads")


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 3), ("<s>", 2), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def _metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        TEXT, trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return tokenizer


def _saved(tokenizer: Tokenizer, directory: Path) -> TextEncoder:
    from transformers import PreTrainedTokenizerFast

    pad, unknown = ("[PAD]", "[UNK]") if tokenizer.token_to_id("[PAD]") == 0 else ("<pad>", "<unk>")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown)
    fast.save_pretrained(directory)
    return TextEncoder.from_directory(directory)


@pytest.mark.parametrize("make", [_wordpiece, _byte_level, _metaspace])
def test_words_are_encoded_as_transformers_encodes_them(
    make: Callable[[], Tokenizer], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    encoder = encoder_of_words(_saved(make(), tmp_path / "given"))
    found = encode_words(encoder, [WORDS, "by the river"], max_length=64)
    (tmp_path / "shipped").mkdir()
    encoder.write_(tmp_path / "shipped", 64)
    shipped = AutoTokenizer.from_pretrained(tmp_path / "shipped")
    wanted = shipped([list(WORDS.words), ["by", "the", "river"]], is_split_into_words=True)
    assert [row["input_ids"].tolist() for row in found.rows] == wanted["input_ids"]
    assert found.places is not None and found.places.shape == (2, 7)
    for row, places in enumerate(found.places.tolist()):
        first = [wanted.word_ids(row).index(word) for word in range((7, 3)[row])]
        assert places == first + [-1] * (7 - len(first))
    assert (found.cut, found.left_out, found.silent, found.notes("test", 64)) == (0, 0, 0, ())


def test_a_byte_level_tokenizer_puts_a_space_before_each_word(tmp_path: Path) -> None:
    given = _saved(_byte_level(), tmp_path)
    encoder = encoder_of_words(given)
    apart = [token for token in encoder.tokenizer.encode(["by", "by"], is_pretokenized=True).tokens]
    assert apart[1:3] == ["Ġby", "Ġby"]
    assert given.tokenizer.encode(["by", "by"], is_pretokenized=True).tokens[1:3] == ["by", "by"]
    pieces = _byte_level()
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    with pytest.raises(DataError, match="tokenizer.json"):
        encoder_of_words(_saved(pieces, tmp_path / "pieces"))


@pytest.mark.parametrize("side", ["right", "left"])
def test_long_rows_are_cut_between_words(side: str, tmp_path: Path) -> None:
    encoder = encoder_of_words(_saved(_wordpiece(), tmp_path))
    object.__setattr__(encoder, "truncation_side", side)
    whole = encode_words(encoder, [WORDS], max_length=64)
    sizes = np.diff([*whole.places[0], len(whole.rows[0]["input_ids"]) - 1]).tolist()  # type: ignore[index]
    assert max(sizes) > 1
    for length in range(3, sum(sizes) + 2):
        found = encode_words(encoder, [WORDS], max_length=length)
        assert found.places is not None
        kept = np.flatnonzero(found.places[0] >= 0).tolist()
        ids = found.rows[0]["input_ids"]
        assert len(ids) == 2 + sum(sizes[word] for word in kept) <= length
        expected = range(7 - len(kept), 7) if side == "left" else range(len(kept))
        assert kept == list(expected) and found.left_out == 7 - len(kept) and found.cut == 1
        beyond = sizes[6 - len(kept)] if side == "left" else sizes[len(kept)]
        assert len(ids) + beyond > length  # no further word would have fit
        (note,) = found.notes("test", length)
        assert note.kind == "cut"
    assert encoder.truncated_at == sum(sizes) + 1


def test_words_without_tokens_have_no_place_and_are_counted(tmp_path: Path) -> None:
    from tokenizers import normalizers

    tokenizer = _wordpiece()
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    encoder = encoder_of_words(_saved(tokenizer, tmp_path))
    found = encode_words(encoder, [Words(["by", "\u200b", "river"])], max_length=64)
    assert found.places is not None and found.places[0, 1] == -1 and (found.places[0] >= 0).sum() == 2
    assert found.silent == 1 and [note.kind for note in found.notes("test", 64)] == ["dropped"]


def _rows(count: int = 40) -> list[tuple[list[str], list[str]]]:
    draw, found = np.random.default_rng(0), {}
    known = sorted({word for text in TEXT for word in text.split()})
    while len(found) < count:
        words = draw.choice(known, int(draw.integers(3, 7))).tolist()
        found[" ".join(words)] = (words, ["B-X" if word[0] in "tw" else "O" for word in words])
    return list(found.values())


def test_labels_are_at_first_tokens_and_stay_there_in_batches(tmp_path: Path) -> None:
    lines = [json.dumps({"words": words, "tags": tags}) for words, tags in _rows()]
    path = _write(tmp_path / "a.jsonl", lines)
    unlabelled = _write(tmp_path / "b.txt", ["widest towers are lower", "newer towns by a port"])
    encoder = _saved(_wordpiece(), tmp_path / "model")
    config = FileData(
        train=path, unlabelled=unlabelled, task="token-labels", text="words", label="tags", max_length=12
    )
    splits = load_splits(config, reader=encoder, label_order=("O", "B-X"))
    assert splits.task.labels == ("O", "B-X") and splits.unlabelled is not None
    for batch in splits.train.batches(7, shuffle_seed=0):
        assert batch["labels"].shape == batch["input_ids"].shape
        for row, labels in zip(batch["row_index"], batch["labels"], strict=True):
            words = splits.train.texts[row].words  # type: ignore[attr-defined]
            tags = [int(word[0] in "tw") for word in words]
            known = labels[labels != NO_LABEL].tolist()
            assert known == tags[: len(known)] and len(known) >= 2
    truth = splits.test.truth(splits.task)
    assert truth.lengths.sum() == len(truth.labels) and set(truth.labels.tolist()) == {0, 1}
    joined = splits.train.joined(splits.unlabelled)
    last = list(joined.batches(len(joined)))[0]["labels"][-1]
    assert set(last.tolist()) == {NO_LABEL}


def test_datasets_give_lists_of_words_and_names_of_tags(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-X", "I-X"])),
        }
    )
    rows = _rows()
    numbers = [[("O", "B-X").index(tag) for tag in tags] for _, tags in rows]
    data = datasets.Dataset.from_dict({"tokens": [w for w, _ in rows], "ner_tags": numbers}, features)
    data.save_to_disk(str(tmp_path / "data"))
    config = DatasetsData(name=str(tmp_path / "data"), task="token-labels", text="tokens", label="ner_tags")
    table = config.tables()["train"]
    assert table.declared == ("O", "B-X", "I-X") and table.labels[0] == tuple(rows[0][1])
    assert table.items[0].words == tuple(rows[0][0])  # type: ignore[union-attr]


def test_words_stay_themselves_in_copies() -> None:
    for made in (copy.deepcopy(WORDS), pickle.loads(pickle.dumps(WORDS))):
        assert made == WORDS == "the lowest towers by Newport, are wide" and made.words == WORDS.words


def test_words_are_of_one_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two columns"):
        FileData(train=tmp_path / "a.jsonl", task="token-labels", text=("a", "b"))


def test_columns_of_a_conll_file_may_be_given_as_numbers(tmp_path: Path) -> None:
    config = FileData.model_validate(
        {"train": _write(tmp_path / "a.conll", CONLL), "task": "token-labels", "text": 1, "label": 2}
    )
    assert config.tables()["train"].labels[0] == ("NNP", "VBZ")
