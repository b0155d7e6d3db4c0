"""What a recipe is: its keys, defaults, stages, paths, and every sentence that refuses one."""

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
SOURCES = "'digits', 'digit-images', 'images', 'arrays', 'file', 'datasets', 'corpus' or 'stdlib'"
STAGES = "stages:\n  - quantize/int8_dynamic\n"

Load = Callable[..., Recipe]


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


def refusal(load: Load, text: str, *overrides: str, kind: type[RecipeError] = RecipeError) -> str:
    with pytest.raises(kind) as caught:
        load(text, *overrides)
    assert type(caught.value) is kind
    return str(caught.value)


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
    message = refusal(load, HEAD + STAGES + f"name: {name}")
    assert "; it names a directory: at most 100 letters, digits, '_', '-' and '.', beginning" in message
    assert message.startswith("x.yaml:5: name is '")


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
    ("text", "message"),
    [
        (cut("sparsity: 1.5"), "x.yaml:5: sparsity is 1.5; it must be less than 1"),
        (cut("exact: false\nsparsity: 0"), "x.yaml:6: sparsity is 0; it must be greater than 0"),
        (cut("sparsity: true"), "x.yaml:5: sparsity is true; it must be a number"),
        (cut("sparsity: null"), "x.yaml:5: sparsity is null; it must be a number"),
        (
            cut("sparsity: '0.5'"),
            "x.yaml:5: sparsity is '0.5'; it must be a number, without quotes or underscores",
        ),
        (cut("width: x"), "x.yaml:5: width is 'x'; it must be a whole number or 'auto'"),
        (cut("exact: no"), "x.yaml:5: exact is 'no'; it must be true or false"),
        (cut("exact: 1"), "x.yaml:5: exact is 1; it must be true or false"),
        (cut("exact: true"), "x.yaml:4: prune/heads: exact needs a width"),
        (cut("skip: x"), "x.yaml:5: skip is 'x'; it must be a list"),
        (cut("skip:\n  - [a]\n  - [a, 3]"), "x.yaml:7: skip[1][1] is 3; it must be text"),
        (cut("vocabulary: 3"), "x.yaml:5: vocabulary is 3; it must be a path"),
        (cut("recovery: 3"), "x.yaml:5: recovery is 3; it must be a mapping of keys"),
        (cut("recovery: {epochs: 2.0}"), "x.yaml:5: epochs is 2.0; it must be a whole number"),
        (
            HEAD + "stages:\n  - prune/heads: 0.5",
            "x.yaml:4: prune/heads is 0.5; it must be a mapping of keys",
        ),
        (
            HEAD + STAGES + "seed: 1_000",
            "x.yaml:5: seed is '1_000'; it must be a whole number, without quotes or underscores",
        ),
        (HEAD + STAGES + "seed: -1", "x.yaml:5: seed is -1; it must be greater than or equal to 0"),
        (
            HEAD + STAGES + "device: gpu",
            "x.yaml:5: device is 'gpu'; it must be cpu, cuda or cuda:0, cuda:1, ...",
        ),
        (
            HEAD + STAGES + "export: {opset: 17}",
            "x.yaml:5: opset is 17; it must be greater than or equal to 18",
        ),
        (HEAD + STAGES + "export: 21", "x.yaml:5: export is 21; it must be a mapping of keys"),
        (HEAD + STAGES + "measure: {batch: []}", "x.yaml:5: batch is []; it must not be empty"),
        (HEAD + STAGES + "measure: {batch: [1, 1]}", "x.yaml:5: batch is [1, 1]; 1 stands in it twice"),
        (
            HEAD + STAGES + "measure:\n  batch:\n    - 1\n    - 0",
            "x.yaml:8: batch[1] is 0; it must be greater than or equal to 1",
        ),
        ("data: {source: digits}\n" + STAGES, "x.yaml:1: missing key 'model'"),
        (
            "data: {source: digits}\nmodel: {}\n" + STAGES,
            "x.yaml:2: model: give exactly one of file, hf and bundle (given: none)",
        ),
        ("model: {hf: a}\ndata: {source: file}\n" + STAGES, "x.yaml:2: missing key 'train' in data"),
        (
            "model: {hf: a}\ndata: {}\n" + STAGES,
            f"x.yaml:2: missing key 'source' in data; it must be {SOURCES}",
        ),
        (
            "model: {hf: a}\ndata: digits\n" + STAGES,
            "x.yaml:2: data is 'digits'; it must be a mapping of keys",
        ),
        (
            "model: {hf: a}\ndata:\n  source: digit\n" + STAGES,
            f"x.yaml:3: source is 'digit'; it must be {SOURCES}; did you mean 'digits'?",
        ),
        (
            "model: {hf: a}\ndata: {source: [a]}\n" + STAGES,
            f"x.yaml:2: source is ['a']; it must be {SOURCES}",
        ),
        (
            "model:\n  hf: a\n  train:\n    precision: fp33\ndata: {source: digits}\n" + STAGES,
            "x.yaml:4: precision is 'fp33'; it must be 'auto', 'fp32' or 'bf16'; did you mean 'fp32'?",
        ),
        (
            HEAD,
            "x.yaml:1: stages is empty; a recipe needs at least one (to convert a model as it is: "
            "modelpress export)",
        ),
        (
            HEAD + "stages: []",
            "x.yaml:3: stages is empty; a recipe needs at least one (to convert a model as it is: "
            "modelpress export)",
        ),
        (HEAD + "stages: prune/heads", "x.yaml:3: stages is 'prune/heads'; it must be a list of stages"),
        (
            HEAD + "stages:\n  - prune/heads:\n    sparsity: 0.5",
            "x.yaml:4: a stage is a name, or one name with its settings indented below it; this has "
            "the keys prune/heads, sparsity",
        ),
        (
            HEAD + "stages:\n  - 3",
            "x.yaml:4: a stage is a name, or one name with its settings indented below it; this is 3",
        ),
        (
            HEAD + "stages:\n  - quantize/int8_dynamic\n  - prune/heads",
            "x.yaml:5: prune/heads cannot stand here: it changes float weights, but an earlier stage "
            "has quantized them; put quantize stages last",
        ),
        (
            HEAD + "stages: [quantize/int8_dynamic, quantize/int8_dynamic]",
            "x.yaml:3: quantize/int8_dynamic cannot stand here: the weights are quantized already",
        ),
    ],
)
def test_a_refusal_names_line_key_value_and_what_is_allowed(load: Load, text: str, message: str) -> None:
    assert refusal(load, text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + "stages:\n  - prune/headz",
            "x.yaml:4: unknown stage 'prune/headz'; did you mean 'prune/heads'?",
        ),
        (
            HEAD + "stages:\n  - x: {}",
            "x.yaml:4: unknown stage 'x'; allowed: prune/heads, quantize/int8_dynamic",
        ),
        (cut("sparsty: 0.5"), "x.yaml:5: unknown key 'sparsty' in prune/heads; did you mean 'sparsity'?"),
        (
            cut("recovery: {epoch: 5}"),
            "x.yaml:5: unknown key 'epoch' in prune/heads.recovery; did you mean 'epochs'?",
        ),
        (
            HEAD + "stages:\n  - quantize/int8_dynamic: {a: 1}",
            "x.yaml:4: unknown key 'a' in quantize/int8_dynamic; it has no keys",
        ),
        (HEAD + STAGES + "sead: 1", "x.yaml:5: unknown key 'sead'; did you mean 'seed'?"),
        (
            HEAD + STAGES + "path: here",
            "x.yaml:5: unknown key 'path'; allowed: data, device, export, gates, measure, model, name, seed, "
            "stages",
        ),
        (
            "model: {hf: a, train: {epoch: 1}}\ndata: {source: digits}\n" + STAGES,
            "x.yaml:1: unknown key 'epoch' in model.train; did you mean 'epochs'?",
        ),
        (
            "model: {hf: a}\ndata:\n  source: file\n  train: a.csv\n  file: {train: x}\n" + STAGES,
            "x.yaml:5: unknown key 'file' in data; allowed: label, label_separator, max_length, seed, "
            "source, task, test, test_fraction, text, train, train_limit, unlabelled, validation, "
            "validation_fraction",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(load: Load, text: str, message: str) -> None:
    assert refusal(load, text, kind=UnknownNameError) == message


def test_all_problems_are_told_at_once_by_line_and_overrides_last(load: Load) -> None:
    text = (
        "seed: x\ndata: {source: digits}\nstages:\n  - prune/heads: {sparsity: 2, skpi: 1}\n"
        "model: {hf: a, fil: b}\n"
    )
    assert refusal(load, text, "device=tpu").split("\n") == [
        "x.yaml:1: seed is 'x'; it must be a whole number",
        "x.yaml:4: unknown key 'skpi' in prune/heads; did you mean 'skip'?",
        "x.yaml:4: sparsity is 2; it must be less than 1",
        "x.yaml:5: unknown key 'fil' in model; did you mean 'file'?",
        "override 'device=tpu': device is 'tpu'; it must be cpu, cuda or cuda:0, cuda:1, ...",
    ]


def test_a_flood_of_problems_is_cut_short(load: Load) -> None:
    lines = refusal(load, HEAD + STAGES + f"measure: {{batch: [{', '.join(['x'] * 50)}]}}").split("\n")
    assert len(lines) == 21
    assert lines[-1] == "... and 30 more problems"


def test_a_recipe_to_export_from_may_have_no_stages(load: Load) -> None:
    assert load(HEAD, need_stages=False).stages == ()
    assert load(HEAD + "stages: []", need_stages=False).stages == ()


@pytest.mark.parametrize("file", ["~no-such-user-here/x.py", "x" * 5000])
def test_a_path_that_cannot_be_looked_up_is_refused(load: Load, file: str) -> None:
    message = refusal(load, f"model: {{hf: {file}}}\ndata: {{source: digits}}\n" + STAGES)
    assert message.startswith("x.yaml: a path in it cannot be looked up: ")


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
    ("named", "complaint"),
    [
        ("[openvino]", "onnxruntime must be in it"),
        ("[onnxruntime, onnxruntime]", "each stands in it once"),
        ("[onnxruntime, tensorrt]", "'onnxruntime' or 'openvino'"),
    ],
)
def test_runtimes_that_can_not_be_measured_are_refused(load: Load, named: str, complaint: str) -> None:
    said = refusal(load, HEAD + STAGES + f"measure: {{runtimes: {named}}}")
    assert "runtimes" in said
    assert complaint in said


def test_runtimes_are_those_that_are_installed_unless_named(load: Load) -> None:
    assert load(HEAD + STAGES).measure.runtimes is None
    named = load(HEAD + STAGES + "measure: {runtimes: [onnxruntime, openvino]}")
    assert named.measure.runtimes == ("onnxruntime", "openvino")
