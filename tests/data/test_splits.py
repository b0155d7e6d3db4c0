from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from compress.data import DatasetsData, DigitsData, FileData, Split, Splits, TextEncoder, load_splits
from compress.errors import DataError

Write = Callable[..., Path]


def _pool(count: int = 40, classes: int = 2) -> list[tuple[str, object]]:
    return [(f"film w{i}", i % classes) for i in range(count)]


def _classes(split: Split) -> dict[int, int]:
    return dict(Counter(split.labels.tolist()))


def _refused(message: str, encoder: TextEncoder, **config: Any) -> None:
    with pytest.raises(DataError, match=message):
        load_splits(FileData(**config), reader=encoder)


def test_drawn_splits_are_stratified_separate_and_together_the_whole_pool(
    write_csv: Write, encoder: TextEncoder
) -> None:
    splits = load_splits(FileData(train=write_csv("a.csv", _pool())), reader=encoder)
    parts = (splits.train, splits.validation, splits.test)
    assert [_classes(part) for part in parts] == [{0: 14, 1: 14}, {0: 2, 1: 2}, {0: 4, 1: 4}]
    texts = [text for part in parts for text in part.texts]
    assert len(texts) == len(set(texts)) == 40
    assert [part.name for part in parts] == ["train", "validation", "test"]
    assert splits.source == "a.csv (40 rows; validation and test drawn from it)"
    assert splits.notes == ()


def test_notes_say_of_which_kind_they_are(write_csv: Write, encoder: TextEncoder) -> None:
    path = write_csv("a.csv", [*_pool(), ("film w0", 0)])
    path.write_text(path.read_text().replace(",", ";"))
    splits = load_splits(FileData(train=path, max_length=3, train_limit=20), reader=encoder)
    kinds = [note.kind for note in splits.notes]
    assert kinds == ["dropped", "limit", "other", "cut", "cut", "cut"]
    assert splits.notes[3].startswith("train: 20 of 20 texts") and "3 tokens (max_length)" in splits.notes[3]


def test_labels_that_are_amounts_are_told_the_word_regression(write_csv: Write, encoder: TextEncoder) -> None:
    prices = [(f"film w{i}", 1000 + 7 * i) for i in range(40)]
    _refused("distinct row.* data.task=regression", encoder, train=write_csv("a.csv", prices))
    classes = [*_pool(), ("good w1", 2)]
    with pytest.raises(DataError, match="label '2' has 1 distinct row") as refused:
        load_splits(FileData(train=write_csv("b.csv", classes)), reader=encoder)
    assert "regression" not in str(refused.value)


def test_rows_labels_and_texts_of_a_split_belong_together(write_csv: Write, encoder: TextEncoder) -> None:
    splits = load_splits(FileData(train=write_csv("a.csv", _pool())), reader=encoder)
    for text, row, label in zip(splits.test.texts, splits.test.rows, splits.test.labels, strict=True):
        number = int(text.split("w")[-1])
        assert row["input_ids"].tolist() == [2, 6, 7 + number, 3]
        assert splits.task.labels[label] == str(number % 2)
    assert splits.test.labels.dtype == np.int64


def test_same_seed_gives_the_same_splits_and_another_seed_others(
    write_csv: Write, encoder: TextEncoder
) -> None:
    def load(seed: int) -> Splits:
        return load_splits(FileData(train=tmp, seed=seed, train_limit=20), reader=encoder)

    tmp = write_csv("a.csv", _pool())
    assert load(1).fingerprint() == load(1).fingerprint()
    assert load(1).test.texts != load(2).test.texts
    assert load(1).train.texts != load(2).train.texts


def test_split_with_its_own_file_is_left_whole_and_in_order(write_csv: Write, encoder: TextEncoder) -> None:
    test_rows = [("bad", 1), ("good", 0), ("good film", 1)]
    config = FileData(train=write_csv("a.csv", _pool()), test=write_csv("t.csv", test_rows))
    splits = load_splits(config, reader=encoder)
    assert splits.test.texts == ("bad", "good", "good film")
    assert splits.test.labels.tolist() == [1, 0, 1]
    assert (len(splits.train), len(splits.validation)) == (36, 4)
    assert splits.source == "a.csv (40 rows; validation drawn from it), t.csv (3 rows)"


def test_pool_is_deduplicated_before_it_is_split(write_csv: Write, encoder: TextEncoder) -> None:
    rows = [row for text, label in _pool() for row in ((text, label), (f"  {text.upper()} ", label))]
    splits = load_splits(FileData(train=write_csv("a.csv", rows)), reader=encoder)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 40
    (note,) = splits.notes
    assert note.kind == "dropped" and note.startswith("a.csv: 40 rows")


def test_train_drops_repeats_and_all_rows_of_an_input_with_two_labels(
    write_csv: Write, encoder: TextEncoder
) -> None:
    rows = [*_pool(4), ("film w0", 0), ("bad", 1), ("bad", 0), ("Bad", 0)]
    held = {part: write_csv(f"{part}.csv", [(f"good {part}", 0)]) for part in ("validation", "test")}
    splits = load_splits(FileData(train=write_csv("a.csv", rows), **held), reader=encoder)
    assert splits.train.texts == ("film w0", "film w1", "film w2", "film w3")
    repeats, torn = splits.notes
    assert repeats.kind == torn.kind == "dropped"
    assert repeats.startswith("a.csv: 1 row ") and torn.startswith("a.csv: 3 rows ") and "1 input" in torn


def test_held_out_file_loses_exact_repeats_only(write_csv: Write, encoder: TextEncoder) -> None:
    rows = [("good", 1), ("good", 1), ("Good", 1), ("good", 0)]
    config = FileData(train=write_csv("a.csv", _pool()), test=write_csv("t.csv", rows))
    splits = load_splits(config, reader=encoder)
    assert splits.test.texts == ("good", "Good", "good")
    dropped, kept = splits.notes
    assert (dropped.kind, kept.kind) == ("dropped", "other")
    assert dropped.startswith("t.csv: 1 row ") and kept.startswith("t.csv: 1 row kept")


def test_text_in_two_files_is_a_leak_with_places_and_a_remedy(write_csv: Write, encoder: TextEncoder) -> None:
    leaking = [("Film  W3", 1), ("good", 0), ("film w5", 1), ("film w7 ", 1)]
    _refused(
        r"t\.csv: 3 of 4 test rows .*a\.csv\).*line 2 .*line 5 .*'Film  W3'.*line 4 .*line 7 .*'film w5'",
        encoder,
        train=write_csv("a.csv", _pool()),
        test=write_csv("t.csv", leaking),
    )


def test_leak_between_validation_and_test_and_the_same_file_twice_are_refused(
    write_csv: Write, encoder: TextEncoder
) -> None:
    train, held = write_csv("a.csv", _pool()), write_csv("h.csv", [("good", 0)])
    _refused("1 of 1 test rows .*validation", encoder, train=train, validation=held, test=held)
    _refused("40 of 40 validation rows .*train", encoder, train=train, validation=train)


def test_one_class_and_contradictions_only_are_refused(write_csv: Write, encoder: TextEncoder) -> None:
    one = write_csv("one.csv", [(f"w{i}", "x") for i in range(9)])
    _refused(r"one\.csv.*'x'", encoder, train=one)
    torn = write_csv("torn.csv", [("good", 0), ("good", 1)])
    _refused(r"torn\.csv: no rows .*more than one label", encoder, train=torn)


def test_label_that_train_lacks_is_refused_with_its_place(write_csv: Write, encoder: TextEncoder) -> None:
    held = write_csv("t.csv", [("good", 1), ("bad", 7)])
    _refused(
        r"t\.csv.*'7'.*\(line.*3\).*a\.csv.*0.*1",
        encoder,
        train=write_csv("a.csv", _pool()),
        test=held,
    )


def test_class_too_small_for_each_split_is_refused(write_csv: Write, encoder: TextEncoder) -> None:
    two = write_csv("two.csv", [*_pool(), ("good", "x"), ("bad", "x")])
    _refused("label 'x' has 2 distinct rows", encoder, train=two)
    three = write_csv("three.csv", [*_pool(100), *((f"good w{i}", "x") for i in range(3))])
    for fraction, message in [(0.05, "validation .*0.* about 20"), (0.6, "train .*1")]:
        message = f"label 'x' has 3 distinct rows.* {message}"
        _refused(message, encoder, train=three, validation_fraction=fraction)


def test_fraction_that_cannot_hold_every_class_is_refused(write_csv: Write, encoder: TextEncoder) -> None:
    path = write_csv("a.csv", _pool(30, classes=5))
    _refused("validation_fraction.*0.1.*30.*5", encoder, train=path)


@pytest.mark.parametrize("limit", [10, 27])
def test_train_limit_takes_a_stratified_subset_of_train_only(
    write_csv: Write, encoder: TextEncoder, limit: int
) -> None:
    path = write_csv("a.csv", _pool())
    whole = load_splits(FileData(train=path), reader=encoder)
    limited = load_splits(FileData(train=path, train_limit=limit), reader=encoder)
    assert len(limited.train) == limit
    assert abs(_classes(limited.train)[0] - _classes(limited.train)[1]) <= 1
    assert set(limited.train.texts) < set(whole.train.texts)
    assert limited.test.fingerprint() == whole.test.fingerprint()
    assert limited.validation.fingerprint() == whole.validation.fingerprint()
    (note,) = limited.notes
    assert note.kind == "limit" and f"train: {limit} of 28 rows" in note and "train_limit" in note


def test_train_limit_above_the_rows_there_are_takes_all(write_csv: Write, encoder: TextEncoder) -> None:
    splits = load_splits(FileData(train=write_csv("a.csv", _pool()), train_limit=28), reader=encoder)
    assert (len(splits.train), splits.notes) == (28, ())


def test_train_limit_that_would_lose_a_class_is_refused(write_csv: Write, encoder: TextEncoder) -> None:
    held = {part: write_csv(f"{part}.csv", [(f"good {part}", 0)]) for part in ("validation", "test")}
    three = write_csv("a.csv", _pool(30, classes=3))
    _refused("train_limit.*2.*3", encoder, train=three, train_limit=2, **held)
    rare = write_csv("b.csv", [*_pool(), ("bad", "x"), ("bad film", "x")])
    _refused("train_limit: 4 .*label 'x'", encoder, train=rare, train_limit=4, **held)
    lone = write_csv("c.csv", [*_pool(), ("bad", "x")])
    _refused("label 'x' has 1 row in train.*train_limit", encoder, train=lone, train_limit=9, **held)


def test_cut_texts_are_noted_by_split(write_csv: Write, encoder: TextEncoder) -> None:
    held = {part: write_csv(f"{part}.csv", [(f"good w1 {part}", 0)]) for part in ("validation", "test")}
    rows = [*_pool(4), ("bad w1 w2", 1)]
    splits = load_splits(FileData(train=write_csv("a.csv", rows), max_length=4, **held), reader=encoder)
    assert {note.kind for note in splits.notes} == {"cut"}
    for note, said in zip(splits.notes, ("train: 1 of 5", "validation: 1 of 1", "test: 1 of 1"), strict=True):
        assert note.startswith(said) and "4 tokens (max_length)" in note


def test_label_order_decides_the_class_indices_and_its_notes_are_kept(
    write_csv: Write, encoder: TextEncoder
) -> None:
    config = FileData(train=write_csv("a.csv", [(text, "np"[int(str(y))]) for text, y in _pool()]))
    assert load_splits(config, reader=encoder).task.labels == ("n", "p")
    ordered = load_splits(config, reader=encoder, label_order=["p", "n"])
    assert ordered.task.labels == ("p", "n")
    assert [int(text.split("w")[-1]) % 2 for text in ordered.test.texts] == [
        1 - y for y in ordered.test.labels
    ]
    unnamed = load_splits(config, reader=encoder, label_order=["LABEL_0", "LABEL_1"])
    assert [note.kind for note in unnamed.notes] == ["guessed-labels"]
    with pytest.raises(DataError, match="label p: the data has n, p"):
        load_splits(config, reader=encoder, label_order=["n", "q"])


def test_texts_without_a_tokenizer_say_how_to_give_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.tokenizer.*model\.hf"):
        load_splits(FileData(train=tmp_path / "absent.csv"))


def test_saved_dataset_gives_splits_in_the_order_of_its_class_names(
    tmp_path: Path, encoder: TextEncoder
) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["world", "business"])}
    )
    texts, labels = zip(*_pool(), strict=True)
    pool = datasets.Dataset.from_dict({"text": list(texts), "label": list(labels)}, features=features)
    pool.save_to_disk(tmp_path / "news")
    splits = load_splits(DatasetsData(name=str(tmp_path / "news")), reader=encoder)
    assert splits.task.labels == ("world", "business")
    assert splits.source == "news[train] (40 rows; validation and test drawn from it)"
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (28, 4, 8)


def test_digits_are_patches_of_two_by_two_in_minus_one_to_one() -> None:
    from sklearn.datasets import load_digits

    splits = load_splits(DigitsData())
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1258, 180, 359)
    assert splits.task.labels == tuple("0123456789")
    (spec,) = splits.task.inputs
    assert (spec.name, spec.dtype, spec.shape) == ("features", "float32", ("sequence_length", 4))
    image, row = load_digits().images[0], splits.train.rows[0]["features"]
    all_rows = [r["features"] for part in (splits.train, splits.validation, splits.test) for r in part.rows]
    wanted = [image[y : y + 2, x : x + 2].ravel() / 8 - 1 for y in (0, 2, 4, 6) for x in (0, 2, 4, 6)]
    assert (row.shape, row.dtype) == ((16, 4), np.float32)
    assert any(np.array_equal(found, np.array(wanted, dtype=np.float32)) for found in all_rows)
    assert min(r.min() for r in all_rows) >= -1 and max(r.max() for r in all_rows) <= 1
    assert (
        splits.fingerprint()
        == load_splits(DigitsData()).fingerprint()
        != load_splits(DigitsData(seed=1)).fingerprint()
    )


def test_digits_take_a_train_limit_and_a_models_label_order() -> None:
    splits = load_splits(DigitsData(train_limit=50), label_order=tuple("9876543210"))
    assert _classes(splits.train) == dict.fromkeys(range(10), 5)
    assert splits.task.labels[0] == "9"


def test_importing_data_brings_no_heavy_library() -> None:
    heavy = ("torch", "sklearn", "scipy", "pyarrow", "datasets", "tokenizers")
    code = f"import sys, compress.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_shared_reviews_load_whole_and_as_transformers_would_encode_them() -> None:
    from transformers import AutoTokenizer

    shared = Path(os.environ.get("MODELPRESS_SHARED", Path(__file__).parents[3] / "shared"))
    reviews, model = shared / "data" / "reviews", shared / "models" / "minilm-reviews"
    assert reviews.is_dir() and model.is_dir(), f"{shared}: no reviews and model; set MODELPRESS_SHARED"
    names = ("input_ids", "attention_mask", "token_type_ids")
    encoder = TextEncoder.from_directory(model, input_names=names)
    paths = {part: reviews / f"{part}.csv" for part in ("train", "validation", "test")}
    splits = load_splits(FileData(**paths, max_length=16), reader=encoder, label_order=["LABEL_0", "LABEL_1"])
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (7000, 530, 1000)
    assert splits.task.labels == ("0", "1")
    assert (encoder.vocab_size, encoder.pad_id) == (30522, 0)
    assert not any("dropped" in note for note in splits.notes)
    wanted = AutoTokenizer.from_pretrained(str(model))(
        list(splits.test.texts), truncation=True, max_length=16
    )
    for name in names:
        assert [row[name].tolist() for row in splits.test.rows] == wanted[name]


def test_made_up_labels_of_the_data_are_the_models_classes(bert_directory: Path, tmp_path: Path) -> None:
    rows = [(f"{'good ' * (i % 9)}film {'a ' * (i // 9)}", i % 2) for i in range(60)]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{text},LABEL_{i}\n" for text, i in rows))
    config = FileData.model_validate({"source": "file", "train": str(tmp_path / "a.csv"), "max_length": 16})
    found = load_splits(config, reader=TextEncoder.from_directory(bert_directory), label_order=("pos", "neg"))
    assert found.task.labels == ("pos", "neg")
    wanted = dict(rows)
    for split in (found.train, found.test):
        assert split.labels.tolist() == [wanted[text] for text in split.texts]
