"""Pairs of texts through a whole run: learnt, cut, measured, shipped, and read by others the same."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from compress.cli import app
from compress.data import FileData, TextEncoder, load_splits
from compress.errors import DataError, ModelError
from compress.model import ModelConfig, load_model, logits
from compress.pipeline import Outcome, check_bundle, export_model, inspect_model, run
from compress.pipeline.caveats import doubt_of_model
from compress.pipeline.fitting import reader_of
from compress.progress import LineProgress
from compress.recipe import load_recipe
from compress.train import evaluate

from ..conftest import write_hf_model

LABELS = ("entailment", "neutral", "contradiction")
LONG = ("a good film was the plot a film the was a film", "good the was a film bad the")
PAIRS = [("a film good", "the film"), ("the", "a film good"), LONG, LONG[::-1], ("a " * 30, "was")]
LENGTH = 12


def _write_rows(path: Path, label_of: Sequence[str] = LABELS, *, seed: int = 0, count: int = 210) -> Path:
    """Pairs whose label says which text begins with "good": the premise, the hypothesis, or neither."""
    draw, rows = np.random.default_rng(seed), set()
    while len(rows) < count:
        words = [
            " ".join(draw.choice(["a", "the", "film", "was"], int(draw.integers(2, 5)))) for _ in range(2)
        ]
        label = len(rows) % 3
        firsts = (("good", "bad"), ("bad", "good"), ("bad", "bad"))[label]
        rows.add((*map(" ".join, zip(firsts, words, strict=True)), label_of[label]))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("premise", "hypothesis", "label"), *sorted(rows)])
    return path


def _recipe(path: Path, model: dict[str, Any], rows: Path, *stages: object, **data: object) -> Path:
    recipe = {
        "model": model,
        "data": {
            "source": "file",
            "train": str(rows),
            "text": ["premise", "hypothesis"],
            "max_length": LENGTH,
            **data,
        },
        "stages": stages or ["quantize/int8_dynamic"],
        "measure": {
            "batch": [1],
            "sequence": [8],
            "threads": [1],
            "rounds": 3,
            "seconds": 0.001,
            "runtimes": ["onnxruntime"],
            "ladder": False,
        },
    }
    path.write_text(json.dumps(recipe))
    return path


@dataclass(frozen=True)
class _Ran:
    folder: Path
    recipe: Path
    outcome: Outcome
    said: list[str]

    @property
    def trained(self) -> Path:
        """Bundle of the model before its stages."""
        return self.folder / "trained"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> _Ran:
    folder, said = tmp_path_factory.mktemp("pairs"), list[str]()
    checkpoint = write_hf_model(folder / "bert", "bert", labels=LABELS)
    training = {"epochs": 15, "batch_size": 16, "learning_rate": 2e-3}
    recipe = _recipe(
        folder / "nli.yaml",
        {"hf": str(checkpoint), "train": training},
        _write_rows(folder / "rows.csv"),
        {
            "distill/student": {
                "rows": {"augment": 1, "synthetic": 20},
                "losses": {"labels": 1, "logits": 1},
                "train": {**training, "epochs": 1},
            }
        },
        "prune/vocabulary",
        "quantize/int8_dynamic",
    )
    outcome = run(load_recipe(recipe), folder / "reports", progress=LineProgress(said.append))
    export_model(recipe, folder / "trained")
    return _Ran(folder, recipe, outcome, said)


def _ids(directory: Path) -> TextEncoder:
    found = load_model(ModelConfig(bundle=directory), seed=0, scratch=directory.parent)
    reader = reader_of(found)
    assert isinstance(reader, TextEncoder)
    return reader


def test_pairs_are_learnt_cut_measured_and_shipped(ran: _Ran) -> None:
    report = ran.outcome.report
    assert report.measurement.baseline.accuracy.value > 0.9 < report.measurement.candidate.accuracy.value
    assert report.data.labels == LABELS and report.parity.holds
    assert report.stages[1].facts["vocabulary_kept"] < report.stages[1].facts["vocabulary_before"]
    assert report.stages[0].facts["rows"] == {"train": 147, "augmented": 147, "synthetic": 20}
    assert not any("not measurably better" in line for line in (*ran.said, *report.warnings))
    manifest = json.loads((ran.outcome.directory / "manifest.json").read_text())
    assert manifest["texts"] == 2 and "longer text first" in manifest["accuracy"]["how"]
    assert [each["name"] for each in manifest["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]


def test_a_bundle_for_pairs_refuses_rows_of_one_text(ran: _Ran) -> None:
    one = ["data.text=premise"]
    again = [f"model={{bundle: {ran.trained}}}", "name=again", *one]
    for asked in (
        lambda: check_bundle(ran.outcome.directory, values=one),
        lambda: run(load_recipe(ran.recipe, again), ran.folder / "again"),
    ):
        with pytest.raises(ModelError) as refused:
            asked()
        assert (refused.value.key, refused.value.value) == ("data.text", "premise")
        assert "premise, hypothesis, label" in str(refused.value)


def test_the_program_of_the_bundle_and_transformers_read_pairs_as_the_measurement_does(
    ran: _Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    deployed = shutil.copytree(ran.outcome.directory, tmp_path / "bundle")
    monkeypatch.chdir(deployed)
    (program,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), flags=re.DOTALL)
    encoder, tokenizer = _ids(deployed), AutoTokenizer.from_pretrained(deployed)
    module = load_model(ModelConfig(bundle=deployed), seed=0, scratch=tmp_path).module
    assert '.encode("Put the first text here.", "Put the second here.")' in program
    for pair, row in zip(PAIRS, encoder.encode(PAIRS, max_length=LENGTH)[0], strict=True):
        texts = ", ".join(map(json.dumps, pair))
        own = program.replace('"Put the first text here.", "Put the second here."', texts)
        namespace: dict[str, Any] = {}
        exec(compile(own, "README.md", "exec"), namespace)
        others = tokenizer(*pair, truncation=True, return_tensors="np")
        assert set(others) == set(row) == set(namespace["feed"])
        for name, values in row.items():
            np.testing.assert_array_equal(namespace["feed"][name], values[None])
            np.testing.assert_array_equal(others[name], values[None])
        with torch.inference_mode():
            label = int(logits(module, {name: torch.from_numpy(row[name][None]) for name in row}).argmax())
        assert capsys.readouterr().out.strip() == LABELS[label]
    assert max(len(row["input_ids"]) for row in encoder.encode(PAIRS, max_length=99)[0]) > LENGTH


def test_rows_of_a_bundle_are_those_that_were_measured(ran: _Ran) -> None:
    found = load_model(ModelConfig(bundle=ran.trained), seed=0, scratch=ran.folder)
    data = load_recipe(ran.recipe).data
    again = load_splits(data, reader=reader_of(found), label_order=found.label_order)
    assert again.test.fingerprint() == ran.outcome.report.data.test_fingerprint


def test_a_model_without_segments_gets_none(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    checkpoint = write_hf_model(tmp_path / "roberta", "roberta")
    done = CliRunner().invoke(
        app, ["export", str(checkpoint), "-o", str(tmp_path / "out"), "--pairs", "--max-length", "12"]
    )
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["texts"] == 2 and [x["name"] for x in manifest["inputs"]] == [
        "input_ids",
        "attention_mask",
    ]
    row, *_ = _ids(tmp_path / "out").encode([LONG], max_length=LENGTH)[0]
    others = AutoTokenizer.from_pretrained(tmp_path / "out")(*LONG, truncation=True)
    assert {name: row[name].tolist() for name in row} == dict(others) and len(row["input_ids"]) == LENGTH


@pytest.mark.slow
def test_without_data_rows_are_pairs_where_labels_or_the_bundle_say_so(ran: _Ran, tmp_path: Path) -> None:
    said: list[str] = []
    export_model(ran.folder / "bert", tmp_path / "one", max_length=12, progress=LineProgress(said.append))
    assert any("pairs" in line and "entailment" in line for line in said)
    other = write_hf_model(tmp_path / "other", "bert", labels=("yes", "no"))
    export_model(other, tmp_path / "two", max_length=12, pairs=True)
    export_model(tmp_path / "two", tmp_path / "three", max_length=12)
    export_model(other, tmp_path / "four", max_length=12)
    found = [
        json.loads((tmp_path / x / "manifest.json").read_text()) for x in ("one", "two", "three", "four")
    ]
    assert [each.get("texts") for each in found] == [2, 2, 2, None]


def test_attention_is_shown_for_the_tokens_of_both_texts(ran: _Ran) -> None:
    recipe = _recipe(ran.folder / "inspect.yaml", {"bundle": str(ran.trained)}, ran.folder / "rows.csv")
    found = inspect_model(load_recipe(recipe), calibration_rows=20, sentences=1, quick=True)
    (shown,) = found.attention.sentences
    assert (shown.tokens[0], shown.tokens[-1], shown.tokens.count("[SEP]")) == ("[CLS]", "[SEP]", 2)


FAULTS = {
    "none": (LABELS, ("premise", "hypothesis")),
    "swapped columns": (LABELS, ("hypothesis", "premise")),
    "other labels": ((*LABELS[1:], LABELS[0]), ("premise", "hypothesis")),
    "another case": (("Entailment", "NEUTRAL", "contra-diction"), ("premise", "hypothesis")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_at_chance_is_known_before_it_is_compressed(ran: _Ran, tmp_path: Path, fault: str) -> None:
    labels, text = FAULTS[fault]
    rows = _write_rows(tmp_path / "rows.csv", labels)
    loaded = load_model(ModelConfig(bundle=ran.trained), seed=0, scratch=tmp_path)
    data = FileData(train=rows, text=text, max_length=LENGTH)
    if fault == "another case":
        with pytest.raises(DataError, match="contra-diction"):
            load_splits(data, reader=reader_of(loaded), label_order=loaded.label_order)
        data = data.model_copy(update={"train": _write_rows(rows, (*labels[:2], LABELS[2]))})
    splits = load_splits(data, reader=reader_of(loaded), label_order=loaded.label_order)
    assert splits.task.labels == LABELS
    doubt = doubt_of_model(loaded.module, splits)
    assert (doubt is None) == (fault in ("none", "another case"))
    value = evaluate(loaded.module, splits.validation, splits.task)["validation_metric"]
    assert value > 0.9 if doubt is None else value < 0.5 and "validation" in doubt
    assert any("'NEUTRAL' as 'neutral'" in note for note in splits.notes) == (fault == "another case")


def test_a_model_at_chance_is_said_before_the_work_and_in_the_report(ran: _Ran, tmp_path: Path) -> None:
    recipe = _recipe(
        tmp_path / "r.yaml",
        {"bundle": str(ran.trained)},
        ran.folder / "rows.csv",
        text=["hypothesis", "premise"],
    )
    said: list[str] = []
    outcome = run(load_recipe(recipe), tmp_path / "reports", progress=LineProgress(said.append))
    (at,) = [at for at, line in enumerate(said) if "uncompressed model is not measurably" in line]
    assert said[at].startswith("warning: ")
    assert at < next(at for at, line in enumerate(said) if line.startswith("exporting"))
    (warning,) = [line for line in outcome.report.warnings if "uncompressed model is not measurably" in line]
    assert "test rows" in warning and outcome.report.measurement.baseline.accuracy.value < 0.5
    page = (outcome.directory / "report.md").read_text()
    assert "uncompressed model is not measurably better" in page
