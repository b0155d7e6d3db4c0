"""Tasks by name, by the names of Hugging Face, and by what a report holds; and data drawn without strata."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from compress.data.config import CorpusData, DigitsData
from compress.data.partition import partition
from compress.data.table import Table
from compress.tasks import TASKS, Classification, InputSpec, LanguageModelling, Task, task_class, task_from
from compress.tasks.registry import (
    all_gates,
    default_task,
    head_of_name,
    task_of_architectures,
    task_of_measurement,
)

IDS = InputSpec("input_ids", "int64", ("sequence_length",), 3)


@pytest.mark.parametrize(
    "task", [Classification((IDS,), ("no", "yes")), LanguageModelling((IDS,), vocabulary=9)]
)
def test_a_task_survives_json(task: Task) -> None:
    assert task_from(json.loads(json.dumps(task.facts()))) == task


def test_every_task_is_registered_under_its_own_name() -> None:
    for name in TASKS:
        task = task_class(name)
        assert task.name == name and task.words.metric and task.words.unit
    assert default_task("labelled") == "classification" and default_task("stream") == "language-modelling"


def test_a_gate_is_the_same_in_all_its_tasks_and_a_head_belongs_to_one() -> None:
    gates = [each for name in TASKS for each in task_class(name).gates.items()]
    assert all(all_gates()[key] is gate for key, gate in gates)
    heads = [head.name for name in TASKS for head in task_class(name).heads]
    assert len(set(heads)) == len(heads)
    assert head_of_name("image-classification").auto_class == "AutoModelForImageClassification"


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "classification"),
        ("ViTForImageClassification", "classification"),
        ("LlamaForCausalLM", "language-modelling"),
        ("GPT2LMHeadModel", "language-modelling"),
        ("BertWithLMHeadModel", None),
        ("BertModel", None),
    ],
)
def test_a_task_is_known_by_the_name_of_an_architecture(architecture: str, task: str | None) -> None:
    assert task_of_architectures((architecture,)) == task


def test_older_measurements_name_no_task() -> None:
    for task, language, kind in (
        ("", None, Classification),
        ("", object(), LanguageModelling),
        ("classification", None, Classification),
    ):
        found = task_of_measurement(SimpleNamespace(labels=("a", "b"), task=task, language=language))
        assert type(found) is kind and found.labels == ("a", "b")


def test_data_say_their_task_only_where_it_is_not_implied() -> None:
    assert DigitsData().task == "classification" and "task" not in DigitsData().model_dump()
    assert CorpusData(train="x.txt").task == "language-modelling"
    with pytest.raises(ValueError, match="'language-modelling'.*allowed: classification, multi-label"):
        DigitsData(task="language-modelling")


class _WithoutStrata(Classification):
    @classmethod
    def label_names(cls, label: tuple[str, ...]) -> tuple[str, ...]:
        return label

    @classmethod
    def stratum(cls, label: tuple[str, ...]) -> None:
        return None


def test_rows_whose_labels_have_no_strata_are_drawn_all_the_same() -> None:
    labels = tuple((("a",), ("a", "b"), ("b",), ("c", "b", "a"))[index % 4] for index in range(20))
    table = Table("x", "x", tuple(f"row {index}" for index in range(20)), labels)  # type: ignore[arg-type]
    fractions = {"validation": 0.2, "test": 0.3}
    found = partition({"train": table}, fractions=fractions, task=_WithoutStrata, train_limit=8).indices
    assert [len(found[part]) for part in ("train", "validation", "test")] == [8, 4, 6]
    assert len(set(np.concatenate(list(found.values())).tolist())) == 18
