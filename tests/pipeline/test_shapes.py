"""What `modelpress show --shapes` says: the model and what each stage leaves, found without any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.errors import RecipeError
from compress.pipeline import recipe_shapes
from compress.prune.structured.stage import StructuredPruning
from compress.prune.vocabulary import VocabularyPruning
from compress.quantize.mixed.stage import Mixed
from compress.recipe import load_recipe
from compress.report import Shape, shapes_note, shapes_table

ROOT = Path(__file__).resolve().parents[2]
SHAPE = Shape("model", "", 6, (12,) * 6, (1536,) * 6, 384, 30_522, 22_710_000, 653_700_000, 90_900_000, 60)


def test_each_stage_leaves_a_shape(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    stages: list[Any] = [
        {"distill/logits": {"student": {"num_layers": 1}}},
        {"prune/width": {"width": 16}},
        "quantize/int8_dynamic",
    ]
    model, student, narrow, int8 = recipe_shapes(load_recipe(write_recipe(tmp_path / "r.yaml", *stages)))
    assert [x.after for x in (model, student, narrow, int8)] == ["model", *(_name(x) for x in stages)]
    assert (model.layers, student.layers, narrow.layers) == (2, 1, 1)
    assert model.heads == (4, 4) and student.heads == (4,) and model.vocabulary is None
    width, inner = model.hidden_width, model.neurons[0]
    assert width is not None and narrow.hidden_width == 16
    # A row of s positions through a layer: q, k, v and output, two feed-forward products, q k' and weights v.
    s = model.tokens
    layer = s * (4 * width * width + 2 * width * inner) + 2 * s * s * width
    assert model.macs - student.macs == layer
    assert student.weight_bytes == 4 * student.parameters
    assert int8.parameters == narrow.parameters and int8.macs == narrow.macs
    assert int8.weight_bytes < narrow.weight_bytes < student.weight_bytes < model.weight_bytes
    assert not any(x.guess for x in (model, student, narrow, int8))


def _name(stage: Any) -> str:
    return stage if isinstance(stage, str) else str(next(iter(stage)))


def test_what_work_finds_is_marked(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", {"prune/heads": {"sparsity": 0.5}}, "quantize/int8_dynamic")
    shapes = recipe_shapes(load_recipe(recipe))
    assert [bool(x.guess) for x in shapes] == [False, True, False]
    assert [row[0] for row in shapes_table(shapes).rows] == ["model", "heads*", "int8_dynamic*"]
    note = shapes_note(shapes)
    assert f"prune/heads: {shapes[1].guess}" in note


def test_each_guess_says_what_is_shown_instead() -> None:
    structured = replace(SHAPE, after="prune/structured", guess=StructuredPruning(speedup=2.0).guess)
    vocabulary = replace(SHAPE, after="prune/vocabulary", guess=VocabularyPruning().guess)
    mixed = replace(SHAPE, after="quantize/mixed", guess=Mixed().guess)
    note = shapes_note([SHAPE, vocabulary, structured, structured, mixed])
    guesses = [f"{x.after}: {x.guess}" for x in (vocabulary, structured, mixed)]
    assert note.endswith(f": {'; '.join(guesses)}.")  # each once


def test_the_row_is_the_longest_of_training_and_validation(
    write_recipe: Callable[..., Path], tmp_path: Path, bert_directory: Path
) -> None:
    for name, words in (("train", (9, 12)), ("validation", (3, 4)), ("test", (20, 20))):
        lines = [f"{' '.join(['film'] * n)},{n % 2}\n" for n in (*words, words[0] + 1)]
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(dict.fromkeys(lines)))
    files = {name: str(tmp_path / f"{name}.csv") for name in ("train", "validation", "test")}
    recipe = write_recipe(
        tmp_path / "r.yaml",
        "quantize/int8_dynamic",
        model={"hf": str(bert_directory)},
        data={"source": "file", **files, "max_length": 32},
    )
    assert [x.tokens for x in recipe_shapes(load_recipe(recipe))] == [14, 14]  # 12, and two at the ends


def test_multiply_adds_of_an_lstm_are_those_of_its_gates(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    args = {"input_dim": 4, "output_dim": 10, "hidden": 12, "num_layers": 2}
    model = {"file": str(ROOT / "models" / "rnn.py"), "builder": "patch_classifier", "args": args}
    before, after = recipe_shapes(load_recipe(write_recipe(tmp_path / "r.yaml", model=model)))
    assert before.macs == after.macs == 16 * 4 * 12 * (4 + 12 + 12 + 12) + 12 * 10
    assert after.weight_bytes < before.weight_bytes / 2


def test_a_stage_that_cannot_stand_is_refused_as_in_a_run(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="width"):
        recipe_shapes(load_recipe(write_recipe(tmp_path / "r.yaml", {"prune/width": {"width": 4096}})))


def test_equal_counts_are_said_once_and_others_listed() -> None:
    uneven = replace(SHAPE, after="prune/structured", heads=(12, 3, 0), neurons=(), layers=None)
    table = shapes_table([SHAPE, uneven])
    assert table.rows[0] == ("model", "6", "6 x 12", "6 x 1536", "384", "30,522", "22.7 M", "654 M", "90.9")
    assert table.rows[1][:5] == ("structured", "–", "12 3 0", "–", "384")
    assert "60 positions" in shapes_note([SHAPE]) and "*" not in shapes_note([SHAPE])
