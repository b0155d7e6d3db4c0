"""Documents for a language model: whole ones in one split; labels are what follows; bytes are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.data import CorpusData, Splits, StdlibData, TextEncoder, load_splits
from compress.data.readers.byte_tokenizer import BYTE_VOCABULARY, write_byte_tokenizer
from compress.errors import DataError


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder.from_directory(write_byte_tokenizer(tmp_path_factory.mktemp("bytes")))


def _document(number: int) -> str:
    return f"document {number}: " + " ".join(f"word{number}x{index}" for index in range(60)) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "texts"
    made.mkdir()
    for number in range(20):
        (made / f"{number:02}.txt").write_text(_document(number), encoding="utf-8")
    return made


def _load(folder: Path, encoder: TextEncoder, **settings: object) -> Splits:
    config = CorpusData.model_validate(
        {"source": "corpus", "train": str(folder), "max_length": 32, **settings}
    )
    return load_splits(config, reader=encoder)


def test_a_token_is_a_byte_and_the_end_of_a_text_has_its_own(encoder: TextEncoder) -> None:
    text = "naïve 本\n\ttab"
    ((ids, sizes),) = encoder.encode_whole([text])
    assert ids.tolist() == list(text.encode())
    assert encoder.tokenizer.decode(ids.tolist()) == text
    assert encoder.end_id == 256 and encoder.vocab_size == BYTE_VOCABULARY
    assert sizes.sum() == len(text.encode())


def test_bytes_of_tokens_sum_to_the_bytes_of_the_text(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "héé": 1, "b": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    encoder = TextEncoder.from_directory(tmp_path)
    ((ids, sizes),) = encoder.encode_whole(["héé  b zz "])
    # A token counts what lies between it and the one before; the last one what is behind it, too.
    assert ids.tolist() == [1, 2, 0] and sizes.tolist() == [5, 3, 4]


def test_labels_are_the_tokens_that_follow(folder: Path, encoder: TextEncoder) -> None:
    splits = _load(folder, encoder)
    for split in (splits.train, splits.validation, splits.test):
        ids = np.stack([row["input_ids"] for row in split.rows])
        assert split.labels.shape == ids.shape and ids.shape[1] == 32
        assert (split.labels[:, :-1] == ids[:, 1:]).all()
    train = np.stack([row["input_ids"] for row in splits.train.rows])
    assert (splits.train.labels[:-1, -1] == train[1:, 0]).all()
    assert splits.task.vocabulary == BYTE_VOCABULARY and splits.task.name == "language-modelling"
    assert splits.task.loss is not None and splits.task.answer_shape == ("sequence_length", BYTE_VOCABULARY)


def test_no_document_stands_in_two_splits_and_ends_are_marked(folder: Path, encoder: TextEncoder) -> None:
    splits = _load(folder, encoder, validation_fraction=0.2, test_fraction=0.2)
    seen: dict[str, set[int]] = {}
    for split in (splits.train, splits.validation, splits.test):
        stream = np.concatenate([row["input_ids"] for row in split.rows])
        assert (stream == 256).any()
        text = encoder.tokenizer.decode(stream[stream != 256].tolist())
        seen[split.name] = {number for number in range(20) if f"word{number}x30" in text}
    assert not seen["train"] & seen["validation"] and not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"] and all(seen.values())


def test_bytes_of_rows_leave_out_what_ends_a_text(folder: Path, encoder: TextEncoder) -> None:
    test = _load(folder, encoder).test
    assert test.label_bytes is not None
    assert test.label_bytes.tolist() == (test.labels != 256).sum(1).tolist()


def test_one_file_is_cut_at_its_lines(tmp_path: Path, encoder: TextEncoder) -> None:
    file = tmp_path / "book.txt"
    file.write_text("".join(f"line {number} of the book\n" for number in range(400)), encoding="utf-8")
    splits = _load(file, encoder)
    texts = {
        split.name: encoder.tokenizer.decode(
            np.concatenate([row["input_ids"] for row in split.rows]).tolist()
        )
        for split in (splits.train, splits.validation, splits.test)
    }
    assert all(text.startswith("line ") for text in texts.values())
    assert "line 10 " in texts["train"] and "line 350 " not in texts["train"]
    assert any("validation and test" in note and "1 document" in note for note in splits.notes)


def test_limits_draw_rows_and_say_so(folder: Path, encoder: TextEncoder) -> None:
    splits = _load(folder, encoder, train_limit=10, validation_limit=3, test_limit=4)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (10, 3, 4)
    assert any(note.startswith("test: 4 of ") for note in splits.notes)


def test_columns_and_datasets_are_documents_too(tmp_path: Path, encoder: TextEncoder) -> None:
    datasets = pytest.importorskip("datasets")
    texts = [_document(number) for number in range(20)]
    (tmp_path / "t.jsonl").write_text("".join(f'{{"text": "{text.strip()}"}}\n' for text in texts))
    datasets.Dataset.from_dict({"text": [text.strip() for text in texts]}).save_to_disk(str(tmp_path / "d"))
    from_file, from_dataset = _load(tmp_path / "t.jsonl", encoder), _load(tmp_path / "d", encoder)
    assert from_file.fingerprint() == from_dataset.fingerprint()
    parts = {"train": texts[:15], "test": texts[15:]}
    both = {part: datasets.Dataset.from_dict({"text": rows}) for part, rows in parts.items()}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "both"))
    drawn = _load(tmp_path / "both", encoder)
    assert "both[train]: its other splits are not read (test); give one as PATH/NAME" in drawn.notes
    given = _load(tmp_path / "both", encoder, test=str(tmp_path / "both" / "test"))
    assert given.source == "both[train] (15 documents), test[train] (5 documents)"


def test_the_standard_library_is_the_same_each_time(encoder: TextEncoder) -> None:
    config = StdlibData(train_bytes=10_000, max_length=64, validation_limit=4, test_limit=4)
    first, again = (load_splits(config, reader=encoder).fingerprint() for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda root: (root / "empty").mkdir(),
            r"\*\.txt.*data\.files",
        ),
        (lambda root: (root / "empty").write_bytes(b"a\xff"), "UTF-8"),
        (lambda root: (root / "empty").write_text(" \n"), "empty: .*no text"),
        (lambda root: (root / "empty").write_text("few"), "too few for two rows of 32"),
        (lambda root: None, "does not exist"),
    ],
)
def test_what_is_no_corpus_is_refused(make, said: str, tmp_path: Path, encoder: TextEncoder) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=said):
        _load(tmp_path / "empty", encoder)


def test_a_document_in_two_files_is_refused(folder: Path, tmp_path: Path, encoder: TextEncoder) -> None:
    other = tmp_path / "test.txt"
    other.write_text(_document(3).upper(), encoding="utf-8")
    with pytest.raises(DataError, match=r"\('DOCUMENT.*3"):
        _load(folder, encoder, test=str(other))


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """The directory of a byte tokenizer that names no end token."""
    directory = write_byte_tokenizer(tmp_path / "endless")
    (directory / "tokenizer_config.json").write_text("{}")
    return directory


def test_a_tokenizer_without_an_end_token_is_refused_and_told_of_its_tokens(
    folder: Path, endless: Path
) -> None:
    with pytest.raises(DataError, match=r"endless names no end token.*data\.end_token=TOKEN \(.*<\|end"):
        _load(folder, TextEncoder.from_directory(endless))
    with pytest.raises(DataError, match=r"data\.end_token.*'</s>'.*tokenizer\.json"):
        _load(folder, TextEncoder.from_directory(endless), end_token="</s>")


def test_a_recipe_or_the_model_may_name_the_end_token(
    folder: Path, endless: Path, encoder: TextEncoder
) -> None:
    named = _load(folder, encoder).fingerprint()
    without = _load(folder, TextEncoder.from_directory(endless), end_token=False)
    assert without.fingerprint() != named and without.notes[-1].startswith("data.end_token is false")
    token = encoder.tokenizer.id_to_token(256)
    assert _load(folder, TextEncoder.from_directory(endless), end_token=token).fingerprint() == named
    (endless / "config.json").write_text('{"eos_token_id": [256, 7]}')
    assert _load(folder, TextEncoder.from_directory(endless)).fingerprint() == named
