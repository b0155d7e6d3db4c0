"""Regression: metrics against scipy, losses by hand, coverage of intervals, and a whole run on texts."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, pearsonr, spearmanr

from compress import from_arrays
from compress.data import load_splits
from compress.data.partition import partition
from compress.data.sources.array_files import ArraysData
from compress.data.sources.file import FileData
from compress.data.table import Table
from compress.errors import DataError, ModelError
from compress.measure.answers import pack_answers, unpack_answers
from compress.model import ModelConfig, load_model
from compress.pipeline import bundle_variants, check_bundle, export_model, run
from compress.recipe import load_recipe
from compress.report import compare_reports, to_html, to_markdown
from compress.tasks import InputSpec, Regression, Truth, flat_truth, task_from
from compress.tasks.registry import task_of_architectures
from compress.tasks.scores.one_number import order_kept
from compress.tasks.scores.regression import regression_metrics
from tests.inspecting import inspected

TASK = Regression((InputSpec("x", "float32", (3,)),))
ROWS = 200


def _truth(labels: np.ndarray) -> Truth:
    return flat_truth(labels, None)


def _answers(seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.normal(2, 3, rows)
    before = labels + draw.normal(0, 2, rows)
    return labels, before, before + draw.normal(0, 0.5, rows)


def test_the_metric_is_pearsons_with_an_interval_over_rows() -> None:
    labels, answers, _ = _answers()
    score = TASK.score(answers, _truth(labels))
    assert score.value == pytest.approx(pearsonr(labels, answers).statistic)
    assert (score.metric, score.rows, score.units) == ("Pearson correlation", ROWS, ROWS)
    wanted = pearsonr(labels, answers).confidence_interval()
    assert (score.low, score.high) == pytest.approx(tuple(wanted), abs=0.02)
    assert TASK.score(answers, _truth(labels)) == score
    assert TASK.correct(answers, _truth(labels)) is None


def test_the_difference_is_paired() -> None:
    labels, before, after = _answers()
    found, single = TASK.difference(before, after, _truth(labels)), TASK.score(after, _truth(labels))
    change = pearsonr(labels, after).statistic - pearsonr(labels, before).statistic
    assert found.value == pytest.approx(change) and found.low <= found.value <= found.high
    assert found.high - found.low < 0.5 * (single.high - single.low)
    assert found.agreement == pytest.approx((1 + kendalltau(before, after).statistic) / 2)


def test_equal_or_perfect_answers_are_no_proof() -> None:
    labels, answers, _ = _answers()
    same = TASK.difference(answers, answers, _truth(labels))
    assert same.value == 0 and -0.02 < same.low < -0.002 and 0.002 < same.high < 0.02
    perfect = TASK.score(labels, _truth(labels))
    assert perfect.value == pytest.approx(1) and 0.97 < perfect.low < 0.999


def test_its_intervals_cover_in_95_of_100_samples() -> None:
    rows = 40
    draw, held, change_held, times = np.random.default_rng(0), 0, 0, 100
    # Of labels with variance 1 and independent noise of variance v, the correlation is 1 / sqrt(1 + v).
    old, new = 1 / np.sqrt(1 + 0.5), 1 / np.sqrt(1 + 0.75)
    for _ in range(times):
        labels = draw.normal(0, 1, rows)
        before = labels + draw.normal(0, np.sqrt(0.5), rows)
        after = before + draw.normal(0, 0.5, rows)
        score = TASK.score(before, _truth(labels))
        held += score.low <= old <= score.high
        change = TASK.difference(before, after, _truth(labels))
        change_held += change.low <= new - old <= change.high
    # 100 samples: two standard errors of a share of 0.95 are 0.044
    assert 0.9 <= held / times <= 1 and 0.9 <= change_held / times <= 1


def test_chance_level_is_a_constant_answer_whose_correlation_counts_as_0() -> None:
    labels, answers, _ = _answers()
    constant = TASK.constant(_truth(labels))
    assert np.ptp(constant) == 0 and constant[0] == pytest.approx(labels.mean())
    share, gain = TASK.above_constant(answers, _truth(labels))
    assert share == 0 and gain.low > 0.7
    noise = np.random.default_rng(9).normal(0, 1, ROWS)
    assert TASK.above_constant(noise, _truth(labels))[1].low < 0
    # Rounding of a constant is no correlation.
    assert TASK.value(0.1 + 1e-12 * labels, _truth(labels)) == 0


def test_all_four_metrics_are_those_of_the_rows_drawn() -> None:
    labels, answers, _ = _answers(rows=60)
    labels, answers = labels.round(), answers.round()  # ties
    draw = np.random.default_rng(1)
    picked = draw.integers(0, 60, 60)
    weights = np.stack((np.ones(60), np.bincount(picked, minlength=60))).astype(float)
    found = regression_metrics(labels, answers)(weights)
    for row, rows in zip(found, (np.arange(60), picked), strict=True):
        x, y = labels[rows], answers[rows]
        wanted = (pearsonr(x, y).statistic, spearmanr(x, y).statistic)
        errors = (np.abs(x - y).mean(), np.sqrt(np.square(x - y).mean()))
        assert row == pytest.approx((*wanted, *errors))


def test_the_breakdown_sees_a_shift_that_correlation_does_not() -> None:
    labels, before, _ = _answers()
    found = TASK.breakdown(before, before + 5, _truth(labels), ({}, {}))
    assert found is not None
    assert [row[0] for row in found.rows][:2] == ["Pearson correlation", "Spearman correlation"]
    changes = {row[0]: row[3] for row in found.rows}
    assert changes["Pearson correlation"] == "0.000"
    wanted = np.sqrt(np.square(before + 5 - labels).mean()) - np.sqrt(np.square(before - labels).mean())
    assert changes["root mean squared error"] == f"+{wanted:.3f}"
    low, _, high = found.rows[2][4].partition(" to ")
    assert float(low) < np.abs(before + 5 - labels).mean() - np.abs(before - labels).mean() < float(high)


def test_agreement_is_of_pairs_and_same_has_a_tolerance() -> None:
    one = np.array([1.0, 2.0, 3.0, 4.0])
    assert order_kept(one, np.array([1.0, 3.0, 2.0, 9.0])) == 5 / 6
    assert order_kept(one, 7 * one - 3) == order_kept(one[:1], one[:1]) == 1
    assert order_kept(one, np.ones(4)) == 0
    draw = np.random.default_rng(0)
    many = draw.normal(size=3000)
    other = many + draw.normal(size=3000)
    every = (1 + kendalltau(many, other).statistic) / 2
    assert order_kept(many, other) == pytest.approx(every, abs=0.002) == order_kept(many, other)
    moved = one + np.array([0.0, 0.01, 0.02, -1.0])  # the spread is 1.118
    assert TASK.same(one, moved).tolist() == [True, True, False, False]


def test_loss_and_divergence_are_squared_in_spreads() -> None:
    task = TASK.fitted(np.array([0.0, 4.0, np.nan]))
    assert task.spread == 2 and task_from(json.loads(json.dumps(task.facts()))) == task
    assert TASK.fitted(np.array([3.0])).spread == 1
    logits, labels = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0.0, 7.0, float("nan")]).double()
    assert float(task.loss(logits, labels)) == pytest.approx((0.25 + 4) / 2)
    assert task.loss(logits, torch.full((3,), float("nan"))) == 0
    teacher = torch.tensor([[0.0], [1.0], [5.0]])
    wanted = pytest.approx((0.25 + 1) / 3)
    assert float(task.divergence(logits, teacher, 2.0)) == wanted
    assert float(task.divergence_from_kept(logits, task.kept_answers(teacher), 4.0)) == wanted
    drawn = task.draw(torch.zeros(20_000, 1), torch.Generator().manual_seed(0))
    assert float(drawn.std()) == pytest.approx(2, rel=0.03) and drawn.shape == (20_000,)


def test_unknown_labels_do_not_count() -> None:
    labels, answers, after = _answers()
    holes = labels.copy()
    holes[:50] = np.nan
    assert TASK.value(answers, _truth(holes)) == pytest.approx(pearsonr(labels[50:], answers[50:]).statistic)
    assert TASK.change(answers, after, _truth(TASK.no_labels(ROWS))) == 0
    assert unpack_answers(pack_answers(holes))[50:] == pytest.approx(labels[50:])


def test_one_number_a_row_is_wanted() -> None:
    assert TASK.misfit((4, 1), 4, 9) is None and TASK.classes == 1
    for shape in ((4,), (4, 2), (3, 1)):
        assert "[4, 1]" in (TASK.misfit(shape, 4, 9) or "")


@pytest.mark.parametrize(
    ("problem_type", "outputs", "task"),
    [
        (None, 2, "classification"),
        (None, None, "classification"),
        (None, 1, "reranking"),
        ("single_label_classification", 1, "reranking"),
        ("regression", 1, "regression"),
        ("multi_label_classification", 1, "multi-label"),
    ],
)
def test_a_checkpoint_says_its_task(problem_type: str | None, outputs: int | None, task: str) -> None:
    assert task_of_architectures(("BertForSequenceClassification",), problem_type, outputs) == task


def _file(tmp_path: Path, lines: list[str]) -> FileData:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["text,label", *lines]))
    return FileData(train=path, task="regression")


@pytest.mark.parametrize("bad", ["three", "nan", "inf", "", "1,5"])
def test_a_label_that_is_no_finite_number_is_refused_by_its_line(tmp_path: Path, bad: str) -> None:
    lines = [f"row {at},{at / 2}" for at in range(30)]
    table = _file(tmp_path, lines).tables()["train"]
    assert table.labels[:3] == (0.0, 0.5, 1.0)
    lines[4] = f'row 4,"{bad}"'
    with pytest.raises(DataError, match=r"line.* 6"):
        _file(tmp_path, lines).tables()


def test_classification_of_fractions_names_the_task(tmp_path: Path) -> None:
    data = _file(tmp_path, [f"row {at},{at / 2}" for at in range(30)])
    with pytest.raises(DataError, match="data.task=regression"):
        data.model_copy(update={"task": "classification"}).tables()
    path = tmp_path / "rows.npz"
    np.savez(path, features=np.zeros((9, 3)), labels=np.linspace(0, 1, 9))
    with pytest.raises(DataError, match="data.task=regression"):
        load_splits(ArraysData(train=path))


def test_rows_are_drawn_without_strata_and_equal_labels_refused() -> None:
    labels = tuple(np.random.default_rng(0).normal(size=100).tolist())
    table = Table("x", "x", tuple(f"row {at}" for at in range(100)), labels)
    shares = {"validation": 0.1, "test": 0.2}
    found = partition({"train": table}, fractions=shares, task=Regression).indices
    assert {part: len(rows) for part, rows in found.items()} == {"train": 70, "validation": 10, "test": 20}
    with pytest.raises(DataError):
        partition({"train": replace(table, labels=(1.5,) * 100)}, fractions=shares, task=Regression)


def test_arrays_of_floats_are_regression(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    columns = {"features": draw.normal(size=(60, 3)), "labels": draw.normal(5, 2, 60)}
    np.savez(tmp_path / "rows.npz", **columns)
    splits = load_splits(ArraysData(train=tmp_path / "rows.npz", task="regression"))
    assert type(splits.task) is Regression and splits.train.labels.dtype == np.float64
    assert splits.task.spread == pytest.approx(splits.train.labels.std())
    other = {"features": draw.normal(size=(20, 3)), "labels": draw.normal(5, 2, 20)}
    made = from_arrays(columns, other)
    assert type(made.task) is Regression and made.task.spread == pytest.approx(columns["labels"].std())
    with pytest.raises(DataError):
        from_arrays(columns, {**other, "labels": np.arange(20)})
    with pytest.raises(DataError):
        from_arrays({**columns, "labels": np.full(60, np.nan)}, other)


@pytest.fixture(scope="module")
def checkpoint(bert_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with one output."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory = tmp_path_factory.mktemp("regression") / "bert"
    torch.manual_seed(0)  # of the new head
    model = AutoModelForSequenceClassification.from_pretrained(
        bert_directory, num_labels=1, ignore_mismatched_sizes=True
    )
    model.config.problem_type = None
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(bert_directory).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose label is how many words of them are good, less those that are bad."""
    path, draw, rows = tmp_path_factory.mktemp("texts") / "rows.csv", np.random.default_rng(0), set()
    while len(rows) < 200:
        words = draw.choice(["good", "bad", "film", "a", "the", "was"], int(draw.integers(3, 9))).tolist()
        rows.add((" ".join(words), 1 + 2.5 * (words.count("good") - words.count("bad"))))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *sorted(rows)])
    return path


def _recipe(tmp_path: Path, checkpoint: Path, texts: Path, **data: object) -> Path:
    recipe = {
        "model": {"hf": str(checkpoint)},
        "data": {"source": "file", "train": str(texts), "max_length": 16, "task": "regression", **data},
        "stages": [
            {
                "distill/student": {
                    "student": {"layers": 1},
                    "losses": {"labels": 1, "logits": 0.01},
                    "train": {"epochs": 15, "batch_size": 8, "learning_rate": 3e-3},
                }
            },
            {"prune/heads": {"sparsity": 0.5}},
            "quantize/int8_dynamic",
        ],
        "measure": {"batch": [1], "sequence": [8], "threads": [1], "rounds": 3, "seconds": 0.001},
        "gates": {"max_accuracy_drop": 0.2, "min_agreement": 0.01},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_texts_are_learnt_compressed_measured_and_shipped(
    checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    path = _recipe(tmp_path, checkpoint, texts)
    outcome = run(load_recipe(path), tmp_path / "reports")
    measured = outcome.report.measurement
    assert (measured.task, measured.candidate.accuracy.metric) == ("regression", "Pearson correlation")
    assert measured.candidate.accuracy.value > 0.9 > measured.baseline.accuracy.value
    assert measured.candidate.accuracy.correct is None and outcome.report.parity.holds
    assert [gate.name for gate in outcome.gates] == ["max_accuracy_drop", "min_agreement", "above_commonest"]
    assert all(gate.holds for gate in outcome.gates)
    page = to_markdown(outcome.report)
    assert "## Correlation and error" in page and "| Spearman correlation |" in page
    assert " points" not in page and "only in the candidate" not in page and "is right on" not in page
    assert f"{measured.candidate.accuracy.value:.3f} (" in page and to_html(outcome.report)
    assert compare_reports([outcome.directory]).rows[0].scale == "number"
    config = json.loads((outcome.directory / "config.json").read_text())
    assert (config["problem_type"], config["num_labels"]) == ("regression", 1)
    manifest = json.loads((outcome.directory / "manifest.json").read_text())
    assert (manifest["task"], manifest["labels"]) == ("regression", [])
    assert manifest["accuracy"]["metric"] == "Pearson correlation"
    assert "print(float(logits[0, 0]))" in (outcome.directory / "README.md").read_text()
    checked = check_bundle(outcome.directory, against=outcome.directory)
    assert checked.holds and checked.measurement is not None
    assert checked.measurement.candidate.accuracy.value == measured.candidate.accuracy.value
    export_model(path, tmp_path / "plain")
    entries = bundle_variants([outcome.directory, tmp_path / "plain"], tmp_path / "variants")
    assert {each["metric"] for each in entries} == {"Pearson correlation"}
    assert "%" not in (tmp_path / "variants" / "README.md").read_text().split("## Use")[0].replace("95 %", "")
    with pytest.raises(ModelError):
        load_model(
            ModelConfig.model_validate({"bundle": outcome.directory}),
            seed=0,
            scratch=tmp_path,
            task="classification",
        )


def test_a_bundle_is_read_by_onnxruntime_and_tokenizers(checkpoint: Path, tmp_path: Path) -> None:
    import onnxruntime
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    parity = export_model(checkpoint, tmp_path / "bundle", max_length=16)
    assert parity["agreement"] == 1 and parity["metric_difference"] == 0
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["task"] == "reranking" and manifest["outputs"][0]["shape"] == ["batch_size", 1]
    tokenizer = Tokenizer.from_file(str(tmp_path / "bundle" / "tokenizer.json"))
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "onnx" / "model.onnx")
    ids = np.array([tokenizer.encode("a good film").ids])
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    names = {each.name for each in session.get_inputs()}
    found = session.run(None, {name: each for name, each in feed.items() if name in names})[0]
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    assert found == pytest.approx(wanted, abs=1e-5) and found.shape == (1, 1)


def test_what_does_not_fit_is_refused(
    checkpoint: Path, bert_directory: Path, texts: Path, tmp_path: Path
) -> None:
    options = {"seed": 0, "scratch": tmp_path}
    one, two = (ModelConfig.model_validate({"hf": str(each)}) for each in (checkpoint, bert_directory))
    for task in ("classification", "multi-label"):
        with pytest.raises(ModelError, match="data.task=regression"):
            load_model(one, task=task, **options)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="num_labels"):
        load_model(two, task="regression", **options)  # type: ignore[arg-type]
    loaded = load_model(one, task="regression", **options)  # type: ignore[arg-type]
    assert any("problem_type" in note for note in loaded.notes)


def test_an_inspection_is_in_terms_of_the_correlation(checkpoint: Path, texts: Path, tmp_path: Path) -> None:
    found = inspected(load_recipe(_recipe(tmp_path, checkpoint, texts)), tmp_path / "cache")
    assert found.unit == "row" and 0 < found.accuracy < 1


def test_a_new_head_begins_with_the_mean_and_spread_of_the_labels() -> None:
    from compress.pipeline.fitting import start_head_

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Tanh(), torch.nn.Linear(1, 1))
    inner, before = module[0].weight.clone(), module[2].weight.clone()
    start_head_(module, 1, TASK.fitted(np.array([90.0, 110.0])).first_answers)
    assert torch.equal(module[0].weight, inner) and torch.equal(module[2].weight, 10 * before)
    assert module[2].bias.item() == 100
