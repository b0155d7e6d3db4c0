"""The sum of losses: what it is on a batch, when each counts, and that a student learns by each alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.data.split import NO_LABEL
from compress.losses import LossConfig, Objective, Teaching
from compress.model.files.definition import Definition
from compress.model.forward import logits, to_tensors
from compress.stage import Context, StageResult
from compress.tasks import LABELS_KEY, ROW_INDEX_KEY
from compress.tasks.softmax import softmax_divergence
from compress.train_config import TrainConfig


def _objective(given: dict[str, Any], student: nn.Module, teacher: nn.Module, splits: Splits) -> Objective:
    return Objective(
        LossConfig.model_validate(given), student, Teaching([teacher], splits.train, splits.task)
    )


def _tensors(splits: Splits, **changes: Any) -> dict[str, torch.Tensor]:
    batch = next(splits.train.batches(8))
    return {**to_tensors(batch, (*splits.task.input_names, LABELS_KEY, ROW_INDEX_KEY)), **changes}


def _value(objective: Objective, student: nn.Module, tensors: dict[str, torch.Tensor], task: Any) -> float:
    student.train()
    answers = logits(student, {name: tensors[name] for name in task.input_names})
    return float(objective.loss(answers, tensors).detach())


def test_labels_and_answers_are_added_with_their_weights(
    model: nn.Module, definition: Definition, splits: Splits
) -> None:
    student, tensors = definition.build(seed=1), _tensors(splits)
    with _objective(
        {"labels": 0.5, "logits": {"weight": 2, "temperature": 3}}, student, model, splits
    ) as both:
        found = _value(both, student, tensors, splits.task)
    mine, theirs = student(tensors["features"]), model(tensors["features"])
    expected = 0.5 * splits.task.loss(mine, tensors[LABELS_KEY]) + 2 * softmax_divergence(mine, theirs, 3.0)
    assert found == pytest.approx(float(expected.detach()), rel=1e-4)  # float32, sums in another order


@pytest.mark.parametrize("name", ["hidden", "attention", "relations", "embedding"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(
    model: nn.Module, definition: Definition, splits: Splits, name: str
) -> None:
    for seed, low, high in ((0, 0.0, 1e-4), (1, 1e-3, 99.0)):  # 1e-4: the teacher's states are in float16
        student = definition.build(seed=seed)
        with _objective({name: 1.0}, student, model, splits) as objective:
            assert low <= abs(_value(objective, student, _tensors(splits), splits.task)) <= high


def test_rows_without_labels_do_not_count_in_the_labels_loss(
    model: nn.Module, definition: Definition, splits: Splits
) -> None:
    student, tensors = definition.build(seed=1), _tensors(splits)
    labels = tensors[LABELS_KEY].clone()
    labels[2:] = NO_LABEL
    with _objective({"labels": 1}, student, model, splits) as objective:
        found = _value(objective, student, {**tensors, LABELS_KEY: labels}, splits.task)
        nothing = {**tensors, LABELS_KEY: torch.full_like(labels, NO_LABEL)}
        assert _value(objective, student, nothing, splits.task) == 0
    expected = splits.task.loss(student(tensors["features"][:2]), labels[:2])
    assert found == pytest.approx(float(expected.detach()), rel=1e-4)  # float32, a batch of another size


def test_a_loss_counts_in_its_part_of_the_training(
    model: nn.Module, definition: Definition, splits: Splits
) -> None:
    student, tensors = definition.build(seed=1), _tensors(splits)
    given = {"hidden": {"between": [0, 0.5]}, "labels": {"between": [0.5, 1]}}
    with _objective(given, student, model, splits) as objective:
        first = _value(objective, student, tensors, splits.task)
        objective.after_step(5, 10)
        second = _value(objective, student, tensors, splits.task)
    with _objective({"hidden": 1}, student, model, splits) as objective:
        assert _value(objective, student, tensors, splits.task) == pytest.approx(first)
    expected = splits.task.loss(student(tensors["features"]), tensors[LABELS_KEY]).detach()
    assert second == pytest.approx(float(expected))


def test_a_narrower_student_is_projected_while_it_learns_and_not_afterwards(
    model: nn.Module, definition: Definition, splits: Splits
) -> None:
    student = definition.changed({"d_model": 16}).build(seed=1)
    names = set(student.state_dict())
    with _objective({"hidden": 1, "embedding": 1}, student, model, splits) as objective:
        projections = {name: each.shape for name, each in student.state_dict().items() if name not in names}
        assert sorted(set(map(tuple, projections.values()))) == [(32,), (32, 16)] and len(projections) == 6
        # Least squares: what it begins with is nearer than the mean of the teacher's states is.
        assert _value(objective, student, _tensors(splits), splits.task) < 1
    assert set(student.state_dict()) == names


def test_nothing_is_held_of_rows_that_are_only_answered(model: nn.Module, splits: Splits) -> None:
    with _objective({"hidden": 1}, model, model, splits) as objective:
        model.eval()
        model(_tensors(splits)["features"])
        assert objective._watch.take() == {}


@pytest.mark.parametrize("name", ["logits", "hidden", "attention", "relations", "embedding"])
def test_each_loss_alone_brings_a_student_nearer_to_its_teacher(
    model: nn.Module, definition: Definition, splits: Splits, context: Context, name: str
) -> None:
    student = definition.changed({"num_layers": 1}).build(seed=1)

    def distance() -> float:
        with _objective({name: 1}, student, model, splits) as objective:
            return _value(objective, student, _tensors(splits), splits.task)

    before = distance()
    config = TrainConfig(epochs=4, batch_size=16, learning_rate=3e-3)
    # Validation's own metric means nothing here: the last epoch is kept.
    losses = LossConfig.model_validate({name: 1})
    StageResult(student).learn_(context, [model], losses, config, "learning", first_kept_epoch=4)
    assert distance() < 0.8 * before


def test_two_steps_learn_states_first_and_the_task_then(
    model: nn.Module, definition: Definition, context: Context
) -> None:
    student = definition.build(seed=1)
    losses = {"relations": {"between": [0, 0.5]}, "labels": {"between": [0.5, 1]}}
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=3e-3)
    made = StageResult(student)
    made.learn_(context, [model], LossConfig.model_validate(losses), config, "learning")
    metrics = [point["validation_metric"] for point in made.curve]
    assert max(metrics[:4]) < 0.7 < 0.9 < max(metrics[4:])  # of three classes


def test_unlabelled_rows_are_learnt_from_the_teacher(
    model: nn.Module, definition: Definition, splits: Splits, context: Context
) -> None:
    blind = replace(splits.train, labels=splits.train.labels * 0 + NO_LABEL)
    student = definition.build(seed=1)
    losses = LossConfig.model_validate({"labels": 1, "logits": 1})
    config = TrainConfig(epochs=6, batch_size=16, learning_rate=3e-3)
    StageResult(student).learn_(replace(context, train=blind), [model], losses, config, "learning")
    tensors = _tensors(splits)
    assert (
        float(softmax_divergence(student(tensors["features"]), model(tensors["features"]), 1.0).detach())
        < 0.05
    )
