"""`key.sub=value` on the command line: where it may lead, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.data.config import FileData
from compress.distill.logits import LogitsDistillation
from compress.errors import RecipeError, UnknownNameError
from compress.prune.heads import HeadPruning
from compress.prune.magnitude import MagnitudePruning
from compress.recipe import Recipe, load_recipe

TEXT = """\
model: {file: m.py, builder: b, args: {"0": zero, list: [1, [2, 3]]}}
data: {source: digits}
stages:
  - prune/magnitude: {sparsity: 0.5}
  - prune/heads:
      sparsity: 0.5
  - prune/magnitude: {sparsity: 0.6}
"""


@pytest.fixture(autouse=True)
def _in_its_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(*overrides: str, text: str = TEXT) -> Recipe:
    Path("x.yaml").write_text(text)
    return load_recipe("x.yaml", overrides)


def refusal(*overrides: str, kind: type[RecipeError] = RecipeError, text: str = TEXT) -> str:
    with pytest.raises(RecipeError) as caught:
        load(*overrides, text=text)
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_value_is_yaml() -> None:
    recipe = load(
        "seed=7", "name=a", "measure.batch=[2, 4]", "model.args={x: 5e-5, y: no}", "export={opset: 20}"
    )
    assert (recipe.seed, recipe.name, recipe.measure.batch, recipe.export.opset) == (7, "a", (2, 4), 20)
    assert recipe.model.args == {"x": 5e-5, "y": "no"}
    assert recipe.overrides[0] == "seed=7"


def test_the_first_equals_sign_ends_the_key() -> None:
    assert load("model.args.text=a=b").model.args["text"] == "a=b"


def test_the_last_override_of_a_key_holds() -> None:
    assert load("seed=1", "seed=2").seed == 2


def test_null_takes_a_value_away() -> None:
    recipe = load("model.file=null", "model.builder=null", "model.args={}", "model.hf=some/model")
    assert (recipe.model.hf, recipe.model.file) == ("some/model", None)


def test_mappings_on_the_way_are_made() -> None:
    recipe = load("model.train.epochs=2", "measure.rounds=3", "prune/heads.recovery.epochs=1")
    assert recipe.model.train is not None and recipe.model.train.epochs == 2
    assert recipe.measure.rounds == 3
    assert isinstance(recipe.stages[1], HeadPruning) and recipe.stages[1].recovery is not None


def test_a_stage_is_named_by_its_name_or_its_place() -> None:
    recipe = load(
        "prune/heads.sparsity=0.3", "stages.0.sparsity=0.2", "stages.2.prune/magnitude.sparsity=0.7"
    )
    heads = recipe.stages[1]
    assert isinstance(heads, HeadPruning) and heads.sparsity == 0.3
    sparsities = [stage.sparsity for stage in recipe.stages if isinstance(stage, MagnitudePruning)]
    assert sparsities == [0.2, 0.7]


def test_a_stage_is_replaced_whole() -> None:
    recipe = load(
        "stages.0=distill/logits", "stages.0.student={num_layers: 2}", "prune/heads={sparsity: 0.1}"
    )
    assert isinstance(recipe.stages[0], LogitsDistillation)
    assert isinstance(recipe.stages[1], HeadPruning) and recipe.stages[1].sparsity == 0.1
    assert load("stages=[prune/heads: {sparsity: 0.2}]").stages == (HeadPruning(sparsity=0.2),)


def test_entries_of_lists_and_keys_that_are_digits_are_told_apart() -> None:
    recipe = load("model.args.list.1.0=9", "model.args.0=nought")
    assert recipe.model.args == {"0": "nought", "list": [1, [9, 3]]}


def test_a_path_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x.yaml").write_text(TEXT)
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    recipe = load_recipe("../x.yaml", ["data={source: file, train: t.csv}", "data.test=e.csv"])
    assert isinstance(recipe.data, FileData)
    assert (recipe.data.train, recipe.data.test) == (Path.cwd() / "t.csv", Path.cwd() / "e.csv")
    assert recipe.model.file is not None
    assert recipe.model.file.resolve() == tmp_path / "m.py"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "override 'seed': write it as key=value or key.sub=value, for example seed=1"),
        ("=3", "override '=3': write it as key=value or key.sub=value, for example seed=1"),
        ("model..hf=3", "override 'model..hf=3': write it as key=value or key.sub=value, for example seed=1"),
        ("seed=", "override 'seed=': the value is missing; to set nothing there, write seed=null"),
        ("name=#1", "override 'name=#1': the value is missing; to set nothing there, write name=null"),
        (
            "seed=[1",
            "override 'seed=[1': not YAML at column 3: expected ',' or ']', but got '<stream end>' "
            "(while parsing a flow sequence)",
        ),
        (
            "seed=.nan",
            "override 'seed=.nan': '.nan' is not a number that a recipe can hold; it must be finite",
        ),
        ("seed=x", "override 'seed=x': seed is 'x'; it must be a whole number"),
        ("seed.x=1", "override 'seed.x=1': seed is {'x': 1}; it must be a whole number"),
        ("data.source.x=1", "override 'data.source.x=1': data.source is 'digits', which has no keys"),
        (
            "model.args.list.5=1",
            "override 'model.args.list.5=1': no entry '5' in model.args.list; allowed: 0 to 1",
        ),
        ("stages.7.sparsity=1", "override 'stages.7.sparsity=1': no entry '7' in stages; allowed: 0 to 2"),
        (
            "stages.heads.sparsity=1",
            "override 'stages.heads.sparsity=1': no entry 'heads' in stages; allowed: 0 to 2",
        ),
        (
            "prune/magnitude.sparsity=0.1",
            "override 'prune/magnitude.sparsity=0.1': 'prune/magnitude' stands 2 times in the recipe; "
            "say stages.0 or stages.2",
        ),
        (
            "prune/heads.sparsity=1.5",
            "override 'prune/heads.sparsity=1.5': sparsity is 1.5; it must be less than 1",
        ),
        (
            "prune/heads.recovery={epochs: 0}",
            "override 'prune/heads.recovery={epochs: 0}': epochs is 0; it must be greater than or equal to 1",
        ),
        ("data={source: file}", "override 'data={source: file}': missing key 'train' in data"),
        ("data.source=file", "x.yaml:2 with override 'data.source=file': missing key 'train' in data"),
        (
            "model.hf=a/b",
            "x.yaml:1 with override 'model.hf=a/b': model: give exactly one of file, hf and bundle "
            "(given: file, hf)",
        ),
        (
            "stages=null",
            "override 'stages=null': stages is empty; a recipe needs at least one (to convert a model "
            "as it is: modelpress export)",
        ),
    ],
)
def test_a_refusal_names_the_override(override: str, message: str) -> None:
    assert refusal(override) == message


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        (f"model.{'a.' * 2000}b=1", "50 dots"),
        (f"measure.batch=[{'1, ' * 5000}x]", "batch[5000] is 'x'"),
        (f"name={'x' * 100_000}", "name is 'xxx"),
        (f"model.{'x' * 100_000}=1", "unknown key 'xxx"),
        (f"{'x' * 100_000}=1", "unknown key 'xxx"),
        (f"stages.0={'x' * 100_000}", "unknown stage 'xxx"),
        (f"seed={'x' * 100_000}", "seed is 'xxx"),
    ],
)
def test_what_is_long_is_refused_at_once_in_a_short_message(override: str, kept: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load(override)
    assert kept in str(refused.value) and len(str(refused.value)) < 600


def test_many_overrides_are_not_all_quoted() -> None:
    overrides = [f"data.key{i}=1" for i in range(30)]
    with pytest.raises(RecipeError) as refused:
        load("data.source=file", *overrides)
    assert "and 26 more: missing key 'train'" in str(refused.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle.hf=a", "override 'modle.hf=a': unknown key 'modle'; did you mean 'model'?"),
        ("model.hff=a", "override 'model.hff=a': unknown key 'hff' in model; did you mean 'hf'?"),
        (
            "prune/headz.sparsity=0.1",
            "override 'prune/headz.sparsity=0.1': unknown key 'prune/headz'; did you mean 'prune/heads'?",
        ),
        (
            "prune/heads.sparsty=0.1",
            "override 'prune/heads.sparsty=0.1': unknown key 'sparsty' in prune/heads; did you mean "
            "'sparsity'?",
        ),
        (
            "stages.0=prune/magnitud",
            "override 'stages.0=prune/magnitud': unknown stage 'prune/magnitud'; did you mean "
            "'prune/magnitude'?",
        ),
        (
            "path=x",
            "override 'path=x': unknown key 'path'; allowed: data, device, export, gates, measure, model, "
            "name, prune/heads, prune/magnitude, seed, stages",
        ),
    ],
)
def test_an_unknown_key_in_an_override_is_refused_with_the_nearest(override: str, message: str) -> None:
    assert refusal(override, kind=UnknownNameError) == message


def test_an_override_mends_what_the_file_has_wrong() -> None:
    assert load("seed=3", text=TEXT + "seed: x\n").seed == 3
