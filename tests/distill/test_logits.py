"""A student begins as its teacher's layers and learns from its answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.distill.logits import LogitsDistillation
from compress.errors import StageError
from compress.model import Definition, ModelConfig, load_model
from compress.prune.heads import HeadPruning
from compress.registry import stage_class
from compress.stage import Context
from compress.train import evaluate, fit_
from compress.train_config import TrainConfig
from tests.hf_families import FAMILIES, write_family

TRAIN = TrainConfig(epochs=4, batch_size=16, learning_rate=3e-3)


def test_the_student_begins_with_the_teachers_layers(model: nn.Module, context: Context) -> None:
    stage = LogitsDistillation(
        student={"num_layers": 1}, keep_layers="last", train=TrainConfig(epochs=1, learning_rate=1e-12)
    )
    made = stage.apply(model, context)
    student = made.model
    for name, tensor in student.state_dict().items():
        origin = name.replace("layers.0.", "layers.1.")
        torch.testing.assert_close(tensor, model.state_dict()[origin], rtol=0, atol=1e-9)  # steps of 1e-12
    assert made.facts["tensors_from_teacher"] == f"{len(student.state_dict())} of {len(student.state_dict())}"


def test_tensors_of_another_shape_begin_at_random(model: nn.Module, context: Context) -> None:
    stage = LogitsDistillation(student={"dim_feedforward": 32}, train=TrainConfig(epochs=1))
    made = stage.apply(model, context)
    copied, total = (int(word) for word in made.facts["tensors_from_teacher"].split(" of "))
    assert total - copied == 2 * 3  # up weight and bias and down weight, in two layers


def test_the_student_learns_from_the_teacher_alone(
    model: nn.Module, splits: Splits, context: Context
) -> None:
    fit_(model, splits.train, splits.validation, splits.task, TRAIN)
    wrong = replace(splits.train, labels=(splits.train.labels + 1) % 3)  # labels that lie
    stage = LogitsDistillation(student={"num_layers": 1}, init="random", hard_weight=0.0, train=TRAIN)
    student = stage.apply(model, replace(context, train=wrong)).model
    assert evaluate(student, splits.validation, splits.task)["validation_metric"] > 0.8


def test_the_teacher_of_the_context_is_asked_not_the_model(
    model: nn.Module, splits: Splits, context: Context
) -> None:
    class Second(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 9.0, 0.0]]).expand(len(features), 3) + 0 * features.sum()

    stage = LogitsDistillation(student={"num_layers": 1}, hard_weight=0.0, train=TRAIN)
    student = stage.apply(model, replace(context, teacher=Second())).model
    answers = student(torch.from_numpy(next(splits.test.batches(48))["features"])).argmax(-1)
    assert set(answers.tolist()) == {1}


def test_a_wrong_student_is_refused_before_training(model: nn.Module) -> None:
    with pytest.raises(StageError, match=r"no argument 'num_layer'; did you mean 'num_layers'\?"):
        LogitsDistillation(student={"num_layer": 1}).rehearse(model)
    with pytest.raises(StageError, match="3 layers .*teacher of 2"):
        LogitsDistillation(student={"num_layers": 3}).rehearse(model)


def test_layers_that_are_shared_begin_as_the_teachers(tmp_path: Path) -> None:
    write_family(tmp_path / "albert", FAMILIES["albert"])
    config = ModelConfig.model_validate({"hf": str(tmp_path / "albert")})
    model = load_model(config, seed=0, scratch=tmp_path).module
    student = LogitsDistillation(student={"num_hidden_layers": 1}).rehearse(model)
    assert student.config.num_hidden_layers == 1  # type: ignore[union-attr]
    wanted = model.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in student.state_dict().items())


def test_a_module_that_we_did_not_build_has_no_student() -> None:
    with pytest.raises(StageError, match="model.builder"):
        LogitsDistillation(student={"num_layers": 1}).rehearse(nn.Linear(2, 2))


def test_a_student_of_a_module_whose_layers_are_unknown_is_refused_with_what_works(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef build(width=4):\n    return nn.Linear(2, width)\n"
    )
    model = Definition.from_file(tmp_path / "mine.py", "build", {}).build(seed=0)
    with pytest.raises(StageError, match="init: random"):
        LogitsDistillation(student={"width": 3}).rehearse(model)
    made = LogitsDistillation(student={"width": 3}, init="random").rehearse(model)
    assert [tuple(each.shape) for each in made.parameters()] == [(3, 2), (3,)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("embeddings", {"rank": 8}), ("vocabulary", {}), ("width", {"width": 16})],
)
def test_a_student_after_what_it_would_not_have_is_refused(name: str, settings: dict[str, Any]) -> None:
    before = stage_class(f"prune/{name}")(**settings)
    reason = LogitsDistillation(student={"num_layers": 1}).objection([before])
    assert reason is not None and f"put prune/{name} after distill/logits" in reason
    assert LogitsDistillation(student={"num_layers": 1}).objection([HeadPruning(sparsity=0.5)]) is None
