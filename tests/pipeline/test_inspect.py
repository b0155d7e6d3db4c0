"""Inspecting a model: what is said of it holds when it is done to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.data import FileData
from compress.errors import ModelError, RecipeError, UnknownNameError
from compress.model import keep_units_, structure_of
from compress.pipeline import inspect_model, inspection_recipe, prepare
from compress.pipeline.cache import Cache
from compress.pipeline.stages import trained_model
from compress.recipe import load_recipe
from compress.report import Inspection
from compress.train import evaluate

WriteRecipe = Callable[..., Path]
ROWS = "text,label\n" + "".join(
    f"{'good fine' if i % 2 else 'bad poor'} {'film ' * (i // 2 % 6)}{'plot ' * (i // 12)},{i % 2}\n"
    for i in range(60)
)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory, write_recipe: WriteRecipe) -> Path:
    return write_recipe(tmp_path_factory.mktemp("inspect") / "digits.yaml")


@pytest.fixture(scope="module")
def found(recipe_file: Path) -> Inspection:
    recipe = inspection_recipe(str(recipe_file))
    return inspect_model(
        recipe, calibration_rows=40, max_drop=0.05, cache=recipe_file.parent / "cache", sentences=2
    )


def test_the_set_has_the_accuracy_that_is_said_when_it_is_cut(
    found: Inspection, recipe_file: Path, tmp_path: Path
) -> None:
    cache = Cache(recipe_file.parent / "cache")
    prepared = prepare(inspection_recipe(str(recipe_file)), tmp_path, cache=cache)
    module, _ = trained_model(prepared)
    splits = prepared.splits
    assert found.validation_rows == len(splits.validation)
    whole = evaluate(module, splits.validation, splits.task)["validation_metric"]
    assert found.accuracy == pytest.approx(whole)
    for site, heads in zip(structure_of(module).attention, found.heads, strict=True):
        keep_units_(module, site, heads.needed)
    cut = evaluate(module, splits.validation, splits.task)["validation_metric"]
    assert found.need.accuracy == pytest.approx(cut)
    assert found.need.difference == pytest.approx(cut - whole)


def test_the_set_is_the_smallest_tried_that_loses_no_more_than_allowed(found: Inspection) -> None:
    assert found.need in found.joint
    within = [x.silenced for x in found.joint if -x.difference <= 0.05 + 1e-9]
    assert found.need.silenced == max(within)
    assert sum(len(x.needed) for x in found.heads) == 8 - found.need.silenced


def test_curves_begin_with_the_full_model_and_end_with_all_heads_silenced(found: Inspection) -> None:
    for heads in found.heads:
        assert [x.silenced for x in heads.curve] == [0, 1, 2, 3, 4]
        assert heads.curve[0].accuracy == found.accuracy
        for point in heads.curve:
            assert point.low <= point.difference <= point.high
    assert [x.silenced for x in found.joint] == list(range(9))
    assert found.neuron_curve[-1].silenced == sum(x.neurons for x in found.neurons) == 128
    # one pass for the full model, and one for each point after the first of each curve
    assert found.evaluations == 1 + 8 + 2 * 4 + 10


def test_importance_has_norm_1_in_each_layer(found: Inspection) -> None:
    for heads in found.heads:
        # rounded to four decimals each
        assert sum(x * x for x in heads.importance) == pytest.approx(1.0, abs=1e-3)
        assert [heads.likeness[i][i] for i in range(4)] == [1.0] * 4


def test_every_head_looks_somewhere(found: Inspection) -> None:
    facts = found.attention
    assert not facts.left_out and len(facts.looks) == 8 and len(facts.sentences) == 2
    for look in facts.looks:
        shares = look.itself + look.first + look.separator + look.previous + look.next + look.other
        assert shares == pytest.approx(1.0, abs=1e-3)  # rounded to four decimals each
        assert look.separator == 0.0
        assert look.position is not None and 0 <= look.position < 16
    assert facts.sentences[0].tokens == tuple(str(i + 1) for i in range(16))


def test_every_group_of_layers_is_quantized_alone_in_every_scheme(found: Inspection) -> None:
    assert found.quantization_rows == 128 < found.validation_rows
    names = [group.name for group in found.quantization]
    assert "layers.0.attention.{q_proj, k_proj, v_proj}" in names and "classifier" in names
    schemes = ["int8_static", "int8_dynamic", "int8_weight_only", "int4_weight_only"]
    for group in found.quantization:
        assert list(group.divergence) == list(group.difference) == schemes
        assert all(value >= 0 for value in group.divergence.values())
    totals = {name: sum(group.divergence[name] for group in found.quantization) for name in schemes}
    assert totals["int8_weight_only"] < totals["int4_weight_only"] / 5, "16 times finer steps"


def test_quick_leaves_out_single_layers_and_quantization_and_nothing_else(
    found: Inspection, recipe_file: Path
) -> None:
    quick = inspect_model(
        inspection_recipe(str(recipe_file)),
        calibration_rows=40,
        max_drop=0.05,
        quick=True,
        cache=recipe_file.parent / "cache",
    )
    assert all(not x.curve for x in quick.heads)
    assert quick.joint == found.joint and quick.need == found.need
    assert quick.evaluations == found.evaluations - 8
    assert not quick.quantization


def test_stages_of_a_recipe_are_left_out(tmp_path: Path, write_recipe: WriteRecipe) -> None:
    file = write_recipe(tmp_path / "r.yaml", {"prune/heads": {"sparsity": 0.5}}, name="r")
    recipe = inspection_recipe(str(file), ["seed=3"])
    assert recipe.stages == () and recipe.seed == 3 and recipe.run_name == "r"


def test_a_hugging_face_directory_with_rows_on_the_command_line(bert_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROWS)
    recipe = inspection_recipe(str(bert_directory), [f"data.train={tmp_path / 'rows.csv'}"])
    assert recipe.run_name == "bert"
    found = inspect_model(recipe, calibration_rows=16, quick=True, sentences=1)
    assert found.attention.first_token == "[CLS]"
    (sentence,) = found.attention.sentences
    assert sentence.tokens[0] == "[CLS]" and sentence.tokens[-1] == "[SEP]"
    assert len(sentence.maps) == 2 and len(sentence.maps[0]) == 4
    assert len(sentence.maps[0][0]) == len(sentence.tokens)
    assert any("data.validation" in note for note in found.notes)
    assert any("measurably better" in note for note in found.notes)  # its weights are random


def test_attention_that_is_computed_otherwise_is_left_out_with_the_reason(
    tmp_path: Path, write_recipe: WriteRecipe
) -> None:
    file = write_recipe(tmp_path / "r.yaml")
    model = ["model.args.positions=rope", "model.train.epochs=1", "model.train.learning_rate=0.01"]
    found = inspect_model(inspection_recipe(str(file), model), calibration_rows=20, quick=True)
    assert "rotary" in found.attention.left_out and found.attention.looks == ()


@pytest.mark.parametrize(
    ("overrides", "kind", "part"),
    [
        ([], RecipeError, "data.source=digits"),
        (["seed=1"], RecipeError, "data.train=FILE"),
        (["data.validation=x.csv"], RecipeError, "data.validation=x.csv"),
        (["data.trian=x.csv"], RecipeError, "train"),
        (["data.source=digit"], RecipeError, "digits"),
        (["data.train=x.csv", "steges=[]"], UnknownNameError, "stages"),
    ],
)
def test_what_is_wrong_with_the_rows_is_said(
    bert_directory: Path, overrides: list[str], kind: type[Exception], part: str
) -> None:
    with pytest.raises(kind, match=part.replace(".", r"\.")):
        inspection_recipe(str(bert_directory), overrides)


def test_a_python_file_is_refused() -> None:
    with pytest.raises(ModelError, match=r"models/transformer\.py"):
        inspection_recipe("models/transformer.py", ["data.source=digits"])


def test_a_quantized_bundle_is_refused(digits_run: Path) -> None:
    recipe = inspection_recipe(str(digits_run / "reports" / "digits"), ["data.source=digits"])
    with pytest.raises(ModelError, match="quantized"):
        inspect_model(recipe)


def test_a_bundle_has_the_rows_of_its_own_recipe(digits_run: Path, tmp_path: Path) -> None:
    bundle = digits_run / "reports" / "digits"
    own = load_recipe(bundle / "recipe.resolved.yaml")
    found = inspection_recipe(str(bundle))
    assert (found.data, found.model.bundle, found.stages) == (own.data, bundle, ())
    assert inspection_recipe(str(bundle), ["data.train_limit=50"]).data.train_limit == 50
    other = inspection_recipe(str(bundle), [f"data.train={tmp_path}/mine.csv"]).data
    assert isinstance(other, FileData) and other.train == tmp_path / "mine.csv"
    bare = Path(shutil.copytree(bundle, tmp_path / "bare"))
    (bare / "recipe.resolved.yaml").unlink()
    with pytest.raises(RecipeError, match=r"data\.train=FILE"):
        inspection_recipe(str(bare))
