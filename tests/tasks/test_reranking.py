"""Reranking: metrics against scikit-learn, losses by hand, groups in splits and batches, and a whole run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from compress.data import load_splits
from compress.data.groups import cut_in_groups
from compress.data.sources.file import FileData
from compress.data.split import Split
from compress.errors import DataError, ModelError, RecipeError
from compress.losses import LossConfig
from compress.model import ModelConfig, load_model
from compress.pipeline import bundle_variants, check_bundle, export_model, run
from compress.recipe import load_recipe
from compress.report import to_markdown
from compress.tasks import InputSpec, Reranking, Truth, task_from
from compress.tasks.metrics.ranking import (
    group_rows,
    list_loss,
    margin_distance,
    ndcg,
    order_kept_in_groups,
    reciprocal_rank,
)
from compress.tasks.registry import task_of_architectures
from tests.inspecting import inspected

TASK = Reranking((InputSpec("x", "float32", (3,)),))
GROUPS, CANDIDATES = 60, 12


def _truth(relevance: np.ndarray, groups: np.ndarray) -> Truth:
    return TASK.truth(np.stack((relevance, groups), axis=1).astype(float), None)


def _data(seed: int = 0, queries: int = GROUPS) -> tuple[Truth, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(queries), CANDIDATES)
    relevance = draw.choice([0, 0, 0, 1, 2], len(groups)).astype(float)
    relevance[::CANDIDATES] = 1  # one in each
    relevance[1::CANDIDATES] = 0
    before = relevance + draw.normal(0, 1, len(groups))
    return _truth(relevance, groups), before, before + draw.normal(0, 0.3, len(groups))


def test_the_metric_is_scikit_learns_ndcg_with_ties() -> None:
    truth, answers, _ = _data()
    table = truth.labels[:, 0].reshape(GROUPS, -1)
    for scores in (answers, answers.round(), np.zeros_like(answers)):
        wanted = ndcg_score(table, scores.reshape(GROUPS, -1), k=10)
        assert TASK.value(scores, truth) == pytest.approx(wanted)
    assert ndcg(np.array([0.0, 1.0]), np.array([2.0, 1.0])) == pytest.approx(1 / np.log2(3))


def test_the_reciprocal_rank_is_of_the_first_relevant_and_ties_do_not_help() -> None:
    relevance = np.array([0.0, 2.0, 0.0, 1.0])
    assert reciprocal_rank(relevance, np.array([3.0, 2.0, 1.0, 0.0])) == 1 / 2
    assert reciprocal_rank(relevance, np.array([3.0, 2.0, 1.0, 9.0])) == 1
    assert reciprocal_rank(relevance, np.zeros(4)) == 1 / 3


def test_groups_that_cannot_be_ranked_do_not_count() -> None:
    relevance, groups = np.array([1.0, 1.0, 0.0, 1.0, np.nan]), np.array([0.0, 0.0, 1.0, 1.0, 2.0])
    assert [rows.tolist() for rows in group_rows(relevance, groups)] == [[2, 3]]
    truth = _truth(relevance, groups)
    assert TASK.value(np.array([0, 1, 0, 1, 5.0]), truth) == 1
    assert TASK.score(np.array([0, 1, 0, 1, 5.0]), truth).units == 1
    nobody = TASK.truth(TASK.no_labels(4), None)
    assert TASK.value(np.arange(4.0), nobody) == 0 and TASK.agreement(np.ones(4), np.ones(4), nobody) == 1


def test_intervals_are_over_groups_and_paired() -> None:
    truth, before, after = _data()
    score, found = TASK.score(before, truth), TASK.difference(before, after, truth)
    assert (score.units, score.unit, score.rows) == (GROUPS, "group", GROUPS * CANDIDATES)
    assert score.low < score.value < score.high and found.low <= found.value <= found.high
    assert found.value == pytest.approx(TASK.value(after, truth) - TASK.value(before, truth))
    assert found.high - found.low < score.high - score.low
    same = TASK.difference(before, before, truth)
    assert same.value == 0 and same.low < -0.005 and same.high > 0.005
    perfect = TASK.score(truth.labels[:, 0], truth)
    assert perfect.value == perfect.high == 1 and 0.9 < perfect.low < 0.999


def test_its_intervals_cover_in_95_of_100_samples() -> None:
    truth, before, after = _data(1, 4000)
    old, change = TASK.value(before, truth), TASK.change(before, after, truth)
    held = change_held = 0
    for seed in range(100):
        few, one, other = _data(100 + seed, 30)
        score, found = TASK.score(one, few), TASK.difference(one, other, few)
        held += score.low <= old <= score.high
        change_held += found.low <= change <= found.high
    assert held >= 90 and change_held >= 90


def test_chance_level_is_a_random_order() -> None:
    truth, before, _ = _data()
    share, gain = TASK.above_constant(before, truth)
    draw = np.random.default_rng(0)
    random = [TASK.value(draw.normal(size=len(before)), truth) for _ in range(200)]
    assert share == pytest.approx(np.mean(random), abs=0.01) and gain.low > 0
    assert TASK.above_constant(draw.normal(size=len(before)), truth)[1].low < 0


def test_agreement_is_of_candidates_of_one_group() -> None:
    groups = np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    one, other = np.array([1.0, 9.0, 2.0, 8.0, 3.0]), np.array([1.0, 0.0, 3.0, 5.0, 2.0])
    assert order_kept_in_groups(one, other, groups) == 2 / 4
    assert order_kept_in_groups(one, one + 1, groups) == 1
    assert order_kept_in_groups(one[:2], other[:2], groups[:2]) == 1


def test_the_breakdown_has_both_metrics_and_the_groups_left_out() -> None:
    truth, before, after = _data()
    labels = truth.labels.copy()
    labels[:CANDIDATES, 0] = 0
    found = TASK.breakdown(before, after, TASK.truth(labels, None), ({}, {}))
    assert found is not None and [row[0] for row in found.rows] == ["nDCG@10", "mean reciprocal rank"]
    kept = TASK.truth(truth.labels[CANDIDATES:], None)
    assert found.rows[0][2] == f"{TASK.value(after[CANDIDATES:], kept):.3f}"
    assert "59 groups" in found.sentences[0] and "1 more" in found.sentences[0]


def test_the_loss_is_cross_entropy_of_the_share_of_the_highest_relevance() -> None:
    labels = torch.tensor([[0, 0], [2, 0], [4, 1], [float("nan")] * 2]).double()
    task = TASK.fitted(labels.numpy())
    assert task.most_relevant == 4 and task_from(json.loads(json.dumps(task.facts()))) == task
    logits = torch.tensor([[0.3], [-1.0], [2.0], [7.0]])
    p, wanted = logits[:3, 0].sigmoid(), torch.tensor([0, 0.5, 1])
    by_hand = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
    torch.testing.assert_close(task.loss(logits, labels), by_hand)
    assert task.loss(logits, torch.full((4, 2), float("nan"))) == 0
    assert set(task.draw(logits, torch.Generator().manual_seed(0)).tolist()) <= {0.0, 4.0}


def test_the_list_loss_is_a_softmax_in_each_group() -> None:
    scores = torch.tensor([1.0, 2.0, 0.5, 3.0, 4.0, 9.0], requires_grad=True)
    relevance = torch.tensor([0.0, 1.0, 3.0, 1.0, 0.0, 5.0])
    groups = torch.tensor([7.0, 7.0, 7.0, 8.0, 8.0, float("nan")])
    first, second = scores[:3].log_softmax(0), scores[3:5].log_softmax(0)
    wanted = (-(0.25 * first[1] + 0.75 * first[2]) - second[0]) / 2
    torch.testing.assert_close(list_loss(scores, relevance, groups), wanted)
    assert list_loss(scores, torch.zeros(6), groups) == 0 == list_loss(scores[:1], relevance[:1], groups[:1])
    found = TASK.list_loss(scores[:, None], torch.stack((relevance, groups), 1))
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert scores.grad is not None and bool(scores.grad.isfinite().all())


def test_margins_are_of_pairs_of_one_group() -> None:
    student, teacher = torch.tensor([1.0, 2.0, 4.0, 0.0]), torch.tensor([0.0, 3.0, 5.0, 9.0])
    groups = torch.tensor([0.0, 0.0, 1.0, 1.0])
    wanted = torch.tensor(((-1 - -3) ** 2 + (4 - -4) ** 2) / 2)
    torch.testing.assert_close(margin_distance(student, teacher, groups), wanted)
    assert margin_distance(student + 5, student, groups) == 0
    kept = TASK.kept_answers(teacher[:, None])
    labels = torch.stack((torch.zeros(4), groups), 1)
    torch.testing.assert_close(TASK.margin_from_kept(student[:, None], kept, labels), wanted)
    assert margin_distance(student, teacher, torch.full((4,), float("nan"))) == 0


def test_batches_keep_groups_whole_and_come_in_another_order_each_epoch() -> None:
    draw = np.random.default_rng(0)
    groups = np.sort(draw.integers(0, 40, 300))
    rows = draw.permutation(300)
    together = groups[rows]
    inputs = (InputSpec("x", "float32", (2,)),)
    split = Split("train", tuple({"x": np.zeros(2, np.float32)} for _ in rows), np.zeros(300), inputs)
    seen = []
    for seed in (1, 2):
        found = list(split.batch_groups(16, 2, shuffle_seed=seed, together=together))
        batches = [batch["row_index"] for step in found for batch in step]
        assert sorted(np.concatenate(batches).tolist()) == list(range(300))
        assert all(len(each) < 32 for each in batches) and 9 <= len(found) <= 10
        for group in range(40):
            assert sum((together[each] == group).any() for each in batches) <= 1
        seen.append(np.concatenate(batches).tolist())
    assert seen[0] != seen[1]
    large = cut_in_groups(np.arange(50), np.zeros(50, dtype=np.int64), 16)
    assert [len(each) for each in large] == [25, 25] or max(map(len, large)) < 32
    assert TASK.together(np.array([[1, 3], [np.nan, np.nan], [0, 3], [np.nan, np.nan]])).tolist() == [
        3,
        -2,
        3,
        -4,
    ]


@pytest.mark.parametrize(
    ("problem_type", "outputs", "task"),
    [(None, 1, "reranking"), ("regression", 1, "regression"), (None, 2, "classification")],
)
def test_a_checkpoint_says_its_task(problem_type: str | None, outputs: int, task: str) -> None:
    assert task_of_architectures(("BertForSequenceClassification",), problem_type, outputs) == task


WORDS = ("red", "blue", "green", "old", "new", "film", "book", "song")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries of a word, with five documents: relevant if the word is in them."""
    path, draw = tmp_path_factory.mktemp("rows") / "rows.csv", np.random.default_rng(0)
    lines = []
    for number in range(60):
        word = WORDS[number % len(WORDS)]
        for at in range(5):
            others = draw.permutation([each for each in WORDS if each != word])[:4].tolist()
            text = " ".join([*others[:2], word, *others[2:]] if at < 2 else others)
            lines.append((f"{word} {number}", f"{text} {number}", int(at < 2), f"q{number}"))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("query", "document", "label", "id"), *lines])
    return path


def _source(path: Path, **settings: object) -> FileData:
    given = {"train": path, "task": "reranking", "text": ("query", "document"), "group": "id", **settings}
    return FileData.model_validate(given)


def test_groups_are_read_and_stay_in_one_split(rows: Path, bert_directory: Path) -> None:
    from compress.data.readers.tokenize import TextEncoder

    encoder = TextEncoder.from_directory(bert_directory)
    source = _source(rows)
    table = source.tables()["train"]
    assert table.labels[:3] == ((1.0, "q0"), (1.0, "q0"), (0.0, "q0"))
    splits = load_splits(source, reader=encoder)
    found = {part: getattr(splits, part) for part in ("train", "validation", "test")}
    assert {part: len(each) for part, each in found.items()} == {"train": 210, "validation": 30, "test": 60}
    queries = [{text[0] for text in each.texts} for each in found.values()]
    assert sum(map(len, queries)) == 60 == len(set().union(*queries))
    assert all(len(np.unique(each.labels[:, 1])) == len(each) // 5 for each in found.values())
    limited = load_splits(source.model_copy(update={"train_limit": 22}), reader=encoder)
    assert len(limited.train) == 20 and limited.train.labels.shape == (20, 2)


def test_a_query_in_two_files_is_refused(rows: Path, tmp_path: Path) -> None:
    lines = rows.read_text().splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join([lines[0], "red 0,another text,1,q0", "red 0,and one more,0,q0"]))
    source = _source(rows, test=other)
    with pytest.raises(DataError, match="line 2"):
        source.divided(source.tables())
    other.write_text("\n".join([lines[0], "another,another text,1,q0", "another,and one more,0,q0"]))
    source.divided(source.tables())  # files may number their queries alike


@pytest.mark.parametrize(
    ("line", "place"), [("a,b,x,q1", "line 2"), ("a,b,-1,q1", "line 2"), ("a,b,1,", "line 2")]
)
def test_a_wrong_relevance_or_group_is_refused_by_its_line(tmp_path: Path, line: str, place: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"query,document,label,id\n{line}\nc,d,1,q2\n")
    with pytest.raises(DataError, match=place):
        _source(path).tables()


def test_settings_that_contradict_the_task_are_refused(rows: Path) -> None:
    for wrong in ({"group": None}, {"task": "regression"}, {"label": ("a", "b")}):
        with pytest.raises(ValueError, match="group"):
            _source(rows, **wrong)
    source = _source(rows, group="document")  # a group of its own for each row
    with pytest.raises(DataError, match="data.group"):
        source.divided(source.tables())


@pytest.fixture(scope="module")
def checkpoint(bert_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with one output."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory = tmp_path_factory.mktemp("reranking") / "bert"
    torch.manual_seed(0)  # of the new head
    model = AutoModelForSequenceClassification.from_pretrained(
        bert_directory, num_labels=1, ignore_mismatched_sizes=True
    )
    model.config.problem_type = None
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(bert_directory).save_pretrained(directory)
    return directory


def test_candidates_are_learnt_compressed_measured_and_shipped(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    recipe = {
        "model": {"hf": str(checkpoint)},
        "data": {
            "source": "file",
            "train": str(rows),
            "max_length": 16,
            "task": "reranking",
            "text": ["query", "document"],
            "group": "id",
        },
        "stages": [
            {
                "distill/student": {
                    "student": {"layers": 1},
                    "losses": {"labels": 1, "lists": 1, "margins": 0.01},
                    "train": {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3},
                }
            },
            "quantize/int8_dynamic",
        ],
        "measure": {"batch": [1], "sequence": [8], "threads": [1], "rounds": 3, "seconds": 0.001},
        "gates": {"max_accuracy_drop": 1, "min_agreement": 0.01},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    seen = inspected(load_recipe(path), tmp_path / "cache", ties=True)
    assert (seen.units, seen.unit) == (seen.validation_rows // 5, "group")
    outcome = run(load_recipe(path), tmp_path / "reports")
    measured = outcome.report.measurement
    assert (measured.task, measured.candidate.accuracy.metric) == ("reranking", "nDCG@10")
    assert (measured.difference.units, measured.difference.unit, measured.difference.rows) == (
        12,
        "group",
        60,
    )
    page = to_markdown(outcome.report)
    assert "## Ranking" in page and "| mean reciprocal rank |" in page and "12 groups" in page
    config = json.loads((outcome.directory / "config.json").read_text())
    assert config["num_labels"] == 1 and config.get("problem_type") is None
    checked = check_bundle(outcome.directory, against=outcome.directory)
    assert checked.measurement is not None and checked.measurement.candidate.accuracy.rows == 60
    assert [check.holds for check in checked.checks if "as reported" in check.name] == [True]
    export_model(path, tmp_path / "plain")
    entries = bundle_variants([outcome.directory, tmp_path / "plain"], tmp_path / "variants")
    assert {each["metric"] for each in entries} == {"nDCG@10"}
    recipe["data"] |= {"task": "regression", "group": None}  # type: ignore[operator]
    path.write_text(json.dumps(recipe))
    with pytest.raises(RecipeError, match=r"losses\.lists"):
        run(load_recipe(path), tmp_path / "wrong")


def test_a_checkpoint_is_exported_without_data_and_a_classifier_refused(
    checkpoint: Path, bert_directory: Path, tmp_path: Path
) -> None:
    parity = export_model(checkpoint, tmp_path / "bundle", max_length=16)
    assert parity["agreement"] == 1
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["task"] == "reranking"
    with pytest.raises(ModelError, match="reranking"):
        load_model(
            ModelConfig.model_validate({"hf": str(bert_directory)}),
            task="reranking",
            seed=0,
            scratch=tmp_path,
        )


def test_losses_of_lists_need_no_teacher() -> None:
    assert not LossConfig.model_validate({"lists": 1, "labels": 1}).needs_teacher
    assert LossConfig.model_validate({"margins": 1}).needs_teacher
    assert LossConfig.model_validate({"lists": 0, "margins": 2, "labels": 1}).of_groups == ("margins",)


def test_a_query_that_is_asked_twice_is_no_contradiction(tmp_path: Path) -> None:
    rows = [
        ("query", "document", "label", "group"),
        *((f"q{at}", f"d{at}", at % 2, at // 4) for at in range(80)),
    ]
    again = [("q8", "d8", 0, "x"), ("q9", "d9", 0, "x")]  # the first agrees, the second doesn't
    for name, found in (
        ("train", [*rows, *again]),
        (
            "test",
            [
                ("query", "document", "label", "group"),
                ("a", "b", 1, 0),
                ("a", "c", 0, 0),
                ("a", "b", 1, 1),
                ("a", "c", 0, 1),
            ],
        ),
    ):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(found)
    source = FileData.model_validate(
        {
            "train": tmp_path / "train.csv",
            "test": tmp_path / "test.csv",
            "task": "reranking",
            "text": ["query", "document"],
            "group": "group",
        }
    )
    parts = source.divided(source.tables())
    kept = sum(len(parts.indices[part]) for part in ("train", "validation"))
    assert kept == 79 and len(parts.indices["test"]) == 4
    assert sorted(str(note).split(":")[1].split(" row")[0].strip() for note in parts.notes) == ["1", "2"]
