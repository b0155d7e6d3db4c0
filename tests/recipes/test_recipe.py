"""Recipes: keys, defaults, stages, paths, and the fields of every error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from compress import registry
from compress.data.config import DigitsData, FileData, RecipePath
from compress.errors import RecipeError, UnknownNameError
from compress.recipe import MeasureConfig, Recipe, load_recipe
from compress.stage import Stage


class Recovery(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = 3


class Cut(Stage):
    name: ClassVar[str] = "prune/heads"
    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "prune"
    summary: ClassVar[str] = "a stage for tests"

    sparsity: float = Field(default=0.5, gt=0, lt=1)
    skip: tuple[tuple[str, ...], ...] = ()
    width: int | Literal["auto"] = "auto"
    exact: bool = False
    recovery: Recovery | None = None
    vocabulary: RecipePath | None = None

    @model_validator(mode="after")
    def _wide(self) -> Cut:
        if self.exact and self.width == "auto":
            raise ValueError("exact needs a width")
        return self

    def apply(self, model: Any, context: Any) -> Any:
        return model


class Round(Stage):
    name: ClassVar[str] = "quantize/int8_dynamic"
    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "quantize"
    summary: ClassVar[str] = "a stage for tests without keys"

    def apply(self, model: Any, context: Any) -> Any:
        return model


HEAD = "model: {hf: some/model}\ndata: {source: digits}\n"
SOURCES = ("digits", "digit-images", "images", "arrays", "file", "datasets", "beir", "corpus", "stdlib")
STAGES = "stages:\n  - quantize/int8_dynamic\n"

Load = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        (HEAD + STAGES.replace("stages:", "stage:"), "stage", "stages"),
        (HEAD.replace("model:", "modle:") + STAGES, "modle", "model"),
        (HEAD.replace("{source: digits}", "{source: arrays, trian: x.npz}") + STAGES, "data.trian", "train"),
    ],
)
def test_a_misspelt_key_is_the_only_problem(load: Load, text: str, key: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError) as refused:
        load(text)
    assert [(each.key, each.nearest) for each in refused.value.problems] == [(key, nearest)]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write a text as x.yaml in the working directory and load it, so that messages begin with `x.yaml`."""
    stages = {"prune/heads": f"{__name__}:Cut", "quantize/int8_dynamic": f"{__name__}:Round"}
    monkeypatch.setattr(registry, "STAGES", stages)
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str, *overrides: str, **options: Any) -> Recipe:
        (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
        return load_recipe("x.yaml", overrides, **options)

    return write_and_load


def refused(load: Load, text: str, *overrides: str, kind: type[RecipeError] = RecipeError) -> RecipeError:
    """The error of a recipe with one or more problems; its message contains each of them."""
    with pytest.raises(kind) as caught:
        load(text, *overrides)
    assert type(caught.value) is kind
    assert str(caught.value).split("\n")[: len(caught.value.problems)] == [
        str(each) for each in caught.value.problems
    ]
    return caught.value


def test_a_small_recipe_gets_its_defaults(load: Load) -> None:
    recipe = load(HEAD + STAGES)
    assert recipe.model.hf == "some/model"
    assert recipe.data == DigitsData()
    assert recipe.stages == (Round(),)
    assert (recipe.export.opset, recipe.measure.batch, recipe.measure.sequence) == (21, (1, 8), None)
    assert (recipe.seed, recipe.device, recipe.overrides) == (0, "cpu", ())


def test_stages_are_names_or_names_with_settings(load: Load) -> None:
    recipe = load(
        HEAD + "stages:\n  - prune/heads: {sparsity: 0.3, skip: [[a, b], [c]], recovery: {epochs: 1}}\n"
        "  - prune/heads:\n  - quantize/int8_dynamic\n"
    )
    cut = Cut(sparsity=0.3, skip=(("a", "b"), ("c",)), recovery=Recovery(epochs=1))
    assert recipe.stages == (cut, Cut(), Round())


def test_a_whole_number_is_a_number(load: Load) -> None:
    assert load(HEAD + STAGES + "measure: {seconds: 1}").measure.seconds == 1.0


def test_paths_are_relative_to_the_recipe(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    load(HEAD + STAGES)
    (tmp_path / "x.yaml").write_text(
        "model: {file: m.py, builder: b}\ndata: {source: file, train: rows/train.csv}\n"
        "stages:\n  - prune/heads: {vocabulary: v.txt}\n"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = load_recipe("../x.yaml", ["data.test=test.csv"])
    assert isinstance(recipe.data, FileData) and recipe.model.file is not None
    assert recipe.model.file.resolve() == (tmp_path / "m.py").resolve()
    assert recipe.data.train.resolve() == (tmp_path / "rows/train.csv").resolve()
    assert recipe.data.test == Path.cwd() / "test.csv"
    assert isinstance(recipe.stages[0], Cut) and recipe.stages[0].vocabulary is not None
    assert recipe.stages[0].vocabulary.resolve() == (tmp_path / "v.txt").resolve()


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("digits/prune-heads.yaml", "digits-prune-heads"),
        ("My models (old)/a b.yaml", "My-models-old-a-b"),
        (f"d/{'x' * 200}.yaml", f"d-{'x' * 98}"),
    ],
)
def test_a_run_is_named_after_folder_and_file(load: Load, tmp_path: Path, where: str, name: str) -> None:
    recipe = load(HEAD + STAGES)
    file = tmp_path / where
    file.parent.mkdir()
    file.write_text(HEAD + STAGES)
    assert load_recipe(file).run_name == name
    assert load_recipe(file).path == file
    assert load(HEAD + STAGES + "name: mine-1.2").run_name == "mine-1.2"
    unnamed = Recipe(model=recipe.model, data=recipe.data, stages=recipe.stages)
    assert (unnamed.run_name, unnamed.path) == ("recipe", None)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a.", '""', "a b", "-x", r"a\b", "x" * 101])
def test_a_run_name_that_is_no_directory_name_is_refused(load: Load, name: str) -> None:
    error = refused(load, HEAD + STAGES + f"name: {name}")
    assert (error.file, error.line, error.key) == ("x.yaml", 5, "name")


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_devices_are_torch_names(load: Load, device: str) -> None:
    assert load(HEAD + STAGES + f"device: {device}").device == device


def test_written_out_and_loaded_again_a_recipe_is_equal(load: Load, tmp_path: Path) -> None:
    text = (
        "model:\n  file: m.py\n  builder: b\n"
        "  args: {a: 5e-5, b: 'no', c: '0o10', d: '1e3', e: ~, f: [1, {g: '2020-01-01'}],\n"
        "    h: \"two\\nlines é\", i: '1_0'}\n"
        "  train: {learning_rate: 1.0e-7}\n"
        "data: {source: file, train: train.csv}\n"
        "stages:\n  - prune/heads: {skip: [[a], []], vocabulary: v.txt}\n  - quantize/int8_dynamic\n"
        "measure: {sequence: [16, 128]}\n"
    )
    recipe = load(text, "data.max_length=64", "model.args.j=typed")
    (tmp_path / "deeper" / "folder").mkdir(parents=True)
    again = tmp_path / "deeper" / "folder" / "recipe.resolved.yaml"
    again.write_text(recipe.to_yaml(), encoding="utf-8")
    loaded = load_recipe(again)
    assert loaded == recipe
    assert loaded.run_name == recipe.run_name != "folder-recipe.resolved"
    assert loaded.to_yaml() == recipe.to_yaml()
    assert loaded.model.args == recipe.model.args
    assert load(text) != recipe


def test_resolved_is_plain_data_that_can_be_free_of_machine_paths(load: Load, tmp_path: Path) -> None:
    recipe = load(
        "model: {file: sub/../m.py, builder: b}\ndata: {source: file, train: /elsewhere/train.csv}\n" + STAGES
    )
    data = recipe.resolved(relative_to=tmp_path)
    assert list(data) == ["name", "model", "data", "stages", "export", "measure", "gates", "seed", "device"]
    assert (data["model"]["file"], data["data"]["train"]) == ("m.py", "/elsewhere/train.csv")
    assert data["stages"] == [{"quantize/int8_dynamic": {}}]
    assert data["measure"]["batch"] == [1, 8]
    assert Path(recipe.resolved()["model"]["file"]).is_absolute()


def cut(settings: str) -> str:
    return HEAD + "stages:\n  - prune/heads:\n" + "".join(f"      {line}\n" for line in settings.split("\n"))


@pytest.mark.parametrize(
    ("text", "line", "key", "value"),
    [
        (cut("sparsity: 1.5"), 5, "prune/heads.sparsity", 1.5),
        (cut("exact: false\nsparsity: 0"), 6, "prune/heads.sparsity", 0),
        (cut("sparsity: true"), 5, "prune/heads.sparsity", True),
        (cut("sparsity: null"), 5, "prune/heads.sparsity", None),
        (cut("sparsity: '0.5'"), 5, "prune/heads.sparsity", "0.5"),
        (cut("width: x"), 5, "prune/heads.width", "x"),
        (cut("exact: no"), 5, "prune/heads.exact", "no"),
        (cut("exact: 1"), 5, "prune/heads.exact", 1),
        (cut("exact: true"), 4, "prune/heads", {"exact": True}),
        (cut("skip: x"), 5, "prune/heads.skip", "x"),
        (cut("skip:\n  - [a]\n  - [a, 3]"), 7, "prune/heads.skip[1][1]", 3),
        (cut("vocabulary: 3"), 5, "prune/heads.vocabulary", 3),
        (cut("recovery: 3"), 5, "prune/heads.recovery", 3),
        (cut("recovery: {epochs: 2.0}"), 5, "prune/heads.recovery.epochs", 2.0),
        (HEAD + "stages:\n  - prune/heads: 0.5", 4, "prune/heads", 0.5),
        (HEAD + STAGES + "seed: 1_000", 5, "seed", "1_000"),
        (HEAD + STAGES + "seed: -1", 5, "seed", -1),
        (HEAD + STAGES + "device: gpu", 5, "device", "gpu"),
        (HEAD + STAGES + "export: {opset: 17}", 5, "export.opset", 17),
        (HEAD + STAGES + "export: 21", 5, "export", 21),
        (HEAD + STAGES + "measure: {batch: []}", 5, "measure.batch", ()),
        (HEAD + STAGES + "measure: {batch: [1, 1]}", 5, "measure.batch", (1, 1)),
        (HEAD + STAGES + "measure:\n  batch:\n    - 1\n    - 0", 8, "measure.batch[1]", 0),
        ("data: {source: digits}\n" + STAGES, 1, "model", None),
        ("data: {source: digits}\nmodel: {}\n" + STAGES, 2, "model", {}),
        ("model: {hf: a}\ndata: {source: file}\n" + STAGES, 2, "data.train", None),
        ("model: {hf: a}\ndata: digits\n" + STAGES, 2, "data", "digits"),
        (HEAD, 1, "stages", None),
        (HEAD + "stages: []", 3, "stages", None),
        (HEAD + "stages: prune/heads", 3, "stages", "prune/heads"),
        (
            HEAD + "stages:\n  - prune/heads:\n    sparsity: 0.5",
            4,
            "stages[0]",
            {"prune/heads": None, "sparsity": 0.5},
        ),
        (HEAD + "stages:\n  - 3", 4, "stages[0]", 3),
        (HEAD + "stages:\n  - quantize/int8_dynamic\n  - prune/heads", 5, "stages[1]", "prune/heads"),
        (
            HEAD + "stages: [quantize/int8_dynamic, quantize/int8_dynamic]",
            3,
            "stages[1]",
            "quantize/int8_dynamic",
        ),
    ],
)
def test_an_error_has_file_line_key_value_and_a_page(
    load: Load, text: str, line: int, key: str, value: Any
) -> None:
    error = refused(load, text)
    assert (error.file, error.line, error.key, error.value) == ("x.yaml", line, key, value)
    assert str(error).startswith(f"x.yaml:{line}: ")
    assert error.see == ("reference/stages" if key.startswith(("stages", "prune")) else "reference/recipe")


@pytest.mark.parametrize(
    ("text", "line", "key", "allowed", "nearest"),
    [
        ("model: {hf: a}\ndata: {}\n" + STAGES, 2, "data.source", SOURCES, None),
        ("model: {hf: a}\ndata:\n  source: digit\n" + STAGES, 3, "data.source", SOURCES, "digits"),
        ("model: {hf: a}\ndata: {source: [a]}\n" + STAGES, 2, "data.source", SOURCES, None),
        (cut("width: aut"), 5, "prune/heads.width", ("auto",), "auto"),
        (
            "model:\n  hf: a\n  train:\n    precision: fp33\ndata: {source: digits}\n" + STAGES,
            4,
            "model.train.precision",
            ("auto", "fp32", "bf16"),
            "fp32",
        ),
    ],
)
def test_an_error_of_a_choice_has_the_allowed_values_and_the_nearest(
    load: Load, text: str, line: int, key: str, allowed: tuple[str, ...], nearest: str | None
) -> None:
    error = refused(load, text)
    assert (error.line, error.key, error.allowed, error.nearest) == (line, key, allowed, nearest)
    assert all(repr(name) in str(error) for name in allowed)


@pytest.mark.parametrize(
    ("text", "line", "key", "nearest"),
    [
        (HEAD + "stages:\n  - prune/headz", 4, "prune/headz", "prune/heads"),
        (HEAD + "stages:\n  - x: {}", 4, "x", None),
        (cut("sparsty: 0.5"), 5, "prune/heads.sparsty", "sparsity"),
        (cut("recovery: {epoch: 5}"), 5, "prune/heads.recovery.epoch", "epochs"),
        (HEAD + "stages:\n  - quantize/int8_dynamic: {a: 1}", 4, "quantize/int8_dynamic.a", None),
        (HEAD + STAGES + "sead: 1", 5, "sead", "seed"),
        (HEAD + STAGES + "path: here", 5, "path", None),
        (
            "model: {hf: a, train: {epoch: 1}}\ndata: {source: digits}\n" + STAGES,
            1,
            "model.train.epoch",
            "epochs",
        ),
        (
            "model: {hf: a}\ndata:\n  source: file\n  train: a.csv\n  file: {train: x}\n" + STAGES,
            5,
            "data.file",
            None,
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_or_else_all_that_are_allowed(
    load: Load, text: str, line: int, key: str, nearest: str | None
) -> None:
    error = refused(load, text, kind=UnknownNameError)
    assert (error.line, error.key, error.nearest) == (line, key, nearest)
    shown = [nearest] if nearest else list(error.allowed)
    assert all(name in str(error) for name in shown)
    assert (error.allowed == ()) == (key == "quantize/int8_dynamic.a")  # a stage without keys


def test_all_problems_are_listed_at_once_by_line_and_overrides_last(load: Load) -> None:
    text = (
        "seed: x\ndata: {source: digits}\nstages:\n  - prune/heads: {sparsity: 2, skpi: 1}\n"
        "model: {hf: a, fil: b}\n"
    )
    error = refused(load, text, "device=tpu")
    assert [(each.line, each.key, each.overrides) for each in error.problems] == [
        (1, "seed", ()),
        (4, "prune/heads.skpi", ()),
        (4, "prune/heads.sparsity", ()),
        (5, "model.fil", ()),
        (None, "device", ("device=tpu",)),
    ]
    assert len(str(error).split("\n")) == 5


def test_a_flood_of_problems_is_cut_short(load: Load) -> None:
    with pytest.raises(RecipeError) as caught:
        load(HEAD + STAGES + f"measure: {{batch: [{', '.join(['x'] * 50)}]}}")
    assert len(caught.value.problems) == 50
    lines = str(caught.value).split("\n")
    assert len(lines) == 21 and "30" in lines[-1]


def test_a_recipe_to_export_from_may_have_no_stages(load: Load) -> None:
    assert load(HEAD, need_stages=False).stages == ()
    assert load(HEAD + "stages: []", need_stages=False).stages == ()


@pytest.mark.parametrize("file", ["~no-such-user-here/x.py", "x" * 5000])
def test_a_path_that_cannot_be_looked_up_is_refused(load: Load, file: str) -> None:
    error = refused(load, f"model: {{hf: {file}}}\ndata: {{source: digits}}\n" + STAGES)
    assert (error.file, error.line) == ("x.yaml", None)


def test_measure_config_in_python_says_what_is_wrong_too() -> None:
    with pytest.raises(ValueError, match="finite number"):
        MeasureConfig(seconds=float("inf"))


@pytest.mark.parametrize(
    "text", [HEAD + "stages: [prune/headz]", HEAD + STAGES + "sead: 1", "a: [", "a: 1\na: 2"]
)
def test_a_bad_recipe_never_imports_torch(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text.replace("- quantize/int8_dynamic", "- prune/heads: {sparsity: 7}"))
    script = (
        "import sys\nfrom compress.errors import RecipeError\nfrom compress.recipe import load_recipe\n"
        "try:\n    load_recipe(sys.argv[1])\nexcept RecipeError:\n"
        "    print('refused', [name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.yaml")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "refused []\n", done.stderr


@pytest.mark.parametrize(
    ("named", "key"),
    [
        ("[openvino]", "measure.runtimes"),
        ("[onnxruntime, onnxruntime]", "measure.runtimes"),
        ("[onnxruntime, tensorrt]", "measure.runtimes[1]"),
    ],
)
def test_runtimes_that_cannot_be_measured_are_refused(load: Load, named: str, key: str) -> None:
    assert refused(load, HEAD + STAGES + f"measure: {{runtimes: {named}}}").key == key


def test_runtimes_are_those_that_are_installed_unless_named(load: Load) -> None:
    assert load(HEAD + STAGES).measure.runtimes is None
    named = load(HEAD + STAGES + "measure: {runtimes: [onnxruntime, openvino]}")
    assert named.measure.runtimes == ("onnxruntime", "openvino")
