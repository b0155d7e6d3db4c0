"""A run that shrinks the vocabulary: new ids for candidate, teacher and bundle, the old for the baseline."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest
import torch
from tokenizers import Tokenizer

from compress.data import TextEncoder
from compress.model import predict_logits
from compress.model.files.load import load
from compress.pipeline import Outcome, export_model, run
from compress.pipeline.prepare import prepare
from compress.recipe import load_recipe

RECOVERY = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3, "precision": "fp32"}
STAGES = [{"prune/vocabulary": {"protect": ["plot"]}}, {"prune/embeddings": {"rank": 6}}]
KEPT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "plot", "a", "the", "was"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabulary")


@pytest.fixture(scope="module")
def recipe(
    folder: Path,
    write_recipe: Callable[..., Path],
    write_reviews: Callable[..., Path],
    bert_directory: Path,
) -> Path:
    write_reviews(folder / "reviews.csv", 150)
    with (folder / "test.csv").open("w", newline="", encoding="utf-8") as file:
        words = ("fine", "poor", "not", "very", "plot", "a film", "the film was")
        texts = [(f"{first} {second}", len(first) % 2) for first in words for second in words]
        csv.writer(file).writerows([("text", "label"), *texts])
    return write_recipe(
        folder / "small.yaml",
        *STAGES,
        name="small",
        model={"hf": str(bert_directory), "train": RECOVERY},
        data={
            "source": "file",
            "train": str(folder / "reviews.csv"),
            "test": str(folder / "test.csv"),
            "max_length": 8,
        },
    )


@pytest.fixture(scope="module")
def outcome(folder: Path, recipe: Path) -> Outcome:
    return run(recipe, folder / "reports")


def test_the_bundle_ships_the_smaller_tokenizer(outcome: Outcome) -> None:
    tokenizer = Tokenizer.from_file(str(outcome.directory / "tokenizer.json"))
    assert [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())] == KEPT
    assert tokenizer.encode("the good film").tokens == ["[CLS]", "the", "good", "film", "[SEP]"]
    assert json.loads((outcome.directory / "config.json").read_text())["vocab_size"] == len(KEPT)
    assert not (outcome.directory / "vocab.txt").exists()


def test_the_onnx_file_answers_the_tokenizer_s_ids_and_knows_no_others(outcome: Outcome) -> None:
    session = ort.InferenceSession(
        outcome.directory / "onnx" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    tokenizer = Tokenizer.from_file(str(outcome.directory / "tokenizer.json"))
    text = tokenizer.encode("the film was not bad")
    feed = {
        "input_ids": [text.ids],
        "attention_mask": [text.attention_mask],
        "token_type_ids": [text.type_ids],
    }
    feed = {i.name: torch.tensor(feed[i.name]).numpy() for i in session.get_inputs()}
    found = torch.from_numpy(session.run(None, feed)[0])
    module = load(outcome.directory)
    with torch.no_grad():
        expected = module(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits
    # Two libraries' fp32 kernels, through two layers.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    feed["input_ids"][0, 1] = len(KEPT)
    with pytest.raises(Exception, match="(?i)out of.*bounds|indices element|index"):
        session.run(None, feed)


def test_the_report_says_what_went_and_both_answered_all_test_rows(outcome: Outcome) -> None:
    vocabulary = outcome.report.stages[0]
    assert (vocabulary.facts["vocabulary_before"], vocabulary.facts["vocabulary_kept"]) == (16, len(KEPT))
    measured = outcome.report.measurement
    assert measured.baseline.accuracy.rows == measured.candidate.accuracy.rows == 49
    # Nothing but the vocabulary was cut by then: the validation rows hold only kept words.
    assert vocabulary.validation_metric == outcome.report.model.validation_metric


def test_an_interrupted_run_goes_on_with_the_smaller_vocabulary(
    folder: Path, recipe: Path, outcome: Outcome
) -> None:
    again = run(recipe, folder / "reports", overwrite=True)
    assert [stage.reused for stage in again.report.stages] == [True] * 2
    assert [stage.validation_metric for stage in again.report.stages] == [
        stage.validation_metric for stage in outcome.report.stages
    ]
    assert again.report.measurement.candidate.accuracy == outcome.report.measurement.candidate.accuracy
    names = ("tokenizer.json", "pytorch/model.safetensors")
    assert all((again.directory / name).is_file() for name in names)


def test_a_bundle_is_gone_on_from_and_exported_with_its_tokenizer(
    folder: Path, outcome: Outcome, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    further = write_recipe(
        folder / "further.yaml",
        {"prune/width": {"width": 16}},
        "quantize/int8_dynamic",
        model={"bundle": str(outcome.directory)},
        data={"source": "file", "train": str(folder / "reviews.csv"), "max_length": 8},
    )
    prepared = prepare(load_recipe(further), tmp_path)  # it answers the longest rows
    ids = {int(index) for row in prepared.splits.train.rows for index in row["input_ids"]}
    assert max(ids) == len(KEPT) - 1
    assert export_model(outcome.directory, tmp_path / "exported", max_length=16)["agreement"] == 1.0
    shipped = [directory / "tokenizer.json" for directory in (outcome.directory, tmp_path / "exported")]
    assert len({Tokenizer.from_file(str(path)).get_vocab_size() for path in shipped}) == 1


def test_the_teacher_answers_as_before_in_new_ids(recipe: Path, tmp_path: Path) -> None:
    from compress.pipeline.stages import Work

    prepared = prepare(load_recipe(recipe), tmp_path)
    assert isinstance(prepared.splits.reader, TextEncoder)
    given = Work(prepared.loaded.module, prepared.splits, prepared.loaded.module)
    assert given.with_vocabulary((), tmp_path) is given
    kept = [0, 1, 2, 3, 4, 5, 6, 9, 11, 12, 13]
    small = given.with_vocabulary(kept, tmp_path)
    before = predict_logits(given.teacher, given.splits.train, given.splits.task)
    after = predict_logits(small.teacher, small.splits.train, small.splits.task)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)  # the same weights, aligned otherwise
    assert small.splits.test.labels.tolist() == given.splits.test.labels.tolist()
