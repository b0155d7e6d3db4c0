"""Rows without labels: read from each form, kept apart from validation and test, and never taken for rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from compress.data import DatasetsData, FileData, Splits, TextEncoder, load_splits
from compress.data.readers.vocabulary import encode_splits_again, smaller_encoder
from compress.data.split import NO_LABEL
from compress.errors import DataError

Write = Callable[..., Path]
TEXTS = ["good w1", "bad film w2 w3"]


@pytest.fixture
def load(write_csv: Write, encoder: TextEncoder) -> Callable[..., Splits]:
    """Splits of 40 rows with labels, 28 of them to train on, and those of a file without."""

    def make(unlabelled: Path | None, **options: object) -> Splits:
        train = write_csv("a.csv", [(f"film w{i}", i % 2) for i in range(40)])
        config = {"train": train, "unlabelled": unlabelled, **options}
        return load_splits(FileData.model_validate(config), reader=encoder)

    return make


def write(tmp_path: Path, form: str) -> Path:
    path = tmp_path / f"u.{form}"
    if form == "parquet":
        datasets.Dataset.from_dict({"text": TEXTS, "stars": [1, 2]}).to_parquet(path)
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n\n" for text in TEXTS), encoding="utf-8")
    elif form == "csv":
        path.write_text("stars,text\n" + "".join(f"5,{text}\n" for text in TEXTS), encoding="utf-8")
    else:
        path.write_text("\ufeff" + "\n\n".join(TEXTS) + "\n  \n", encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["txt", "csv", "jsonl", "parquet"])
def test_texts_without_labels_are_read_from_each_form(
    form: str, tmp_path: Path, load: Callable[..., Splits]
) -> None:
    splits = load(write(tmp_path, form))
    rows = splits.unlabelled
    assert rows is not None and rows.name == "unlabelled" and rows.texts == tuple(TEXTS)
    # The same tokenizer as of the other rows: 2 [CLS], 3 [SEP], good 4, bad 5, film 6, w0 7.
    assert [row["input_ids"].tolist() for row in rows.rows] == [[2, 4, 8, 3], [2, 5, 6, 9, 10, 3]]
    assert splits.source.endswith(f", u.{form} (2 rows without labels)") and splits.notes == ()


def test_a_split_of_a_dataset_is_read_without_its_labels(tmp_path: Path, encoder: TextEncoder) -> None:
    made = {
        "train": datasets.Dataset.from_dict(
            {"text": [f"film w{i}" for i in range(40)], "label": [i % 2 for i in range(40)]}
        ),
        "unsupervised": datasets.Dataset.from_dict({"text": TEXTS, "label": [-1, -1]}),
    }
    datasets.DatasetDict(made).save_to_disk(tmp_path / "news")
    config = DatasetsData(name=str(tmp_path / "news"), unlabelled="unsupervised")
    splits = load_splits(config, reader=encoder)
    assert splits.unlabelled is not None and splits.unlabelled.texts == tuple(TEXTS)
    assert "news[unsupervised] (2 rows without labels)" in splits.source
    with pytest.raises(DataError, match="no split 'unsuper' for unlabelled; did you mean 'unsupervised'"):
        load_splits(config.model_copy(update={"unlabelled": "unsuper"}), reader=encoder)


def test_rows_of_validation_and_test_and_repeats_are_left_out_and_counted(
    tmp_path: Path, load: Callable[..., Splits]
) -> None:
    without = load(None)
    held_out = [without.validation.texts[0].upper(), f"  {without.test.texts[3]} "]
    path = tmp_path / "u.txt"
    path.write_text("\n".join([*held_out, *TEXTS, "GOOD  w1", without.train.texts[0]]), encoding="utf-8")
    splits = load(path)
    assert splits.unlabelled is not None
    assert splits.unlabelled.texts == (*TEXTS, without.train.texts[0]), "a text of train may occur"
    leaks, repeats = splits.notes
    assert leaks.kind == repeats.kind == "dropped"
    assert leaks.startswith("u.txt: 2 rows ") and "validation or test" in leaks
    assert repeats.startswith("u.txt: 1 row ")
    path.write_text("\n".join(without.test.texts), encoding="utf-8")
    with pytest.raises(DataError, match=r"u\.txt: no rows .*validation or test"):
        load(path)


def test_the_other_splits_stay_as_they_are(tmp_path: Path, load: Callable[..., Splits]) -> None:
    assert load(write(tmp_path, "txt")).fingerprint() == load(None).fingerprint()


def test_texts_are_cut_where_the_others_are(tmp_path: Path, load: Callable[..., Splits]) -> None:
    splits = load(write(tmp_path, "txt"), max_length=4)
    assert splits.unlabelled is not None and len(splits.unlabelled.rows[1]["input_ids"]) == 4
    (note,) = splits.notes
    assert (
        note.kind == "cut" and note.startswith("unlabelled: 1 of 2 texts") and "4 tokens (max_length)" in note
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.csv", "", "is empty"),
        ("u.csv", "text\n", "has no rows"),
        ("u.txt", "\n \n", "has no rows"),
        ("u.csv", "texts\ngood\n", r"no column 'text'; did you mean 'texts'\? \(columns: texts\)"),
        (
            "u.jsonl",
            '{"text": "good"}\n{"text": " "}\n',
            "'text'.*2",
        ),
        ("u.jsonl", '{"text": 5}\n', r"'text'.*\(line.*1\)"),
        ("u.pdf", "good", r"'\.pdf'.*\.csv.*\.txt"),
    ],
)
def test_a_file_that_holds_no_texts_is_refused(
    name: str, content: str, message: str, tmp_path: Path, load: Callable[..., Splits]
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


def test_no_loss_takes_a_row_without_a_label(tmp_path: Path, load: Callable[..., Splits]) -> None:
    splits = load(write(tmp_path, "txt"))
    assert splits.unlabelled is not None and set(splits.unlabelled.labels.tolist()) == {NO_LABEL}
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = splits.task.loss(logits, torch.from_numpy(splits.unlabelled.labels))
    assert loss.item() == 0 and not torch.autograd.grad(loss, logits)[0].any()
    labels = torch.tensor([NO_LABEL, 1])
    assert torch.equal(splits.task.loss(logits, labels), splits.task.loss(logits[1:], labels[1:]))


def test_they_are_encoded_anew_with_the_others(
    tmp_path: Path, load: Callable[..., Splits], encoder: TextEncoder
) -> None:
    splits = load(write(tmp_path, "txt"))
    kept = [0, 1, 2, 3, 5, *range(7, encoder.vocab_size)]  # without good and film
    again = encode_splits_again(splits, _told(smaller_encoder(encoder, kept), 128))
    assert again.unlabelled is not None
    assert [row["input_ids"].tolist() for row in again.unlabelled.rows] == [[2, 1, 6, 3], [2, 4, 1, 7, 8, 3]]
    assert encode_splits_again(replace(splits, unlabelled=None), _told(encoder, 128)).unlabelled is None
    np.testing.assert_array_equal(again.unlabelled.labels, [NO_LABEL] * 2)


def _told(encoder: TextEncoder, longest: int) -> TextEncoder:
    encoder.tokenizer.enable_truncation(longest)
    return encoder
