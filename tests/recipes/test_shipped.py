"""Every recipe that is shipped: it loads, opens with its command, has one order; all stages occur in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from compress.recipe import load_recipe
from compress.registry import stage_names
from compress.report import load_report

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.y*ml"))
DIGITS = [path for path in RECIPES if path.parent.name in ("digits", "cnn", "rnn", "decoder", "vit")]
TASKS = [
    path
    for path in RECIPES
    if path.parent.name in ("pairs", "regression", "reranking", "token-labels", "embedding")
]
KEPT = {path.parent for path in (ROOT / "reports" / "reference").rglob("report.json")}
FOLDERS = [
    (folder, [path for path in RECIPES if path.parent.name == folder])
    for folder in sorted({path.parent.name for path in RECIPES})
]
NEED_TEXT = {"prune/embeddings", "prune/vocabulary"}  # the digits have no vocabulary
ORDER = ["model", "data", "stages", "export", "measure", "gates"]


def _kept(path: Path) -> Path:
    return ROOT / "reports" / "reference" / f"{path.parent.name}-{path.stem}"


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", RECIPES, ids=_name)
def test_recipe_loads_as_it_is_and_again_from_what_it_resolves_to(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    again = tmp_path / "again.yaml"
    again.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(again) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=_name)
def test_recipe_opens_with_its_command_and_a_sentence_of_what_it_does(path: Path) -> None:
    command, sentence = path.read_text(encoding="utf-8").splitlines()[:2]
    assert re.fullmatch(rf"# modelpress run {re.escape(_name(path))}( .+)?", command)
    assert re.fullmatch(r"# [A-Z0-9].+\w\.", sentence)


@pytest.mark.parametrize("path", RECIPES, ids=_name)
def test_recipe_names_its_parts_in_one_order(path: Path) -> None:
    keys = list(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert keys == [key for key in ORDER if key in keys]
    assert {"model", "data", "stages"} <= set(keys)


@pytest.mark.parametrize("path", RECIPES, ids=_name)
def test_model_file_that_a_recipe_names_is_shipped_with_it(path: Path) -> None:
    file = load_recipe(path).model.file
    assert file is None or (Path(file).is_file() and Path(file).is_relative_to(ROOT / "models"))


def test_every_stage_occurs_in_a_shipped_recipe_of_each_folder() -> None:
    used = {folder: {s.name for path in paths for s in load_recipe(path).stages} for folder, paths in FOLDERS}
    scores = {"regression", "reranking"}
    assert set(used) - scores == {
        "digits",
        "reviews",
        "cnn",
        "rnn",
        "decoder",
        "vit",
        "smollm2",
        "multi-label",
        "pairs",
        "token-labels",
        "embedding",
    }
    for folder in scores:
        assert used[folder] == {"prune/structured", "quantize/int8_dynamic", "distill/student"}
    everything = set(stage_names()) - {"prune/channels"}
    assert used["reviews"] == everything and used["digits"] == everything - NEED_TEXT
    assert used["cnn"] == {"prune/channels", "quantize/int8_static", "distill/student"}
    assert used["vit"] == {"prune/heads", "quantize/int8_dynamic", "distill/student"}
    assert used["rnn"] == {"prune/channels", "quantize/int8_dynamic", "distill/student"}
    assert used["pairs"] == {"prune/vocabulary", "prune/heads", "distill/student", "quantize/int8_dynamic"}
    assert used["multi-label"] == {"quantize/int8_dynamic"}
    assert used["token-labels"] == {
        "prune/heads",
        "prune/vocabulary",
        "distill/student",
        "quantize/int8_dynamic",
    }
    assert used["smollm2"] == {"quantize/int4_weight_only"}
    assert used["decoder"] == {
        "prune/layers",
        "prune/structured",
        "quantize/int4_weight_only",
        "distill/student",
    }


def test_both_folders_of_transformers_hold_recipes_of_the_same_names() -> None:
    """What somebody tried on the digits is there for a model of their own."""
    names = {folder: {path.stem for path in paths} for folder, paths in FOLDERS}
    assert names["digits"] == names["reviews"] - {name.replace("/", "-") for name in NEED_TEXT}


@pytest.mark.parametrize("path", DIGITS, ids=_name)
def test_reference_report_is_of_the_recipe_as_it_is_shipped(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    directory = ROOT / "reports" / "reference" / recipe.run_name
    assert (directory / "report.json").is_file(), f"no {directory}: run `python3 .ci/dev.py reference`"
    report = load_report(directory)
    shipped = recipe.resolved(relative_to=ROOT)
    (tmp_path / "kept.yaml").write_text(yaml.safe_dump(report.recipe))
    # Read again: a key that is newer than the report has its default.
    kept = load_recipe(tmp_path / "kept.yaml").resolved(relative_to=tmp_path)
    assert kept == shipped, "the recipe was changed since: run `python3 .ci/dev.py reference`"
    assert (report.name, report.parity.holds) == (recipe.run_name, True)


def test_no_reference_report_is_of_a_recipe_that_is_no_longer_shipped() -> None:
    names = {load_recipe(path).run_name for path in (*DIGITS, *TASKS)}
    assert {path.name for path in KEPT} <= names


@pytest.mark.parametrize("path", [path for path in TASKS if _kept(path) in KEPT], ids=_name)
def test_reference_report_of_a_task_has_the_stages_of_its_recipe_and_no_path_of_a_machine(path: Path) -> None:
    """Model, data and what is measured are named in `tests/benchmarks/tasks.py`."""
    report, recipe = load_report(_kept(path)), load_recipe(path)
    assert report.recipe["stages"] == recipe.resolved(relative_to=ROOT)["stages"]
    assert (report.name, report.parity.holds) == (recipe.run_name, True)
    assert report.measurement.task == recipe.data.task
    for file in _kept(path).iterdir():
        assert not re.search(r"(?<![\w/.:>-])/(work|home|root|tmp|Users)/", file.read_text(encoding="utf-8"))
