"""distill/student: what a student begins as, whom it learns from, and on which rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from compress.data import FileData, Splits, TextEncoder, load_splits
from compress.distill.stage import StudentDistillation
from compress.distill.student import StudentConfig, build_student, load_student
from compress.errors import ModelError, StageError
from compress.model import load_model
from compress.model.cutting.depth import layer_count
from compress.model.files.config import ModelConfig
from compress.model.files.definition import Definition
from compress.prune.heads import HeadPruning
from compress.prune.vocabulary import VocabularyPruning
from compress.stage import Context
from compress.train import evaluate, fit_
from compress.train_config import TrainConfig

from ..hf_families import FAMILIES, write_family

TRANSFORMER = Path(__file__).resolve().parents[2] / "models" / "transformer.py"

ROOT = Path(__file__).resolve().parents[2]
TRAIN = TrainConfig(epochs=4, batch_size=16, learning_rate=3e-3)
SHORT = {"epochs": 1, "learning_rate": 1e-12}  # steps that change nothing that shows
NAMES = ("input_ids", "attention_mask", "token_type_ids")


def _stage(**given: Any) -> StudentDistillation:
    return StudentDistillation.model_validate(given)


@pytest.fixture
def text_context(bert_directory: Path, text_splits: Splits) -> Context:
    encoder = TextEncoder.from_directory(bert_directory, input_names=NAMES)
    return Context(text_splits.task, text_splits.train, text_splits.validation, reader=encoder)


def test_a_student_of_some_layers_begins_with_their_weights(model: nn.Module, context: Context) -> None:
    made = _stage(student={"layers": [1]}, train=SHORT).apply(model, context)
    student = made.model
    for name, tensor in student.layers[0].state_dict().items():
        torch.testing.assert_close(tensor, model.layers[1].state_dict()[name], rtol=0, atol=1e-9)
    assert made.facts["layers_kept"] == [1] and made.facts["layers_before"] == 2
    assert layer_count(model) == 2


def test_the_best_layer_is_the_one_that_does_something(model: nn.Module, context: Context) -> None:
    for name, parameter in model.layers[1].named_parameters():
        if name.endswith(("out.weight", "out.bias", "down.weight", "down.bias")):
            parameter.data.zero_()  # the second layer adds nothing
    stage = _stage(student={"layers": 1, "keep": "best"}, train=SHORT)
    made = stage.apply(model, context)
    assert made.facts["layers_kept"] == [0]


def test_without_a_student_the_cut_model_is_trained(model: nn.Module, context: Context) -> None:
    context = replace(context, teacher=model)
    cut = HeadPruning(sparsity=0.5).apply(model, context).model
    before = {name: tensor.clone() for name, tensor in cut.state_dict().items()}
    student = _stage(train={"epochs": 1, "learning_rate": 1e-3}).apply(cut, context).model
    assert {n: t.shape for n, t in student.state_dict().items()} == {n: t.shape for n, t in before.items()}
    assert any(not torch.equal(t, before[n]) for n, t in student.state_dict().items())
    assert all(torch.equal(t, before[n]) for n, t in cut.state_dict().items())


def test_a_student_of_another_architecture_learns(
    model: nn.Module, splits: Splits, context: Context, tmp_path: Path
) -> None:
    fit_(model, splits.train, splits.validation, splits.task, TRAIN)
    (tmp_path / "small.py").write_text(
        "from torch import nn\n"
        "class Mean(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.out = nn.Linear(4, 3)\n"
        "    def forward(self, features):\n"
        "        return self.out(features.mean(1))\n"
    )
    stage = _stage(
        student={"model": {"file": str(tmp_path / "small.py"), "builder": "Mean"}},
        losses={"logits": 1},
        train={"epochs": 20, "batch_size": 16, "learning_rate": 3e-2},
    )
    stage.check(model, context)
    student = stage.apply(model, context).model
    assert type(student).__name__ == "Mean"
    assert evaluate(student, splits.validation, splits.task)["validation_metric"] > 0.8


def test_a_hugging_face_student_gets_the_tasks_classes(
    text_model: nn.Module, text_context: Context, bert_directory: Path
) -> None:
    stage = _stage(student={"model": {"hf": str(bert_directory)}}, losses={"logits": 1}, train=SHORT)
    stage.check(text_model, text_context)
    assert stage.apply(text_model, text_context).model.config.num_labels == 2


def test_a_student_that_is_larger_is_said_to_be(
    definition: Definition, model: nn.Module, context: Context
) -> None:
    stage = _stage(student={"args": {"dim_feedforward": 128}}, losses={"logits": 1}, train=SHORT)
    made = stage.apply(model, context)
    assert made.facts["parameters_student"] > made.facts["parameters_teacher"]


def test_given_teachers_are_asked(model: nn.Module, splits: Splits, context: Context, tmp_path: Path) -> None:
    (tmp_path / "second.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Second(nn.Module):\n"
        "    def forward(self, features):\n"
        "        return torch.tensor([[0.0, 9.0, 0.0]]).expand(len(features), 3)\n"
    )
    teacher = {"file": str(tmp_path / "second.py"), "builder": "Second"}
    stage = _stage(teachers=[teacher, teacher], losses={"logits": 1}, train=TRAIN)
    stage.check(model, context)
    student = stage.apply(model, context).model
    answers = student(torch.from_numpy(next(splits.test.batches(48))["features"])).argmax(-1)
    assert set(answers.tolist()) == {1}


def test_rows_are_added_up_and_counted(
    text_model: nn.Module, text_context: Context, text_splits: Splits
) -> None:
    more = replace(text_splits.validation.take(5, seed=0), name="unlabelled")
    context = replace(text_context, unlabelled=more)
    stage = _stage(rows={"augment": 2, "synthetic": 7}, losses={"logits": 1}, train=SHORT)
    rows, facts = stage.rows_of(context)
    count = len(text_splits.train)
    assert facts["rows"] == {
        "train": count,
        "unlabelled": 5,
        "augmented": 2 * (count + 5),
        "synthetic": 7,
    }
    assert len(rows) == count + 5 + 2 * (count + 5) + 7
    only = _stage(rows={"train": False, "unlabelled": False, "synthetic": 7}, losses={"logits": 1})
    rows, facts = only.rows_of(context)
    assert len(rows) == 7 and facts["rows"]["train"] == 0


def test_a_student_learns_without_any_training_text(
    text_model: nn.Module, text_splits: Splits, text_context: Context
) -> None:
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=1e-3)
    fit_(text_model, text_splits.train, text_splits.validation, text_splits.task, config)
    assert evaluate(text_model, text_splits.validation, text_splits.task)["validation_metric"] > 0.9
    stage = _stage(
        student={"args": {"num_hidden_layers": 1}},
        rows={"train": False, "synthetic": 400},
        losses={"logits": 1},
        train={"epochs": 8, "batch_size": 8, "learning_rate": 1e-3},
    )
    stage.check(text_model, text_context)
    student = stage.apply(text_model, text_context).model
    assert evaluate(student, text_splits.validation, text_splits.task)["validation_metric"] > 0.9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"student": {"layers": 1, "args": {"nhead": 2}}}, "layers, args and model"),
        ({"student": {"layers": 0}}, "layers must be at least 1"),
        ({"student": {"layers": [1], "keep": "best"}}, "keep: best "),
        ({"losses": {"labels": 0}}, "no loss is active"),
    ],
)
def test_a_wrong_recipe_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _stage(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"student": {"layers": 3}}, "a student of 3 layers is deeper than its teacher of 2"),
        ({"student": {"layers": [0, 4]}}, r"must be some of 0\.\.1"),
        ({"student": {"args": {"num_layer": 1}}}, r"did you mean 'num_layers'"),
    ],
)
def test_a_student_that_cannot_be_is_refused_before_work(
    model: nn.Module, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        _stage(**given).rehearse(model)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"augment": 1}, "rows.augment and rows.synthetic "),
        ({"synthetic": 1}, "rows.augment and rows.synthetic "),
        ({"train": False}, "no rows to train on"),
    ],
)
def test_rows_that_cannot_be_made_are_refused_before_work(
    model: nn.Module, context: Context, rows: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        _stage(rows=rows).check(model, context)


def test_maps_of_rotary_attention_are_refused_before_work_and_its_relations_are_not(context: Context) -> None:
    sizes = {"nhead": 4, "num_layers": 2, "d_model": 32, "dim_feedforward": 64, "dropout": 0.0}
    arguments = {"input_dim": 4, "output_dim": 3, "positions": "rope", "max_length": 8, **sizes}
    model = Definition.from_file(TRANSFORMER, "patch_classifier", arguments).build(seed=0)
    for name, weight in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            weight.data.mul_(4)  # fresh weights attend almost evenly, rotated or not
    with pytest.raises(ModelError, match="losses.attention.*layer 0.*Transformer"):
        _stage(losses={"attention": 1}).check(model, context)
    _stage(losses={"relations": 1}).check(model, context)


def test_maps_of_plain_attention_are_compared(model: nn.Module, context: Context) -> None:
    _stage(losses={"attention": 1}).check(model, context)


def test_labels_alone_need_rows_with_labels(text_model: nn.Module, text_context: Context) -> None:
    stage = _stage(rows={"train": False, "synthetic": 9}, losses={"labels": 1})
    with pytest.raises(StageError, match="losses: labels "):
        stage.check(text_model, text_context)


def test_models_of_other_words_or_labels_are_refused(
    text_model: nn.Module, text_context: Context, bert_directory: Path, tmp_path: Path
) -> None:
    words = tmp_path / "words"
    shutil.copytree(bert_directory, words)
    tokenizer = json.loads((words / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    (words / "tokenizer.json").write_text(json.dumps(tokenizer))
    for changes in (tokenizer, json.loads((bert_directory / "tokenizer.json").read_text())):
        if changes is not tokenizer:  # the same words, split otherwise
            changes["pre_tokenizer"] = {"type": "CharDelimiterSplit", "delimiter": "_"}
        (words / "tokenizer.json").write_text(json.dumps(changes))
        with pytest.raises(StageError, match="has another tokenizer than the recipe's model"):
            _stage(student={"model": {"hf": str(words)}}).check(text_model, text_context)
    labels = tmp_path / "labels"
    shutil.copytree(bert_directory, labels)
    config = json.loads((labels / "config.json").read_text())
    config |= {"id2label": {"0": "1", "1": "0"}, "label2id": {"1": 0, "0": 1}}
    (labels / "config.json").write_text(json.dumps(config))
    with pytest.raises(StageError, match="labels 1, 0, not 0, 1"):
        _stage(teachers=[{"hf": str(labels)}]).check(text_model, text_context)


@pytest.mark.parametrize(
    ("theirs", "ours", "agree"),
    [
        (("LABEL_0", "LABEL_1"), ("neg", "pos"), True),
        (("neg", "pos"), ("LABEL_0", "LABEL_1"), True),
        (("LABEL_0", "LABEL_1"), ("LABEL_0", "LABEL_1"), True),
        (("pos", "neg"), ("neg", "pos"), False),
        (("LABEL_1", "LABEL_0"), ("neg", "pos"), False),
    ],
)
def test_made_up_names_of_labels_are_no_names(
    text_model: nn.Module,
    text_context: Context,
    bert_directory: Path,
    tmp_path: Path,
    theirs: tuple[str, ...],
    ours: tuple[str, ...],
    agree: bool,
) -> None:
    other = Path(shutil.copytree(bert_directory, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config |= {"id2label": dict(enumerate(theirs)), "label2id": {name: i for i, name in enumerate(theirs)}}
    (other / "config.json").write_text(json.dumps(config))
    context = replace(text_context, task=replace(text_context.task, labels=ours))
    for stage in (
        _stage(teachers=[{"hf": str(other)}]),
        _stage(student={"model": {"hf": str(other)}}, losses={"logits": 1}),
    ):
        if agree:
            stage.check(text_model, context)
        else:
            with pytest.raises(StageError):
                stage.check(text_model, context)


def test_a_teacher_without_a_trained_head_is_refused(
    text_model: nn.Module, text_context: Context, bert_directory: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(bert_directory, tmp_path / "bare"))
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(StageError, match="teachers"):
        _stage(teachers=[{"hf": str(bare)}]).check(text_model, text_context)
    _stage(student={"model": {"hf": str(bare)}}, losses={"logits": 1}).check(text_model, text_context)


def test_models_of_fewer_positions_than_texts_may_have_are_refused(
    text_model: nn.Module, text_context: Context, bert_directory: Path, tmp_path: Path
) -> None:
    """The rows have twelve tokens at most, and a text may have sixteen."""
    assert text_context.encoder is not None
    text_context.encoder.tokenizer.enable_truncation(16)  # as it was when it encoded the splits
    short = shutil.copytree(bert_directory, tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 12}))
    weights = load_file(short / "model.safetensors")
    name = "bert.embeddings.position_embeddings.weight"
    weights[name] = weights[name][:12].contiguous()
    save_file(weights, short / "model.safetensors", metadata={"format": "pt"})
    for settings in ({"student": {"model": {"hf": str(short)}}}, {"teachers": [{"hf": str(short)}]}):
        with pytest.raises(StageError, match="at most 12 tokens"):
            _stage(**settings).check(text_model, text_context)


def test_a_model_that_does_something_else_with_token_types_is_refused(
    text_model: nn.Module, text_context: Context, bert_directory: Path, tmp_path: Path
) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    sizes = {"vocab_size": 16, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 40}
    model = GPT2ForSequenceClassification(GPT2Config(**sizes, pad_token_id=0, num_labels=2))
    model.save_pretrained(tmp_path / "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(bert_directory / name, tmp_path / "gpt2" / name)
    settings = json.loads((tmp_path / "gpt2" / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (tmp_path / "gpt2" / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    config |= {"id2label": {"0": "0", "1": "1"}, "label2id": {"0": 0, "1": 1}}
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(config))
    with pytest.raises(StageError, match="reads input_ids, attention_mask; .* token_type_ids"):
        _stage(teachers=[{"hf": str(tmp_path / "gpt2")}]).check(text_model, text_context)


def test_another_model_after_a_cut_vocabulary_is_refused(bert_directory: Path) -> None:
    stage = _stage(student={"model": {"hf": str(bert_directory)}})
    reason = stage.objection([VocabularyPruning()])
    assert reason is not None and "put prune/vocabulary after distill/student" in reason
    assert _stage(student={"layers": 1}).objection([VocabularyPruning()]) is None


def test_no_text_of_validation_or_test_is_learnt_on(
    bert_directory: Path, tmp_path: Path, write_reviews: Callable[..., Path], text_model: nn.Module
) -> None:
    path = write_reviews(tmp_path / "rows.csv")
    config = FileData.model_validate(
        {"source": "file", "train": str(path), "unlabelled": str(path), "max_length": 16}
    )
    encoder = TextEncoder.from_directory(bert_directory, input_names=NAMES)
    splits = load_splits(config, reader=encoder)
    context = Context(
        splits.task, splits.train, splits.validation, unlabelled=splits.unlabelled, reader=encoder
    )
    rows, _ = _stage(rows={"train": True}, losses={"logits": 1}).rows_of(context)
    held_out = {tuple(row["input_ids"]) for part in (splits.validation, splits.test) for row in part.rows}
    assert not held_out & {tuple(row["input_ids"]) for row in rows.rows}


def test_files_that_are_made_to_load_a_teacher_stay_as_long_as_they_are_read(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a .gguf file the tokenizer is one of them, which is compared with the student's."""

    def load_model(config: ModelConfig, *, scratch: Path, **_: Any) -> Path:
        (scratch / "tokenizer.json").write_text("{}")
        return scratch

    monkeypatch.setattr("compress.model.files.load.load_model", load_model)
    config = ModelConfig.model_validate({"hf": "teacher.gguf"})
    kept: Any = load_student(config, model, 2, 0, "language-modelling", tmp_path)
    assert kept == tmp_path and (tmp_path / "tokenizer.json").is_file()
    gone: Any = load_student(config, model, 2, 0, "language-modelling")
    assert not gone.exists()


def test_a_student_of_fewer_layers_has_the_kinds_of_those_it_begins_as(tmp_path: Path) -> None:
    write_family(tmp_path / "model", FAMILIES["qwen2"], decoder=True, num_hidden_layers=4)
    (tmp_path / "scratch").mkdir()
    config = ModelConfig.model_validate({"hf": str(tmp_path / "model")})
    model = load_model(config, seed=0, scratch=tmp_path / "scratch", task="language-modelling").module
    assert model.config.layer_types == ["full_attention", *["sliding_attention"] * 3]
    for settings, kept in (({"layers": 2}, [1, 3]), ({"layers": [0, 3]}, [0, 3])):
        student, facts = build_student(StudentConfig.model_validate(settings), model, seed=0)
        assert facts["layers_kept"] == kept
        assert student.config.layer_types == [model.config.layer_types[index] for index in kept]
    student, _ = build_student(StudentConfig(args={"num_hidden_layers": 2}), model, seed=0)
    assert student.config.layer_types == ["sliding_attention"] * 2  # of layers 1 and 3
