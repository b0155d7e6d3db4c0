"""Multi-label: scores against scikit-learn, losses by hand, and a whole run on texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F

from compress.data.partition import partition
from compress.data.table import Table
from compress.errors import DataError, ModelError
from compress.model import ModelConfig, load_model
from compress.pipeline import bundle_variants, check_bundle, export_model, run
from compress.recipe import load_recipe
from compress.report import to_markdown
from compress.tasks import NO_LABEL, InputSpec, MultiLabel, Truth, flat_truth, task_class, task_from
from compress.tasks.registry import task_of_architectures
from tests.inspecting import inspected

TASK = MultiLabel((InputSpec("x", "float32", (3,)),), ("a", "b", "c"))
ROWS, LABELS = 200, 6


def _truth(labels: np.ndarray, width: int = LABELS) -> Truth:
    return flat_truth(labels.reshape(-1, width), None)


def _answers(seed: int, wrong: float) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    truth = (draw.random((ROWS, LABELS)) < np.linspace(0.05, 0.5, LABELS)).astype(np.int64)
    return truth, np.where(draw.random(truth.shape) < wrong, 1 - truth, truth)


def test_it_is_micro_f1_with_an_interval_over_rows() -> None:
    truth, found = _answers(0, 0.1)
    score = TASK.score(found.ravel(), _truth(truth))
    assert score.value == pytest.approx(f1_score(truth, found, average="micro"))
    assert (score.metric, score.rows, score.units) == ("micro F1", ROWS, ROWS * LABELS)
    assert 0.01 < score.value - score.low < 0.06 and 0.01 < score.high - score.value < 0.06
    again = TASK.score(found.ravel(), _truth(truth))
    assert again == score


def test_the_difference_is_paired_and_agreement_is_of_decisions() -> None:
    truth, before = _answers(0, 0.1)
    after = before.copy()
    after[:5] = 1 - after[:5]
    found = TASK.difference(before.ravel(), after.ravel(), _truth(truth))
    single = TASK.score(after.ravel(), _truth(truth))
    assert found.agreement == 1 - 5 / ROWS
    assert found.value == pytest.approx(
        f1_score(truth, after, average="micro") - f1_score(truth, before, average="micro")
    )
    assert found.low < found.value < found.high < 0
    assert found.high - found.low < single.high - single.low


def test_equal_or_perfect_answers_are_no_proof() -> None:
    truth, _ = _answers(0, 0.0)
    flat = truth.ravel()
    same = TASK.difference(flat, flat, _truth(flat))
    assert same.value == 0 and -0.05 < same.low < -0.005 and 0.005 < same.high < 0.05
    perfect = TASK.score(flat, _truth(flat))
    assert perfect.value == perfect.high == 1 and 0.95 < perfect.low < 0.995
    assert TASK.value(np.zeros_like(flat), _truth(np.zeros_like(flat))) == 0


def test_its_intervals_cover_in_95_of_100_samples() -> None:
    draw, held, rows = np.random.default_rng(0), 0, 80
    # Of a label with share 0.5 that is named rightly 9 times in 10, F1 is 0.9.
    for _ in range(300):
        truth = draw.integers(0, 2, rows * 2)
        found = np.where(draw.random(rows * 2) < 0.1, 1 - truth, truth)
        score = TASK.score(found, _truth(truth, 2))
        held += score.low <= 0.9 <= score.high
    assert 0.92 <= held / 300 <= 0.99


def test_chance_level_is_that_of_the_best_constant_labels() -> None:
    truth, _ = _answers(1, 0.0)
    choices = (np.array([[number >> bit & 1 for bit in range(LABELS)]]) for number in range(1 << LABELS))
    best = max(TASK.value(np.repeat(each, ROWS, 0).ravel(), _truth(truth)) for each in choices)
    constant = TASK.constant(_truth(truth))
    assert TASK.value(constant, _truth(truth)) == best > 0
    assert len(np.unique(constant.reshape(ROWS, -1), axis=0)) == 1


def test_each_label_and_macro_f1_are_scikit_learns() -> None:
    truth, before = _answers(0, 0.1)
    _, after = _answers(0, 0.2)
    task = replace(TASK, labels=tuple("uvwxyz"))
    found = task.breakdown(before.ravel(), after.ravel(), _truth(truth), ({}, {"threshold": 0.25}))
    each = f1_score(truth, after, average=None)
    assert [row[0] for row in found.rows] == list("uvwxyz")
    assert [row[3] for row in found.rows] == [f"{value:.3f}" for value in each]
    assert f"{each.mean():.3f}" in found.sentences[1]
    assert "0.25" in found.sentences[0] and "0.5 " in found.sentences[0]


def test_the_threshold_is_that_of_the_best_micro_f1_on_validation() -> None:
    draw = np.random.default_rng(0)
    truth = (draw.random((ROWS, LABELS)) < 0.2).astype(np.int64).ravel()
    logits = (draw.normal(0, 1, truth.shape) + 2 * truth - 2.5).reshape(ROWS, LABELS)
    found = TASK.decided(logits, _truth(truth))
    probabilities = 1 / (1 + np.exp(-logits.ravel()))
    tried = {step / 100: f1_score(truth, probabilities > step / 100) for step in range(1, 100)}
    assert tried[found.threshold] == max(tried.values()) > tried[0.5] + 0.05
    assert TASK.threshold == 0.5 and task_from(found.facts()) == found
    certain = np.where(truth, 9.0, -9.0).reshape(ROWS, LABELS)
    assert TASK.decided(certain, _truth(truth)).threshold == 0.5  # of many that are equally good
    assert TASK.with_decision(found.decision()) == found
    for other in ({}, {"threshold": None}, {"threshold": 1.5}, {"threshold": "0.2"}):
        assert TASK.with_decision(other) is TASK


def test_loss_is_binary_cross_entropy_of_known_labels() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1], [NO_LABEL] * 3])
    wanted = F.binary_cross_entropy_with_logits(logits[:3], labels[:3].float())
    torch.testing.assert_close(TASK.loss(logits, labels), wanted)
    assert TASK.loss(logits, torch.full((4,), NO_LABEL)) == 0


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergence_is_a_sum_over_labels(temperature: float) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 3, generator=draw) for _ in range(2))
    p, q = ((each / temperature).sigmoid() for each in (teacher, student))
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    wanted = each.sum(1).mean() * temperature**2
    torch.testing.assert_close(TASK.divergence(student, teacher, temperature), wanted)
    kept = TASK.kept_answers(teacher)
    torch.testing.assert_close(TASK.divergence_from_kept(student, kept, temperature), wanted)
    assert TASK.divergence(1000 * teacher, 1000 * teacher, 1.0) == 0


def test_splits_hold_each_label_in_its_share_and_the_rarest_is_learnt() -> None:
    draw = np.random.default_rng(0)
    shares = {"common": 0.5, "some": 0.2, "few": 0.06}
    labels = [tuple(name for name, share in shares.items() if draw.random() < share) for _ in range(400)]
    labels[7] = ("once",)
    table = Table("x", "x", tuple(f"row {at}" for at in range(400)), tuple(labels))
    found = partition({"train": table}, fractions={"validation": 0.1, "test": 0.2}, task=MultiLabel).indices
    assert {part: len(rows) for part, rows in found.items()} == {"train": 280, "validation": 40, "test": 80}
    assert len(np.unique(np.concatenate(list(found.values())))) == 400 and 7 in found["train"]
    for name in shares:
        total = sum(name in each for each in labels)
        for part, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
            assert abs(sum(name in labels[at] for at in found[part]) - share * total) < 1.5
    with pytest.raises(DataError):
        partition(
            {"train": table},
            fractions={"validation": 0.1, "test": 0.2},
            task=MultiLabel,
            train_limit=2,
        )


@pytest.mark.parametrize(
    ("problem_type", "task"),
    [
        (None, "classification"),
        ("single_label_classification", "classification"),
        ("multi_label_classification", "multi-label"),
    ],
)
def test_a_checkpoint_says_its_task(problem_type: str | None, task: str) -> None:
    assert task_of_architectures(("BertForSequenceClassification",), problem_type) == task


@pytest.fixture(scope="module")
def checkpoint(bert_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with two labels."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory = tmp_path_factory.mktemp("multi") / "bert"
    names = {"id2label": {0: "good", 1: "bad"}, "label2id": {"good": 0, "bad": 1}}
    model = AutoModelForSequenceClassification.from_pretrained(
        bert_directory, problem_type="multi_label_classification", **names
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(bert_directory).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose labels are words in them."""
    path, draw, rows = tmp_path_factory.mktemp("texts") / "rows.csv", np.random.default_rng(0), set()
    while len(rows) < 160:
        words = draw.choice(["good", "bad", "film", "a", "the", "was"], int(draw.integers(3, 9)))
        rows.add((" ".join(words), "|".join(sorted({"good", "bad"} & set(words.tolist())))))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *sorted(rows)])
    return path


def _recipe(tmp_path: Path, checkpoint: Path, texts: Path, **data: object) -> Path:
    recipe = {
        "model": {"hf": str(checkpoint)},
        "data": {"source": "file", "train": str(texts), "max_length": 16, **data},
        "stages": [
            {
                "distill/student": {
                    "student": {"layers": 1},
                    "losses": {"labels": 1, "logits": 0.01},
                    "train": {"epochs": 25, "batch_size": 16, "learning_rate": 3e-3},
                }
            },
            {"prune/heads": {"sparsity": 0.5}},
            "quantize/int8_dynamic",
        ],
        "measure": {"batch": [1], "sequence": [8], "threads": [1], "rounds": 3, "seconds": 0.001},
        "gates": {"min_agreement": 0.01},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_texts_are_learnt_compressed_measured_and_shipped(
    checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    path = _recipe(tmp_path, checkpoint, texts, task="multi-label", label_separator="|")
    outcome = run(load_recipe(path), tmp_path / "reports")
    measured = outcome.report.measurement
    assert (measured.task, measured.candidate.accuracy.metric) == ("multi-label", "micro F1")
    assert measured.candidate.accuracy.value > 0.9 > measured.baseline.accuracy.value
    assert outcome.report.parity.holds and outcome.report.data.labels == ("good", "bad")
    assert [gate.name for gate in outcome.gates] == ["min_agreement", "above_commonest"]
    page = to_markdown(outcome.report)
    assert "## Each label" in page and "micro F1" in page and "change in accuracy" not in page
    threshold = measured.candidate.decision["threshold"]
    assert threshold != measured.baseline.decision["threshold"]  # each model has its own
    config = json.loads((outcome.directory / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and config["threshold"] == threshold
    assert config["id2label"] == {"0": "good", "1": "bad"}
    manifest = json.loads((outcome.directory / "manifest.json").read_text())
    assert (manifest["task"], manifest["threshold"]) == ("multi-label", threshold)
    assert f"p > {threshold}]" in (outcome.directory / "README.md").read_text()
    checked = check_bundle(outcome.directory, against=outcome.directory)
    assert checked.measurement is not None
    assert checked.measurement.candidate.decision == {"threshold": threshold}
    assert checked.measurement.candidate.accuracy.value == measured.candidate.accuracy.value
    export_model(outcome.directory, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "manifest.json").read_text())["threshold"] == threshold
    export_model(path, tmp_path / "plain")
    entries = bundle_variants([outcome.directory, tmp_path / "plain"], tmp_path / "variants")
    assert [each["threshold"] for each in entries] == [threshold, measured.baseline.decision["threshold"]]
    assert json.loads((tmp_path / "plain" / "manifest.json").read_text())["threshold"] != threshold
    assert "threshold" not in json.loads((tmp_path / "variants" / "config.json").read_text())
    with pytest.raises(ModelError):
        load_model(
            ModelConfig.model_validate({"bundle": outcome.directory}),
            seed=0,
            scratch=tmp_path,
            task="classification",
        )


def test_a_checkpoint_is_exported_without_data(checkpoint: Path, tmp_path: Path) -> None:
    parity = export_model(checkpoint, tmp_path / "bundle", max_length=16)
    assert parity["agreement"] == 1 and parity["metric_difference"] == 0
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["task"] == "multi-label"


def test_what_does_not_fit_is_refused(checkpoint: Path, bert_directory: Path, tmp_path: Path) -> None:
    options = {"seed": 0, "scratch": tmp_path}
    with pytest.raises(ModelError, match="data.task=multi-label"):
        load_model(ModelConfig.model_validate({"hf": str(checkpoint)}), task="classification", **options)  # type: ignore[arg-type]
    plain = load_model(ModelConfig.model_validate({"hf": str(bert_directory)}), task="multi-label", **options)  # type: ignore[arg-type]
    assert any("problem_type" in note for note in plain.notes)
    assert plain.module.config.problem_type == "multi_label_classification"  # type: ignore[union-attr]


def test_images_are_refused_by_name(write_vit: Callable[..., Path], tmp_path: Path) -> None:
    directory = write_vit(tmp_path / "vit")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps({**config, "problem_type": "multi_label_classification"})
    )
    with pytest.raises(ModelError, match="multi-label.*images"):
        load_model(ModelConfig.model_validate({"hf": str(directory)}), seed=0, scratch=tmp_path)


def test_an_inspection_has_the_models_thresholds(checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    path = _recipe(tmp_path, checkpoint, texts, task="multi-label", label_separator="|")
    found = inspected(load_recipe(path), tmp_path / "cache")
    assert found.unit == "label" and found.units > found.validation_rows


def test_folders_of_images_have_one_label_a_row() -> None:
    from compress.data.config import DigitImagesData, DigitsData

    assert DigitsData(task="multi-label").read(None, None).task.labels == (
        "closed loop",
        "even",
        "multiple of three",
    )
    with pytest.raises(ValueError, match="multi-label"):
        DigitImagesData(task="multi-label")
    assert task_class("multi-label") is MultiLabel
