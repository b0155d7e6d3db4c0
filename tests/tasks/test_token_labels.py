"""Token labels: entities as seqeval counts them, intervals, masked losses, and a whole run."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F

from compress.errors import ModelError
from compress.model import ModelConfig, load_model
from compress.pipeline import bundle_variants, check_bundle, export_model, run
from compress.recipe import load_recipe
from compress.report import to_markdown
from compress.tasks import NO_LABEL, InputSpec, Truth, flat_truth, task_class, task_from
from compress.tasks.metrics.by_class import ByClass
from compress.tasks.metrics.entities import entity_counts, entity_f1, scheme_of
from compress.tasks.registry import task_of_architectures
from compress.tasks.token_labels import TokenLabels
from tests.inspecting import inspected

from ..hf_families import FAMILIES, SIZES, WORDS, write_family
from .token_rows import TAGS, sentences, write_sentences

INPUTS = (InputSpec("input_ids", "int64", ("sequence_length",)),)
ENTITIES = TokenLabels(INPUTS, ("O", "B-A", "I-A", "B-B", "I-B"))
PARTS = TokenLabels(INPUTS, ("DET", "NOUN", "VERB"))

# (scheme, true tags, predicted tags, right, found, true): f1_score of seqeval 1.2.2, default mode, agrees.
SEQEVAL = [
    ("BI", ["B I O B", "B I"], ["B I O B", "B O"], (2, 3, 3)),
    ("BI", ["B I I O"], ["I I I O"], (1, 1, 1)),  # I without a B begins an entity
    ("BI", ["B B O", "I O"], ["B I O", "I O"], (1, 2, 3)),  # B ends the entity before it
    ("BI", ["O B", "I O"], ["O B", "I O"], (2, 2, 2)),  # none reaches into the next sentence
    ("BIES", ["B I E S O", "S S"], ["B E I S O", "S E"], (3, 5, 4)),
    ("BIES", ["B E O"], ["B I O"], (1, 1, 1)),
    ("BILU", ["B I L U O", "U U"], ["B L I U O", "U L"], (3, 5, 4)),
    ("BI", ["O O"], ["O O"], (0, 0, 0)),
]


@pytest.mark.parametrize(("prefixes", "true", "found", "counts"), SEQEVAL)
def test_entities_are_those_of_seqeval(
    prefixes: str, true: list[str], found: list[str], counts: tuple[int, ...]
) -> None:
    labels = ("O", *(f"{prefix}-X" for prefix in prefixes))
    scheme = scheme_of(labels)
    assert scheme is not None and scheme.types == ("X",)

    def numbers(rows: list[str]) -> np.ndarray:
        return np.array([["O", *prefixes].index(tag) for tag in " ".join(rows).split()])

    lengths = np.array([len(row.split()) for row in true])
    each = entity_counts(scheme, numbers(found), numbers(true), lengths)
    assert tuple(each.sum(axis=(0, 1)).tolist()) == counts
    right, given, wanted = counts
    assert entity_f1(each.sum(axis=(0, 1))) == pytest.approx(2 * right / max(given + wanted, 1))


def test_types_matter_and_are_counted_apart() -> None:
    scheme = scheme_of(ENTITIES.labels)
    assert scheme is not None
    true, found = np.array([1, 2, 4, 0, 3]), np.array([1, 2, 2, 0, 1])
    counts = entity_counts(scheme, found, true, np.array([5]))
    assert counts[0].tolist() == [[0, 2, 1], [0, 0, 2]]  # A and B: right, found, true


def test_the_metric_is_chosen_by_the_names_of_the_tags() -> None:
    assert (ENTITIES.words.metric, PARTS.words.metric) == ("entity F1", "token accuracy")
    assert task_from(json.loads(json.dumps(PARTS.facts()))).words == PARTS.words
    assert scheme_of(("O", "B-A", "NOUN")) is None and scheme_of(("O",)) is None
    assert scheme_of(("O", "I-LOC", "U-LOC", "L-LOC", "S-PER-X")).types == ("LOC", "PER-X")  # type: ignore[union-attr]
    truth = Truth(np.array([0, 1, 2, 1]), np.array([2, 2]))
    assert PARTS.value(np.array([0, 1, 1, 1]), truth) == 0.75
    assert PARTS.score(np.array([0, 1, 1, 1]), truth).unit == "word"
    assert task_of_architectures(("BertForTokenClassification",)) == "token-labels"
    assert task_class("token-labels") is TokenLabels


def _population(seed: int, rows: int) -> tuple[Truth, np.ndarray, np.ndarray]:
    """Sentences whose words are hard together, and the answers of two models of which the second is worse."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(2, 12, rows)
    true = draw.choice(5, lengths.sum(), p=(0.5, 0.2, 0.1, 0.15, 0.05))
    hard = np.repeat(draw.beta(0.6, 3, rows), lengths)
    noise = draw.random((2, len(true)))
    other = draw.choice(5, (2, len(true)))
    first = np.where(noise[0] < hard, other[0], true)
    return Truth(true, lengths), first, np.where(noise[1] < 0.3 * hard, other[1], first)


def test_intervals_are_over_sentences_and_cover() -> None:
    truth, before, after = _population(1000, 40_000)
    wanted = ENTITIES.value(before, truth), ENTITIES.change(before, after, truth)
    assert wanted[1] < -0.02
    inside = np.zeros(2)
    for seed in range(100):
        truth, before, after = _population(seed, 60)
        found = ENTITIES.score(before, truth), ENTITIES.difference(before, after, truth)
        assert found[0].rows == 60 and found[0].units == len(truth.labels)
        inside += [each.low <= value <= each.high for each, value in zip(found, wanted, strict=True)]
    assert (inside >= 90).all() and inside.sum() < 200


def test_equal_answers_leave_room_for_a_difference() -> None:
    truth, before, _ = _population(0, 50)
    found = ENTITIES.difference(before, before, truth)
    assert (found.value, found.gained, found.lost, found.agreement) == (0, 0, 0, 1)
    assert found.low < -0.005 and found.high > 0.005
    perfect = ENTITIES.score(truth.labels, truth)
    assert perfect.value == perfect.high == 1 and 0.9 < perfect.low < 0.995
    parts = ENTITIES.breakdown(before, before, truth, ({}, {}))
    assert [row[0] for row in parts.rows] == ["A", "B"] and all(
        "+0.0 (+0.0" not in row[4] for row in parts.rows
    )


def test_a_type_that_is_no_longer_found_is_lost() -> None:
    truth, before, _ = _population(0, 50)
    after = np.where(np.isin(before, (3, 4)), 0, before)
    rows = ENTITIES.breakdown(before, after, truth, ({}, {})).rows
    scheme = scheme_of(ENTITIES.labels)
    assert scheme is not None
    counts = entity_counts(scheme, before, truth.labels, truth.lengths).sum(axis=0)
    assert [row[1] for row in rows] == [str(each) for each in counts[:, 2]] and rows[1][3] == "0.000"
    found = ENTITIES.by_class(truth, before, after)
    (lost,) = found.lost()
    assert (lost.name, lost.units, lost.after) == ("B", counts[1, 2], 0)
    assert lost.before == pytest.approx(counts[1, 0] / counts[1, 2])
    macro, each = (
        found.macro_f1(),
        entity_f1(entity_counts(scheme, after, truth.labels, truth.lengths).sum(0)),
    )
    assert macro[0] == pytest.approx(each.mean()) and macro[1] <= macro[0] <= macro[2]
    assert ENTITIES.by_class(truth, before, before).lost() == ()


def test_tags_that_name_no_entities_are_classes_of_words() -> None:
    truth, before, after = _population(1, 80)
    task = TokenLabels(INPUTS, tuple("VWXYZ"))
    found = task.by_class(truth, before, after)
    wanted = [f1_score(truth.labels, each, average="macro") for each in (before, after)]
    assert found.macro_f1()[0] == pytest.approx(wanted[1])
    assert found.macro_f1_change()[0] == pytest.approx(wanted[1] - wanted[0])
    plain = ByClass.of_one(5, truth.labels, before, after)
    assert found.support.tolist() == plain.support.tolist()
    assert [one.units for one in found.lost()] == [one.units for one in plain.lost()]
    rows = PARTS.breakdown(
        *(np.array([0, 1, 1]),) * 2, Truth(np.array([0, 1, 2]), np.array([3])), ({}, {})
    ).rows
    assert [row[1] for row in rows] == ["1", "1", "1"] and rows[1][5:] == ("0.500", "1.000")


def test_chance_is_one_tag_for_all_words() -> None:
    truth = Truth(np.array([0, 0, 0, 1, 1]), np.array([2, 3]))
    value, gain = ENTITIES.above_constant(truth.labels, truth)
    assert value == pytest.approx(4 / 7) and gain.value == 1 - value  # B-A everywhere
    outside = Truth(np.array([0, 0, 1, 2]), np.array([1, 3]))
    assert ENTITIES.value(np.zeros(4, dtype=np.int64), outside) == 0
    assert PARTS.constant(Truth(np.array([2, 1, 1]), np.array([3]))).tolist() == [1, 1, 1]


def _batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[NO_LABEL, 1, NO_LABEL, 2, NO_LABEL], [NO_LABEL, 0, NO_LABEL, NO_LABEL, NO_LABEL]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return logits, labels, mask


def test_the_loss_is_over_first_tokens_alone() -> None:
    logits, labels, _ = _batch()
    wanted = F.cross_entropy(torch.stack((logits[0, 1], logits[0, 3], logits[1, 1])), torch.tensor([1, 2, 0]))
    assert float(PARTS.loss(logits, labels)) == pytest.approx(float(wanted))
    assert float(PARTS.loss(logits, labels[:, :4])) == pytest.approx(float(wanted))
    for nothing in (torch.full((2, 5), NO_LABEL), torch.full((2, 0), NO_LABEL), torch.full((2,), NO_LABEL)):
        assert float(PARTS.loss(logits, nothing)) == 0
    judged = PARTS.judged(logits.numpy(), labels.numpy())
    np.testing.assert_array_equal(judged, logits.numpy()[[0, 0, 1], [1, 3, 1]])
    truth = flat_truth(labels.numpy(), np.array([5, 3]))
    assert truth.labels.tolist() == [1, 2, 0] and truth.lengths.tolist() == [2, 1]


def test_a_teacher_is_heard_at_first_tokens_and_without_tags_wherever_there_is_no_padding() -> None:
    logits, labels, mask = _batch()
    teacher = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))

    def wanted(places: list[tuple[int, int]]) -> float:
        mine, theirs = (torch.stack([each[at] for at in places]) for each in (logits, teacher))
        divergence = (theirs / 2).softmax(-1) * ((theirs / 2).log_softmax(-1) - (mine / 2).log_softmax(-1))
        return float(4 * divergence.sum(-1).mean())

    def found(given: torch.Tensor) -> float:
        return float(PARTS.batch_divergence(logits, PARTS.kept_answers(teacher), given, mask, 2.0))

    first = [(0, 1), (0, 3), (1, 1)]
    assert found(labels) == pytest.approx(wanted(first), rel=1e-5)
    labels[1] = NO_LABEL
    assert found(labels) == pytest.approx(wanted([*first[:2], (1, 0), (1, 1), (1, 2)]), rel=1e-5)
    every = [(0, at) for at in range(5)] + [(1, at) for at in range(3)]
    assert found(torch.full((2,), NO_LABEL)) == pytest.approx(wanted(every), rel=1e-5)


def _program(directory: Path, words: str) -> list[Any]:
    """What the program in a bundle's README prints for a sentence."""
    code = (directory / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    given = 'words = "Put the words here , with spaces between .".split()'
    assert given in code
    printed, here = io.StringIO(), Path.cwd()
    os.chdir(directory)
    try:
        with contextlib.redirect_stdout(printed):
            exec(code.replace(given, f"words = {words.split()!r}"), {})
    finally:
        os.chdir(here)
    found: list[Any] = eval(printed.getvalue())
    return found


def _write_tagger(directory: Path) -> Path:
    """A tagger with random weights and a tokenizer that splits words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=44, special_tokens=special)
    tokenizer.train_from_iterator([" ".join(WORDS), *["cinema"] * 9], trainer)
    assert tokenizer.encode("cinema").tokens == ["cinema"]  # no row has it
    assert len(tokenizer.encode("really").tokens) > 1
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        directory
    )
    labels = dict(enumerate(TAGS))
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
        **SIZES,
    )
    model, draw = BertForTokenClassification(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if each.ndim > 1 or name.endswith("bias"):
                each.normal_(0, 0.25, generator=draw)
    model.save_pretrained(directory)
    return directory


def _recipe(tmp_path: Path, model: Path, *stages: Any, **settings: Any) -> Path:
    rows = sentences(200)
    parts = {"train": rows[:120], "validation": rows[120:150], "test": rows[150:]}
    paths = {name: str(write_sentences(tmp_path / f"{name}.jsonl", part)) for name, part in parts.items()}
    data = {"source": "file", "task": "token-labels", "text": "words", "label": "tags", "max_length": 40}
    recipe = {
        "model": {"hf": str(model), **settings},
        "data": {**data, **paths},
        "stages": stages,
        "measure": {"batch": [1], "sequence": [8], "threads": [1], "rounds": 3, "seconds": 0.001},
        "gates": {"max_metric_drop": 0.5, "min_macro_f1": 0.5},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


TRAIN = {"epochs": 6, "batch_size": 16, "learning_rate": 5e-3, "precision": "fp32"}


def test_tags_are_learnt_compressed_measured_and_shipped(tmp_path: Path) -> None:
    encoder = write_family(tmp_path / "model", FAMILIES["bert"], tags=TAGS)
    student = {"student": {"layers": 1}, "losses": {"labels": 0.5, "logits": 1}, "train": TRAIN}
    path = _recipe(tmp_path, encoder, {"distill/student": student}, "quantize/int8_dynamic", train=TRAIN)
    outcome = run(load_recipe(path), tmp_path / "reports")
    measured = outcome.report.measurement
    seen = inspected(load_recipe(path), tmp_path / "reports" / ".cache", quick=False)
    assert seen.validation_rows == 30 < seen.units and seen.quantization
    assert (measured.task, measured.candidate.accuracy.metric) == ("token-labels", "entity F1")
    assert measured.candidate.accuracy.value > 0.7 and measured.baseline.accuracy.value > 0.7
    assert measured.baseline.accuracy.rows == 50 < measured.baseline.accuracy.units
    assert measured.baseline.accuracy.batched_disagreements == 0
    assert [gate.name for gate in outcome.gates] == [
        "max_metric_drop",
        "min_macro_f1",
        "above_commonest",
    ]
    assert all(gate.holds for gate in outcome.gates)
    page = to_markdown(outcome.report)
    assert "## Each entity type" in page and "| MOOD |" in page and "change in accuracy" not in page
    config = json.loads((outcome.directory / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {str(at): name for at, name in enumerate(TAGS)}
    checked = check_bundle(outcome.directory, against=outcome.directory)
    assert checked.measurement is not None
    assert checked.measurement.candidate.accuracy.value == measured.candidate.accuracy.value
    export_model(path, tmp_path / "plain")
    entries = bundle_variants([outcome.directory, tmp_path / "plain"], tmp_path / "variants")
    assert {each["metric"] for each in entries} == {"entity F1"}


def test_the_program_of_a_bundle_finds_what_transformers_pipeline_finds(tmp_path: Path) -> None:
    from transformers import pipeline

    model = _write_tagger(tmp_path / "model")
    outcome = run(load_recipe(_recipe(tmp_path, model, "prune/vocabulary")), tmp_path / "reports")
    known = pipeline("token-classification", model=str(model), aggregation_strategy="first")
    total = 0
    for words, _ in sentences(12, seed=1):
        text = " ".join(words)
        wanted = [(each["entity_group"], text[each["start"] : each["end"]]) for each in known(text)]
        assert _program(outcome.directory, text) == wanted
        total += len(wanted)
    assert total > 12


def test_a_checkpoint_is_exported_without_data(tmp_path: Path) -> None:
    parity = export_model(_write_tagger(tmp_path / "model"), tmp_path / "bundle", max_length=16)
    assert parity["agreement"] == 1 and parity["metric_difference"] == 0
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["task"] == "token-labels"


def test_a_head_for_another_task_is_not_taken_for_tags(bert_directory: Path, tmp_path: Path) -> None:
    for train in (None, {"epochs": 1}):
        config = ModelConfig.model_validate({"hf": str(bert_directory), "train": train})
        with pytest.raises(ModelError, match="is for classification"):
            load_model(config, seed=0, scratch=tmp_path, task="token-labels", num_labels=4)
