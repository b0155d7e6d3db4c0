"""A task that the package doesn't have, in one file: trained, distilled, exported, measured and judged.

Each row has any of three tags: labels [n, c] of 0 and 1, a sigmoid each, and micro F1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.data.split import NO_LABEL, Split
from compress.export import check_parity, export_onnx
from compress.losses import LossConfig, Objective, TargetPlace, Teaching
from compress.losses.config import LogitsTerm, Term
from compress.measure.process.request import Request
from compress.measure.process.worker import measure
from compress.quantize.mixed.sensitivity import damage_of
from compress.recipe.gates import GatesConfig
from compress.report import judged
from compress.report.sections.gates import commonest_words
from compress.tasks import TASKS, Difference, InputSpec, Integers, Score, Task, Truth, task_of_measurement
from compress.tasks.base import Logits
from compress.tasks.spec import TaskWords
from compress.train import fit_
from compress.train.forward import evaluate
from compress.train_config import TrainConfig

INPUTS = (InputSpec("features", "float32", ("sequence_length", 4)),)


@dataclass(frozen=True)
class Tags(Task):
    name = "tags"
    rows = "labelled"
    words = TaskWords(
        model="tagger",
        metric="micro F1",
        unit="tag",
        answer="tag",
        label="tag",
        constant="always predicting the most frequent tag",
        summary="any tags a row",
        served="taggers",
        hub_metric="f1",
    )

    @classmethod
    def of_model(cls, inputs: tuple[InputSpec, ...], labels: Sequence[str] | None, vocabulary: int) -> Self:
        return cls(inputs, tuple(labels or ()))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        known = labels[:, 0] != NO_LABEL
        if not bool(known.any()):
            return logits.sum() * 0
        return F.binary_cross_entropy_with_logits(logits[known], labels[known].float())

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        p, q = (teacher / temperature).sigmoid(), (student / temperature).sigmoid()
        each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        return each.sum(-1).mean() * temperature**2

    def kept_answers(self, logits: Tensor) -> dict[str, Tensor]:
        return {"tags": logits}

    def divergence_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], temperature: float) -> Tensor:
        return self.divergence(logits, kept["tags"], temperature)

    def draw(self, judged: Tensor, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(judged.sigmoid(), generator=generator).long()

    def named(self, judged: Logits) -> Logits:
        return ((judged > 0) * 1).reshape(-1)

    def value(self, answers: Integers, truth: Truth) -> float:
        both = int((answers & truth.labels).sum())
        return 2 * both / max(int(answers.sum() + truth.labels.sum()), 1)

    def score(self, answers: Integers, truth: Truth) -> Score:
        value = self.value(answers, truth)
        counts = {"rows": len(truth.lengths), "units": len(truth.labels), "unit": self.words.unit}
        return Score(metric=self.words.metric, value=value, low=value, high=value, **counts)

    def difference(self, baseline: Integers, candidate: Integers, truth: Truth) -> Difference:
        change, labels = self.change(baseline, candidate, truth), truth.labels
        right, other = candidate == labels, baseline == labels
        return Difference(
            metric=self.words.metric,
            value=change,
            low=change,
            high=change,
            rows=len(truth.lengths),
            units=len(labels),
            gained=int((right & ~other).sum()),
            lost=int((other & ~right).sum()),
            agreement=self.agreement(baseline, candidate, truth),
            unit=self.words.unit,
        )

    def constant(self, truth: Truth) -> Integers:
        return np.ones_like(truth.labels)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.classifier = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, features: Tensor) -> Tensor:
        answered: Tensor = self.classifier(self.hidden(features).relu().mean(1))
        return answered


def _split(name: str, seed: int, count: int) -> Split:
    draw = np.random.default_rng(seed)
    tags = draw.integers(0, 2, (count, 3))
    rows = []
    for each in tags:
        center = np.append(2 * each - 1, 0)
        rows.append({"features": draw.normal(center, 0.3, (int(draw.integers(3, 6)), 4)).astype(np.float32)})
    return Split(name, tuple(rows), tags, INPUTS)


TASK = Tags(INPUTS, ("a", "b", "c"))
TRAIN = TrainConfig(epochs=12, batch_size=16, learning_rate=2e-2, precision="fp32")


@pytest.fixture(scope="module")
def rows() -> dict[str, Split]:
    return {name: _split(name, seed, 96) for seed, name in enumerate(("train", "validation", "test"))}


@pytest.fixture(scope="module")
def trained(rows: dict[str, Split]) -> nn.Module:
    torch.manual_seed(0)
    module = Net()
    fit_(module, rows["train"], rows["validation"], TASK, TRAIN)
    return module


def test_it_is_trained_and_its_metric_is_its_own(trained: nn.Module, rows: dict[str, Split]) -> None:
    found = evaluate(trained, rows["test"], TASK)
    assert found["validation_metric"] > 0.95
    batch = next(rows["test"].batches(96))
    with torch.no_grad():
        named = TASK.named(trained(torch.from_numpy(batch["features"])).numpy())
    # Means over padding: batches of another size pad otherwise, and a tag near 0 may turn.
    assert found["validation_metric"] == pytest.approx(TASK.value(named, rows["test"].truth(TASK)), abs=0.02)


def test_a_student_learns_from_what_is_kept_of_its_teacher(
    trained: nn.Module, rows: dict[str, Split], tmp_path: Path
) -> None:
    unlabelled = Split.without_labels("more", rows["validation"].rows, INPUTS)
    both = rows["train"].at(np.arange(8)).joined(unlabelled)
    losses = LossConfig(labels=Term(weight=0.1), logits=LogitsTerm(temperature=1.0))
    torch.manual_seed(1)
    student, teaching = Net(), Teaching([trained], both, TASK, TargetPlace(tmp_path))
    with Objective(losses, student, teaching) as objective:
        fit_(student, both, rows["validation"], TASK, TRAIN, loss=objective.loss, state=objective.state)
    assert evaluate(student, rows["test"], TASK)["validation_metric"] > 0.9
    assert len(list(tmp_path.glob("targets-*/tags.npy"))) == 1


def test_what_a_scheme_costs_is_counted_in_its_metric(trained: nn.Module, rows: dict[str, Split]) -> None:
    truth = torch.from_numpy(np.where(rows["test"].labels, 4.0, -4.0)).float()
    found = damage_of(-truth, truth, rows["test"], TASK)
    assert found.metric == -1.0 and found.divergence > 1


def test_it_is_exported_measured_and_judged(
    trained: nn.Module, rows: dict[str, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "tags", f"{__name__}:Tags")
    path = export_onnx(trained, rows["validation"], TASK, tmp_path / "model.onnx")
    limits = {"min_agreement": 0.98, "max_metric_difference": 0.02}
    assert check_parity(trained, path, rows["validation"], TASK, **limits).agreement == 1  # type: ignore[arg-type]
    other = tmp_path / "other"
    other.mkdir()
    torch.manual_seed(2)
    worse = export_onnx(Net(), rows["validation"], TASK, other / "model.onnx")
    rows["test"].save(tmp_path / "rows.npz")
    request = Request(
        baseline=path,
        candidate=worse,
        rows=tmp_path / "rows.npz",
        split="test",
        task=TASK.facts(),
        settings=({"batch": 1, "sequence": 4, "threads": 1},),  # type: ignore[arg-type]
        rounds=1,
        seconds=0.001,
        folder=tmp_path,
        result=tmp_path / "result.json",
    )
    found = measure(request, lambda *_: None)
    accuracy = found.baseline.accuracy
    assert (accuracy.metric, accuracy.rows, accuracy.units, accuracy.unit) == ("micro F1", 96, 288, "tag")
    assert found.answers is not None and found.answers.positions == 3
    assert found.task == "tags" and isinstance(task_of_measurement(found), Tags) and found.language is None
    gate, chance = judged(GatesConfig(max_accuracy_drop=0.01), found)
    assert not gate.holds and not chance.holds and gate.value == -found.difference.value
    assert commonest_words(found, "baseline") is None
    assert "tag" in (commonest_words(found, "candidate") or "")


def test_an_answer_of_another_width_is_refused() -> None:
    assert TASK.misfit((2, 3), 2, 5) is None
    assert "[2, 4]" in (TASK.misfit((2, 4), 2, 5) or "")
