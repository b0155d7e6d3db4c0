"""`key.sub=value` on the command line: what it can change, and the fields of its errors."""

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


def refused(*overrides: str, kind: type[RecipeError] = RecipeError, text: str = TEXT) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load(*overrides, text=text)
    assert type(caught.value) is kind
    return caught.value


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
    ("override", "key"),
    [
        ("seed", None),
        ("=3", None),
        ("model..hf=3", None),
        ("seed=", "seed"),
        ("name=#1", "name"),
        ("seed=[1", None),
        ("seed=.nan", None),
        ("seed=x", "seed"),
        ("seed.x=1", "seed"),
        ("data.source.x=1", "data.source"),
        ("model.args.list.5=1", "model.args.list"),
        ("stages.7.sparsity=1", "stages"),
        ("stages.heads.sparsity=1", "stages"),
        ("prune/magnitude.sparsity=0.1", "prune/magnitude.sparsity"),
        ("prune/heads.sparsity=1.5", "prune/heads.sparsity"),
        ("prune/heads.recovery={epochs: 0}", "prune/heads.recovery.epochs"),
        ("data={source: file}", "data.train"),
        ("stages=null", "stages"),
    ],
)
def test_an_error_names_the_override_and_its_key(override: str, key: str | None) -> None:
    error = refused(override)
    assert (error.file, error.line, error.overrides, error.key) == (None, None, (override,), key)
    assert str(error).startswith(f"override '{override}': ")


@pytest.mark.parametrize(
    ("override", "line", "key"), [("data.source=file", 2, "data.train"), ("model.hf=a/b", 1, "model")]
)
def test_an_error_of_a_mapping_names_its_line_and_the_override_in_it(
    override: str, line: int, key: str
) -> None:
    error = refused(override)
    assert (error.file, error.line, error.overrides, error.key) == ("x.yaml", line, (override,), key)


def test_a_stage_that_occurs_twice_is_addressed_by_its_index() -> None:
    assert refused("prune/magnitude.sparsity=0.1").allowed == ("stages.0", "stages.2")


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        (f"model.{'a.' * 2000}b=1", "50 dots"),
        (f"measure.batch=[{'1, ' * 5000}x]", "measure.batch[5000]"),
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
    ("override", "key", "nearest"),
    [
        ("modle.hf=a", "modle", "model"),
        ("model.hff=a", "model.hff", "hf"),
        ("prune/headz.sparsity=0.1", "prune/headz", "prune/heads"),
        ("prune/heads.sparsty=0.1", "prune/heads.sparsty", "sparsity"),
        ("stages.0=prune/magnitud", "prune/magnitud", "prune/magnitude"),
        ("path=x", "path", None),
    ],
)
def test_an_unknown_key_in_an_override_is_refused_with_the_nearest(
    override: str, key: str, nearest: str | None
) -> None:
    error = refused(override, kind=UnknownNameError)
    assert (error.overrides, error.key, error.nearest) == ((override,), key, nearest)
    assert all(name in str(error) for name in ([nearest] if nearest else error.allowed))


def test_an_override_replaces_an_invalid_value_of_the_file() -> None:
    assert load("seed=3", text=TEXT + "seed: x\n").seed == 3
