"""What a reader must know first is in the warnings: guessed labels, rows seen before, chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.data import Splits, from_arrays
from compress.data.table import Note
from compress.measure.answers import pack_answers
from compress.measure.results import Answers
from compress.pipeline.caveats import doubt_of_model, doubts_of_data, lines_before_work, warnings_of
from compress.recipe import load_recipe
from compress.report import load_report

RECIPE = """
model: {hf: some-model}
data: {source: file, train: train.csv}
stages: [quantize/int8_dynamic]
"""


def test_a_guessed_label_order_and_test_rows_out_of_train_are_said(splits: Splits, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml")
    task = replace(splits.task, labels=("bad", "fine", "good"))
    guessed = replace(splits, task=task, notes=(Note("the model's labels have no names", "guessed-labels"),))
    order, seen = doubts_of_data(recipe, guessed)
    assert "bad, fine, good" in order and "id2label" in order
    assert "data.test" in seen


def test_integers_and_own_test_rows_raise_no_doubt(splits: Splits, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml", ["data.test=test.csv"])
    numbered = replace(splits, notes=(Note("the model's labels have no names", "guessed-labels"),))
    assert doubts_of_data(recipe, numbered) == ()


def test_classes_without_rows_texts_that_are_cut_and_rows_that_are_dropped_are_said_before_work(
    splits: Splits, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml", ["data.test=test.csv"])
    cut, dropped, read = Note("9 of 9 texts cut", "cut"), Note("3 rows dropped", "dropped"), Note("by tabs")
    kept = np.flatnonzero(splits.test.labels != 1)
    lacking = replace(splits, test=splits.test.at(kept), notes=(cut, read, dropped))
    doubts = doubts_of_data(recipe, lacking)
    assert doubts[1:] == (cut, dropped)
    assert "test" in doubts[0] and "'1'" in doubts[0]
    assert lines_before_work(recipe, lacking) == (*doubts, read)


def test_a_model_no_better_than_chance_is_said_so(splits: Splits, digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml", ["data.test=test.csv"])
    measured = load_report(digits_run / "reports" / "digits").measurement

    labels = np.arange(60) % 3  # equally many rows of three labels: chance is a third

    def count(baseline_right: int, candidate_right: int) -> int:
        answers = Answers(
            labels=pack_answers(labels),
            baseline=pack_answers((labels + (np.arange(60) >= baseline_right)) % 3),
            candidate=pack_answers((labels + (np.arange(60) >= candidate_right)) % 3),
        )
        return len(warnings_of(recipe, splits, measured.model_copy(update={"answers": answers})))

    others = count(50, 50)
    assert (count(22, 22), count(50, 22)) == (others + 2, others + 1)


def test_a_quantize_stage_that_took_answers_to_chance_is_named_with_its_layers(
    splits: Splits, digits_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml", ["data.test=test.csv"])
    report = load_report(digits_run / "reports" / "digits")
    stage = report.stages[-1]
    fallen = stage.model_copy(update={"facts": {"fell_to_chance": {"a.down": 0.75, "b.up": 0.25}}})
    usual, said = (warnings_of(recipe, splits, report.measurement, stages) for stages in ([stage], [fallen]))
    (new,) = set(said) - set(usual)
    assert stage.name in new and "a.down" in new and "guard" in new


def test_a_model_that_always_says_the_majority_does_not_pass_silently(
    splits: Splits, digits_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "r.yaml", ["data.test=test.csv"])
    measured = load_report(digits_run / "reports" / "digits").measurement.model_copy(
        update={"labels": ("fine", "rare")}
    )

    def said(rare: int, found: int) -> list[str]:
        labels = (np.arange(3000) < rare).astype(np.int64)
        answers = Answers(
            labels=pack_answers(labels),
            baseline=pack_answers(labels),
            candidate=pack_answers((np.arange(3000) < found).astype(np.int64)),
        )
        warnings = warnings_of(recipe, splits, measured.model_copy(update={"answers": answers}))
        return [each for each in warnings if "most frequent" in each or "'rare'" in each]

    chance, lost = said(6, 0)  # 99.8 % of all answers are the baseline's
    assert "most frequent" in chance and "'rare'" in lost and "100.0 % to 0.0 %" in lost
    assert len(said(2, 0)) == 2 and "'rare'" not in "".join(said(2, 0))  # nor is the baseline above chance
    assert said(30, 25) == []


@pytest.mark.parametrize("group", [None, "query"])
def test_a_model_of_numbers_at_chance_is_known_before_it_is_compressed(group: str | None) -> None:
    draw = np.random.default_rng(0)

    def rows(count: int) -> dict[str, Any]:
        x = draw.normal(size=(count, 2)).astype(np.float32)
        found = {"x": x, "labels": np.maximum(x[:, 0].astype(float), 0)}
        return found if group is None else found | {"query": np.arange(count) // 5}

    splits = from_arrays(rows(50), rows(200), group=group)

    class Column(torch.nn.Module):
        def __init__(self, at: int) -> None:
            super().__init__()
            self.at = at

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, self.at : self.at + 1]

    assert doubt_of_model(Column(0), splits) is None
    doubt = doubt_of_model(Column(1), splits)
    assert doubt is not None and splits.task.words.constant in doubt
