"""The command line: exit codes, classes and fields of errors, no traceback, and nothing left behind."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from threading import Semaphore
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import typer
from torch import nn

import compress
from compress.cli import app, main
from compress.cli.common import print_error
from compress.cli.docs import docs_folder, docs_pages
from compress.errors import (
    CompressError,
    DataError,
    ExportError,
    ModelError,
    NotReachedError,
    OutputError,
    ParityError,
    RecipeError,
    UnknownNameError,
)
from compress.model.structure.layouts import LAYOUTS
from compress.recipe.describe import data_sources, keys_of, part_named, part_names
from compress.registry import stage_names
from compress.report import load_report, verdict
from compress.tasks import TASKS

WriteRecipe = Callable[..., Path]
EXPORTED = import_module("compress.pipeline.exported")
MEASURED = import_module("compress.pipeline.measuring")
PUBLISH = import_module("compress.pipeline.publish")
RUN = import_module("compress.pipeline.run")
GOOD = "text,label\n" + "".join(
    f"{'a ' * (i % 7)}film the plot {'very ' * (i // 7)},{i % 2}\n" for i in range(70)
)


class Said(NamedTuple):
    """Exit code and output of a command, and the errors that it printed."""

    code: int
    out: str
    err: str
    errors: tuple[CompressError, ...] = ()


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Said]:
    """Run a command in an empty directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("compress.cli.console.console._width", 200)
    monkeypatch.setattr("compress.cli.console.console._height", 50)
    errors: list[CompressError] = []

    def print_and_keep(error: CompressError) -> None:
        errors.append(error)
        print_error(error)

    for module in (import_module("compress.cli"), import_module("compress.cli.run")):
        monkeypatch.setattr(module, "print_error", print_and_keep)

    def run(*words: str | Path) -> Said:
        capsys.readouterr()
        errors.clear()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err, tuple(errors))

    return run


def assert_refused(said: Said, kind: type[CompressError], *names: str, code: int = 2) -> CompressError:
    """Check that a command printed one error, of this class, which contains these names; return it."""
    assert said.code == code, said
    (error,) = said.errors
    assert type(error) is kind, error
    see = "" if error.see is None else f"See `modelpress docs {error.see}`.\n"
    assert said.err == f"error: {error}\n{see}"
    assert "Traceback" not in said.err + said.out
    for name in names:
        assert name in str(error)
    return error


# without work


def test_version(call: Callable[..., Said]) -> None:
    assert call("--version") == Said(0, f"modelpress {compress.__version__}\n", "")


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
EXAMPLES = [
    line.removeprefix("$ modelpress ")
    for command in COMMANDS.values()
    for line in command.epilog.splitlines()
    if line.startswith("$ ")
]
# Their work is tested elsewhere: here only that they can be parsed.
LONG = ("run recipes/digits/prune-heads.yaml", "inspect", "generate")


def test_help_names_every_command_on_one_line_of_80_columns(
    call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = call("--help")
    assert said.code == 0
    assert len(COMMANDS) == 12
    for name, command in COMMANDS.items():
        line = command.help.split("\n")[0]
        assert any(
            words.split() == [name, *line.split()] for words in said.out.replace("│", "").splitlines()
        ), name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_ends_with_examples(call: Callable[..., Said], name: str) -> None:
    said = call(name, "--help")
    assert said.code == 0
    examples = said.out.partition("Examples:")[2].split("\n")
    assert 1 <= sum(line.strip().startswith(f"$ modelpress {name}") for line in examples) <= 2


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_help_can_be_parsed(example: str) -> None:
    name, *words = shlex.split(example)
    COMMANDS[name].make_context(name, words)


def test_the_examples_of_the_help_work(
    call: Callable[..., Said],
    digits_run: Path,
    bert_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert call("init", ".").code == 0
    finished = digits_run / "reports" / "digits"
    # tests/pipeline/test_check.py measures.
    monkeypatch.setattr(MEASURED, "measure_pair", lambda *_, **__: load_report(finished).measurement)
    shutil.copytree(finished, tmp_path / "reports" / "digits-quantize-int8")
    other = shutil.copytree(finished, tmp_path / "reports" / "digits-prune-heads")
    report = json.loads((other / "report.json").read_text())
    (other / "report.json").write_text(json.dumps({**report, "name": "digits-prune-heads"}))
    shutil.copytree(bert_directory, tmp_path / "my-model")
    for name in ("old.onnx", "new.onnx"):
        shutil.copyfile(finished / "onnx" / "model.onnx", tmp_path / name)
    for example in EXAMPLES:
        if not example.startswith(LONG) or "--dry-run" in example:
            words = shlex.split(example)
            words += ["--sequence", "16"] if ".onnx" in example else []  # the digits have 16 patches
            words += ["-o", "new"] if example.startswith("run ") else []
            said = call(*words)
            assert (said.code, said.errors) == (0, ()), example


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom compress.cli import main\nassert main(['--help']) == 0\n"
        "heavy = {'torch', 'torchao', 'numpy', 'onnx', 'onnxruntime', 'onnxscript', 'transformers',\n"
        "         'sklearn', 'accelerate', 'pydantic', 'yaml', 'jinja2', 'datasets', 'psutil'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_bad_recipe_is_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: {hf: x}\ndata: {source: digits}\nstages: [prune/head]\n")
    code = (
        "import sys\nfrom compress.cli import main\n"
        "assert main(['run', 'r.yaml']) == 2\nprint('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("words", [["list"], ["show", "prune/heads"], ["docs"], ["docs", "extending"]])
def test_commands_that_explain_do_not_import_torch(words: list[str]) -> None:
    code = (
        f"import sys\nfrom compress.cli import main\nassert main({words}) == 0\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


LISTED = {
    "stages": stage_names(),
    "tasks": tuple(TASKS),
    "models": ("models/transformer.py", "hf: DIR or NAME", ".gguf", "bundle:", "ForCausalLM", *LAYOUTS),
    "data": tuple(data_sources()),
}


def test_list_names_everything_that_a_recipe_can(call: Callable[..., Said]) -> None:
    said = call("list")
    assert said.code == 0
    assert all(name in said.out for names in LISTED.values() for name in names)


@pytest.mark.parametrize("what", LISTED)
def test_list_can_be_narrowed(call: Callable[..., Said], what: str) -> None:
    said = call("list", what)
    assert said.code == 0
    assert all(name in said.out for name in LISTED[what])
    assert ("prune/heads" in said.out) == (what == "stages")


@pytest.mark.parametrize("name", part_names())
def test_show_names_every_key_of_a_part_with_its_default(call: Callable[..., Said], name: str) -> None:
    said = call("show", name)
    assert (said.code, said.err) == (0, "")
    rows = [line.split() for line in said.out.splitlines()]
    for key in keys_of(part_named(name)):
        assert [key.name, *(key.default or "required").split()] in [
            row[: 1 + len((key.default or "required").split())] for row in rows
        ]


def test_the_meaning_and_the_values_of_a_key_are_those_of_its_class() -> None:
    keys = {key.name: key for key in keys_of(part_named("quantize/int8_dynamic"))}
    assert keys["algorithm"].allowed == ("rtn", "mse", "hqq", "gptq", "auto_round")
    assert keys["bias_correction"].meaning
    assert all(key.meaning for key in keys_of(part_named("gates")))
    assert {key.default for key in keys_of(part_named("file")) if key.name == "train"} == {""}


# docs


def test_docs_lists_every_page_with_its_title(call: Callable[..., Said]) -> None:
    said = call("docs")
    assert said.code == 0
    listed = {line.split()[0] for line in said.out.splitlines() if line.strip()}
    assert listed >= set(docs_pages(docs_folder()))
    assert "Extending modelpress" in said.out


def test_docs_prints_a_page_as_plain_markdown_into_a_pipe(call: Callable[..., Said]) -> None:
    said = call("docs", "extending")
    assert (said.code, said.err) == (0, "")
    assert said.out == (docs_folder() / "extending.md").read_text(encoding="utf-8")
    for word in ("extending.md", "docs/extending.md"):
        assert call("docs", word).out == said.out


def test_docs_formats_a_page_on_a_terminal_and_pages_it(
    call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pages = tmp_path / "docs"
    (pages / "how-to").mkdir(parents=True)
    (pages / "index.md").write_text("# All\n")
    (pages / "how-to" / "one.md").write_text("# One\n\n<!-- hidden -->\n[other](../a/two.md#x) `code`\n")
    shown: list[str] = []
    monkeypatch.setattr(import_module("compress.cli.docs"), "docs_folder", lambda: pages)
    monkeypatch.setattr("compress.cli.console.console._force_terminal", True)
    monkeypatch.setattr("rich.pager.SystemPager.show", lambda self, content: shown.append(content))
    assert call("docs", "one").code == 0
    (text,) = shown
    assert "One" in text and "# One" not in text and "hidden" not in text
    assert "a/two" in text and ".md" not in text


def test_docs_path_is_the_directory_of_the_pages(call: Callable[..., Said]) -> None:
    said = call("docs", "--path")
    assert said.code == 0
    assert (Path(said.out.strip()) / "extending.md").is_file()


def test_docs_refuses_an_unknown_page_with_the_nearest(call: Callable[..., Said]) -> None:
    error = assert_refused(call("docs", "extendin"), UnknownNameError)
    assert (error.value, error.nearest) == ("extendin", "extending")
    assert set(error.allowed) == set(docs_pages(docs_folder()))


def test_show_lists_what_is_no_single_part(call: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # a folder of that name is no recipe
    for what in ("data", "stages", "tasks", "models"):
        assert call("show", what) == call("list", what)


@pytest.mark.parametrize(
    ("key", "given", "there"),
    [
        ("model.file", "modle.py", "model.py"),
        ("model.hf", "./my-modle", "my-model"),
        ("model.bundle", "runs/mine", "runs/mine2"),
        ("data.train", "tran.csv", "train.csv"),
    ],
)
def test_a_path_that_is_nearly_right_is_refused_with_the_one_beside_it(
    call: Callable[..., Said], tmp_path: Path, write_recipe: WriteRecipe, key: str, given: str, there: str
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml")
    (tmp_path / there).mkdir(parents=True)
    place, name = key.split(".")
    others = {"file": "builder: f, file", "train": "source: arrays, train"}
    said = call("run", recipe, f"{place}={{{others.get(name, name)}: {given}}}")
    assert said.code == 2 and said.errors[0].nearest == str(tmp_path / there)
    assert said.errors[0].key == key


def test_show_refuses_an_unknown_part_with_the_nearest(call: Callable[..., Said]) -> None:
    error = assert_refused(call("show", "prune/head"), UnknownNameError)
    assert (error.value, error.nearest, error.allowed) == ("prune/head", "prune/heads", part_names())


def test_every_page_that_the_code_names_exists() -> None:
    """Errors name pages in strings such as "how-to/own-modules"."""
    name = re.compile(r"(how-to|reference|explanation)/[a-z-]+")
    root = Path(compress.__file__).parent
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")}
    named = {
        node.value: path
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and name.fullmatch(node.value)
    }
    assert "how-to/ci-gates" in named
    pages = docs_pages(docs_folder())
    assert not {page: str(path) for page, path in named.items() if page not in pages}


def test_init_writes_recipes_that_can_be_shown(call: Callable[..., Said]) -> None:
    said = call("init", "new")
    assert said.code == 0
    shown = said.out.split("modelpress run ")[1].strip()
    assert call("show", shown).code == 0
    assert_refused(call("init", "new"), OutputError, "new/models")


def test_init_below_a_file_is_refused(call: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(call("init", "file/new"), OutputError, "file/new")


def test_show_prints_the_whole_recipe(
    call: Callable[..., Said], write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", {"prune/heads": {"sparsity": 0.5}})
    said = call("show", recipe, "prune/heads.sparsity=0.25", "seed=7")
    assert (said.code, said.err) == (0, "")
    (tmp_path / "again.yaml").write_text(said.out)
    assert call("show", "again.yaml").out == said.out
    assert "sparsity: 0.25" in said.out
    assert "seed: 7" in said.out
    assert_refused(call("show", recipe, "again.yaml", "name=x"), RecipeError, "'x'")


def test_show_shapes_prints_a_row_for_the_model_and_each_stage(
    call: Callable[..., Said], digits_run: Path, tmp_path: Path
) -> None:
    said = call("show", digits_run / "digits.yaml", "--shapes")
    assert (said.code, said.err) == (0, "")
    first = [line.split()[0] for line in said.out.splitlines()[:3]]
    assert first == ["after", "model", "int8_dynamic"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["launch"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "r.yaml", "--jobs", "0"], "'--jobs'"),
        (["run", "r.yaml", "--jobs", "-2"], "'--jobs'"),
        (["compare", "--jsn", "x"], "No such option"),
        (["export", "x", "-o", "y", "--max-length", "1"], "'--max-length'"),
    ],
)
def test_wrong_usage_is_exit_code_2(call: Callable[..., Said], words: list[str], part: str) -> None:
    said = call(*words)
    assert said.code == 2
    assert part in said.err
    assert said.err.startswith("Usage: modelpress ")
    assert "Traceback" not in said.err


# explain


def test_explain_prints_the_advice_first_and_every_part(call: Callable[..., Said], digits_run: Path) -> None:
    bundle = digits_run / "reports" / "digits"
    said = call("explain", bundle, "--against", bundle / "onnx" / "model.onnx", "--sequence", "16")
    assert (said.code, said.err) == (0, "")
    found = load_report(bundle).measurement.explanation
    assert found is not None
    # 16 patches: 4 x 32 in; twice 4 products 32 x 32 and 2 of 32 x 64; one row: 32 x 10 out
    macs = 16 * 4 * 32 + 2 * 16 * (4 * 32 * 32 + 2 * 32 * 64) + 32 * 10
    assert found.candidate.part("integer").macs == macs
    assert found.baseline is not None and found.baseline.part("float_weight").macs == macs
    assert found.candidate.part("activations").macs == 2 * 2 * 16 * 16 * 32
    assert "MatMulInteger" in {each.kind for each in found.candidate.kinds}  # shown if it takes 1 %
    for part in ("integer products", "runtime overhead", "By operator"):
        assert part in said.out
    assert "16, 1 thread: medians over" in said.out.replace("\n", " ")


def test_explain_as_json_is_json_alone(call: Callable[..., Said], digits_run: Path) -> None:
    said = call("explain", digits_run / "reports" / "digits", "--batch", "3", "--json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert (found["batch"], found["sequence"], found["baseline"]) == (3, 16, None)
    assert found["advice"] and found["candidate"]["parts"][0]["role"] == "integer"


def test_explain_does_not_import_torch(digits_run: Path) -> None:
    code = (
        "import sys\nfrom compress.cli import main\n"
        f"assert main(['explain', {str(digits_run / 'reports' / 'digits')!r}, '--json']) == 0\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_what_cannot_be_explained_is_refused(
    call: Callable[..., Said], digits_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    bundle = digits_run / "reports" / "digits"
    for words, name in (
        (["gone"], "gone"),
        (["."], "onnx/model.onnx"),
        (["text.onnx", "--json"], "text.onnx"),
        ([bundle, "--sequence", "99"], "99"),
        ([bundle, "--threads", "4096"], "--threads 4096"),
    ):
        said = call("explain", *words)
        assert_refused(said, type(said.errors[0]), name)
    assert call("explain", bundle, "--batch", "0").code == 2


# bad recipes

# Each line holds the one before nine times: 9^8 values when written out.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
HEAD = "model: {hf: x}\ndata: {source: digits}\n"


@pytest.mark.parametrize(
    ("yaml", "kind", "line", "key", "nearest"),
    [
        (HEAD + "stages: [prune/wandaa]\n", UnknownNameError, 3, "prune/wandaa", None),
        (HEAD + "stages:\n  - prune/headz: {a: 1}\n", UnknownNameError, 4, "prune/headz", "prune/heads"),
        (
            HEAD + "stages:\n  - prune/heads: {sparsity: 0.5, scop: x}\n",
            UnknownNameError,
            4,
            "prune/heads.scop",
            "scope",
        ),
        (HEAD + "stage: [quantize/int8_dynamic]\n", UnknownNameError, 3, "stage", "stages"),
        (HEAD + "stages:\n  - prune/heads: {sparsity: half}\n", RecipeError, 4, "prune/heads.sparsity", None),
        (HEAD + "stages: [quantize/int8_dynamic]\nseed: true\n", RecipeError, 4, "seed", None),
        (HEAD + "seed: 1\nstages: [quantize/int8_dynamic]\nseed: 2\n", RecipeError, 5, "seed", None),
        (HEAD + "stages: []\n", RecipeError, 3, "stages", None),
        ("", RecipeError, None, None, None),
        ("stages: [\n", RecipeError, 2, None, None),
        (HEAD + "stages: !!python/object:os.system [x]\n", RecipeError, 3, None, None),
        (BOMB, RecipeError, 1, None, None),
    ],
)
def test_a_bad_recipe_is_refused(
    call: Callable[..., Said],
    tmp_path: Path,
    yaml: str,
    kind: type[CompressError],
    line: int | None,
    key: str | None,
    nearest: str | None,
) -> None:
    (tmp_path / "r.yaml").write_text(yaml)
    for command in (["run", "r.yaml"], ["run", "r.yaml", "--dry-run"], ["show", "r.yaml"]):
        error = assert_refused(call(*command), kind)
        assert (error.file, error.line, error.key, error.nearest) == ("r.yaml", line, key, nearest)
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize(
    ("override", "kind", "key", "nearest"),
    [
        ("sed=1", UnknownNameError, "sed", "seed"),
        ("seed=-1", RecipeError, "seed", None),
        ("stages.0.skp=[x]", UnknownNameError, "quantize/int8_dynamic.skp", "skip"),
    ],
)
def test_a_bad_override_is_refused(
    call: Callable[..., Said],
    tmp_path: Path,
    write_recipe: WriteRecipe,
    override: str,
    kind: type[CompressError],
    key: str,
    nearest: str | None,
) -> None:
    error = assert_refused(call("run", write_recipe(tmp_path / "r.yaml"), override), kind)
    assert (error.overrides, error.key, error.nearest) == ((override,), key, nearest)


def test_a_recipe_that_is_missing_or_not_given(call: Callable[..., Said]) -> None:
    assert assert_refused(call("run", "gone.yaml"), RecipeError).file == "gone.yaml"
    assert assert_refused(call("run", "seed=1"), RecipeError).see == "how-to/choose-a-recipe"


def test_two_recipes_of_one_name_are_refused(
    call: Callable[..., Said], tmp_path: Path, write_recipe: WriteRecipe
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml")
    assert_refused(call("run", recipe, recipe), RecipeError, "run name")


# bad data, models and outputs


@pytest.fixture
def refused_run(call: Callable[..., Said], tmp_path: Path, write_recipe: WriteRecipe) -> Callable[..., None]:
    """Run a recipe that must be refused before any work: no output folder is made."""

    def refuse(kind: type[CompressError], *names: str, **changes: Any) -> None:
        recipe = write_recipe(tmp_path / "recipes" / "r.yaml", **changes)
        for command in (["run", recipe], ["run", recipe, "--dry-run"]):
            assert_refused(call(*command, "-o", "out"), kind, *names)
            assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())

    return refuse


@pytest.mark.parametrize(
    ("csv", "kind", "names"),
    [
        ("", DataError, ["rows.csv"]),
        ("text,label\n", DataError, ["rows.csv"]),
        ("txt,label\na film,1\n", DataError, ["rows.csv", "'text'", "'txt'"]),
        ("text,label\na film,1\nthe plot,1\n", DataError, ["'1'"]),
        (GOOD.replace(",1\n", ",[5]\n"), DataError, ["[5]"]),
    ],
)
def test_bad_data_is_refused(
    refused_run: Callable[..., None],
    bert_directory: Path,
    tmp_path: Path,
    csv: str,
    kind: type[CompressError],
    names: list[str],
) -> None:
    (tmp_path / "rows.csv").write_text(csv)
    data = {"source": "file", "train": str(tmp_path / "rows.csv")}
    refused_run(kind, *names, model={"hf": str(bert_directory)}, data=data)


def test_labels_that_training_lacks_are_refused(
    refused_run: Callable[..., None], bert_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(GOOD)
    (tmp_path / "test.csv").write_text("text,label\nwas not,0\nvery fine,2\n")
    data = {"source": "file", "train": str(tmp_path / "rows.csv"), "test": str(tmp_path / "test.csv")}
    refused_run(DataError, "test.csv", "'2'", "line 3", model={"hf": str(bert_directory)}, data=data)


def test_missing_files_are_refused(refused_run: Callable[..., None], bert_directory: Path) -> None:
    model, data = {"hf": str(bert_directory)}, {"source": "file", "train": "gone.csv"}
    refused_run(DataError, "data.train", "recipes/gone.csv", model=model, data=data)
    refused_run(ModelError, "model.file", "gone.py", model={"file": "gone.py", "builder": "b"})
    refused_run(ModelError, "/no/such", model={"hf": "/no/such"})


def test_a_model_file_that_raises_is_refused(refused_run: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\nraise RuntimeError('[bold]no GPU[/bold]')\n")
    model = {"file": str(tmp_path / "mine.py"), "builder": "build"}
    refused_run(ModelError, "mine.py:2", "RuntimeError: [bold]no GPU[/bold]", model=model)


def test_a_tokenizer_that_does_not_belong_is_refused(
    refused_run: Callable[..., None], bert_directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(bert_directory, tmp_path / "mixed")
    tokenizer = json.loads((bert_directory / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["stranger"] = 999
    (tmp_path / "mixed" / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "rows.csv").write_text(GOOD)
    data = {"source": "file", "train": str(tmp_path / "rows.csv"), "max_length": 16}
    refused_run(ModelError, "the id 999", model={"hf": str(tmp_path / "mixed")}, data=data)


def test_a_corrupt_safetensors_file_is_refused(
    refused_run: Callable[..., None], call: Callable[..., Said], bert_directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(bert_directory, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\x00" * 100)
    (tmp_path / "rows.csv").write_text(GOOD)
    data = {"source": "file", "train": str(tmp_path / "rows.csv"), "max_length": 16}
    refused_run(ModelError, "broken", model={"hf": str(tmp_path / "broken")}, data=data)
    assert_refused(call("export", tmp_path / "broken", "-o", "out"), ModelError, "broken")
    assert not (tmp_path / "out").exists()


def test_a_damaged_bundle_is_refused(
    refused_run: Callable[..., None], call: Callable[..., Said], digits_run: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(digits_run / "reports" / "digits", bundle)
    weights = bundle / "pytorch" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    refused_run(ModelError, "model.safetensors", model={"bundle": str(bundle)})
    shutil.copytree(digits_run / "reports" / "digits", bundle, dirs_exist_ok=True)
    (bundle / "manifest.json").write_text("{")
    refused_run(ModelError, "manifest.json", model={"bundle": str(bundle)})


def test_all_files_are_looked_for_before_the_first_recipe_runs(
    call: Callable[..., Said], tmp_path: Path, write_recipe: WriteRecipe
) -> None:
    good = write_recipe(tmp_path / "good.yaml")
    bad = write_recipe(tmp_path / "bad.yaml", model={"file": "gone.py", "builder": "b"})
    assert_refused(call("run", good, bad, "-o", "out"), ModelError, "gone.py")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_refused(
    call: Callable[..., Said], tmp_path: Path, digits_run: Path, bert_directory: Path
) -> None:
    (tmp_path / "file").write_text("kept")
    for dry in ([], ["--dry-run"]):
        said = call("run", digits_run / "digits.yaml", "-o", "file/out", *dry)
        assert_refused(said, OutputError, "file/out/digits")
    assert_refused(call("export", bert_directory, "-o", "file/out"), OutputError, "file/out")
    said = call("compare", digits_run / "reports", "--html", "file/page.html")
    assert_refused(said, OutputError, "file/page.html")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_run_that_is_there_already(call: Callable[..., Said], digits_run: Path) -> None:
    recipe, reports = digits_run / "digits.yaml", digits_run / "reports"
    before = (reports / "digits" / "manifest.json").read_bytes()
    said = call("run", recipe, "-o", reports)
    assert (said.code, said.err) == (0, "")
    assert "not repeated" in said.out
    said = call("run", recipe, "measure.rounds=5", "-o", reports)
    assert_refused(said, OutputError, "--overwrite", "name=", "-o")
    assert (reports / "digits" / "manifest.json").read_bytes() == before


def test_gates_that_fail_are_printed_line_by_line_and_the_run_is_kept(
    call: Callable[..., Said], digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, reports = digits_run / "digits.yaml", digits_run / "reports"
    easy, hard = "gates.max_size_mb=50", "gates.max_accuracy_drop=0"  # an interval is never so narrow
    said = call("run", recipe, easy, "-o", reports)
    assert (said.code, said.err) == (0, "")
    assert said.out.count("holds: ") == 1 and "50.0 MB" in said.out
    assert "holds: gate max_size_mb: " in said.out
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    said = call("run", recipe, easy, hard, "-o", reports)
    assert said.code == 3
    assert said.out.count("holds: ") == 1 and said.out.count("fails: ") == 2
    written = summary.read_text()
    assert written.startswith("### modelpress run digits\n") and written.count("| FAILS | gate ") == 2
    assert "| holds | gate max_size_mb |" in written and "| file size |" in written
    assert verdict(load_report(reports / "digits")) in written.replace("\\", "")
    # Of two: two epochs teach too little to beat the most common label.
    assert said.errors == () and "digits" in said.err and "`modelpress docs how-to/ci-gates`" in said.err
    assert (reports / "digits" / "onnx" / "model.onnx").is_file()


def test_gates_where_nothing_is_measured_are_refused_before_work(
    call: Callable[..., Said], digits_run: Path
) -> None:
    for key in ("batch", "sequence", "threads"):
        said = call("run", digits_run / "digits.yaml", f"gates.{key}=77", "-o", "out")
        assert_refused(said, RecipeError, f"gates.{key}", "77", f"measure.{key}")
    error = assert_refused(
        call("run", digits_run / "digits.yaml", "gates.min_sped=2", "-o", "out"), UnknownNameError
    )
    assert (error.key, error.nearest, error.see) == ("gates.min_sped", "min_speedup", "reference/gates")


def test_dry_run_says_what_would_be_done_and_does_nothing(
    call: Callable[..., Said], digits_run: Path, tmp_path: Path
) -> None:
    said = call("run", digits_run / "digits.yaml", "--dry-run", "-o", "out")
    assert (said.code, said.err) == (0, "")
    assert "(would be trained)" in said.out
    assert list(tmp_path.iterdir()) == []
    said = call("run", digits_run / "digits.yaml", "--dry-run", "-o", digits_run / "reports")
    assert "(trained, in the cache)" in said.out
    assert "stage   quantize/int8_dynamic (in the cache)" in said.out
    assert "(already done, would not be repeated)" in said.out


# the work itself


@pytest.fixture
def quick(digits_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with the finished run's cache, and an export and a measurement that were made before."""
    finished = digits_run / "reports" / "digits"

    def export_onnx(module: nn.Module, split: Any, task: Any, path: Path, **_: Any) -> Path:
        shutil.copyfile(finished / "onnx" / "model.onnx", path)
        return path

    monkeypatch.setattr(EXPORTED, "export_onnx", export_onnx)
    monkeypatch.setattr(MEASURED, "measure_pair", lambda *_, **__: load_report(finished).measurement)
    shutil.copytree(digits_run / "reports" / ".cache", tmp_path / "out" / ".cache")
    return tmp_path / "out"


def test_run_says_what_there_is_now_and_what_to_type_next(
    call: Callable[..., Said], digits_run: Path, quick: Path
) -> None:
    said = call("run", digits_run / "digits.yaml", "name=new", "-o", "out")
    assert (said.code, said.err) == (0, "")
    assert "the trained model is in the cache" in said.out
    report = load_report(quick / "new")
    assert verdict(report) in " ".join(said.out.split())
    for line in ("bundle  out/new", f"report  {quick / 'new' / 'report.html'}", "modelpress compare out"):
        assert line in said.out
    assert sorted(path.name for path in quick.iterdir()) == [".cache", "new"]


def test_a_recipe_that_fails_does_not_stop_the_others(
    call: Callable[..., Said], digits_run: Path, quick: Path, write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    strict = {"min_agreement": 1.0, "max_metric_difference": 0.0}
    other = write_recipe(
        tmp_path / "other.yaml", {"prune/magnitude": {"sparsity": 0.95}}, name="other", export=strict
    )
    said = call("run", other, digits_run / "digits.yaml", "-o", "out")
    assert said.code == 1
    assert [(type(error), error.see) for error in said.errors] == [(ParityError, "explanation/numerics")]
    assert "1 of 2 recipes failed" in said.err
    assert sorted(path.name for path in quick.iterdir()) == [".cache", "digits"]


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_side_by_side_what_fails_or_dies_does_not_stop_the_others(
    call: Callable[..., Said], digits_run: Path, write_recipe: WriteRecipe, tmp_path: Path
) -> None:
    shutil.copytree(digits_run / "reports", tmp_path / "out")
    (tmp_path / "dies.py").write_text(
        "import os, signal\ndef build():\n    print('building')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    model = {"file": str(tmp_path / "dies.py"), "builder": "build"}
    dies = write_recipe(tmp_path / "dies.yaml", name="dies", model=model)
    fails = write_recipe(tmp_path / "fails.yaml", {"prune/heads": {"sparsity": 0.5}}, name="fails")
    (tmp_path / "out" / "fails").mkdir()
    (tmp_path / "out" / "fails" / "thesis.txt").write_text("mine")
    said = call("run", dies, digits_run / "digits.yaml", fails, "-o", "out", "--jobs", "2")
    assert said.code == 2  # the largest
    (died,) = said.errors  # the other is printed by its own process
    assert "dies" in str(died) and "SIGKILL" in str(died)
    assert "fails: error: out/fails" in said.err
    assert said.err.count("error: ") == 2
    assert "2 of 3 recipes failed" in said.err
    assert "Traceback" not in said.err + said.out
    assert "not repeated" in said.out
    for line in ("bundle  out/digits", "modelpress compare out"):
        assert line in said.out


def test_more_jobs_than_recipes_are_as_many_as_recipes(
    call: Callable[..., Said], digits_run: Path, quick: Path
) -> None:
    said = call("run", digits_run / "digits.yaml", "name=new", "-o", "out", "--jobs", "7")
    assert (said.code, said.err) == (0, "")
    assert "the trained model is in the cache" in said.out


@pytest.mark.parametrize("rank", [0, 1])
def test_jobs_of_several_processes_are_refused_once(
    call: Callable[..., Said], digits_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rank: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    said = call("run", digits_run / "digits.yaml", "-o", "out", "--jobs", "2")
    assert said.code == 2
    if rank == 0:
        assert_refused(said, RecipeError, "--jobs 2", "2 processes")
    else:
        assert said.err == ""
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_recipe_at_once_are_one(digits_run: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from compress.progress import Silent
    from compress.system.locks import only_one

    reports = digits_run / "reports"

    class _Listening(Silent):
        def say(self, line: str) -> None:
            said.append(line)
            # What the other run, which holds the lock, finishes meanwhile.
            shutil.copytree(reports / "digits", tmp_path / "digits")
            waits.release()

    said: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        waits = Semaphore(0)
        with only_one(tmp_path / ".cache", "run-digits", "writes it", pytest.fail):
            second = pool.submit(RUN.run, digits_run / "digits.yaml", tmp_path, progress=_Listening())
            assert waits.acquire(timeout=120)
        outcome = second.result(120)
    assert said == [f"waiting for another run that writes {tmp_path / 'digits'}"]
    assert outcome.already_done


def test_one_recipe_that_fails_is_reported_once(
    call: Callable[..., Said], digits_run: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ExportError("Model cannot be exported to ONNX: reason [1]")

    monkeypatch.setattr(EXPORTED, "export_onnx", fail)
    said = call("run", digits_run / "digits.yaml", "-o", "out")
    assert_refused(said, ExportError, "reason [1]", code=1)
    assert [path.name for path in quick.iterdir()] == [".cache"]


@pytest.mark.parametrize("where", ["shutil.copy", "safetensors.torch.save_file", "pathlib.Path.write_text"])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    call: Callable[..., Said], digits_run: Path, quick: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from safetensors import SafetensorError

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # safetensors has an error of its own for it.
    error = SafetensorError(f"I/O error: {full.strerror}") if "safetensors" in where else full
    write = PUBLISH.write_bundle_

    def on_a_full_disk(*arguments: Any, **options: Any) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("compress.model.files.save.save_model" if "safetensors" in where else where, fail)
            write(*arguments, **options)

    monkeypatch.setattr(PUBLISH, "write_bundle_", on_a_full_disk)
    said = call("run", digits_run / "digits.yaml", "-o", "out")
    assert_refused(said, OutputError, "No space left on device", code=1)
    assert [path.name for path in quick.iterdir()] == [".cache"]


def test_ctrl_c_is_130_and_one_line(
    call: Callable[..., Said], digits_run: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MEASURED, "measure_pair", interrupt)
    said = call("run", digits_run / "digits.yaml", "-o", "out")
    assert said.code == 130
    assert said.err.strip().startswith("interrupted: ") and said.err.strip().count("\n") == 0
    assert [path.name for path in quick.iterdir()] == [".cache"]


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize(("number", "code"), [(15, 143), (1, 129)])
def test_other_signals_end_a_run_as_ctrl_c_does(
    call: Callable[..., Said],
    digits_run: Path,
    quick: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    monkeypatch.setattr(MEASURED, "measure_pair", lambda *_, **__: signal.raise_signal(number))
    said = call("run", digits_run / "digits.yaml", "-o", "out")
    assert said.code == code
    assert signal.Signals(number).name in said.err and "Traceback" not in said.err
    assert [path.name for path in quick.iterdir()] == [".cache"]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_disk_without_room_is_refused_before_work(
    call: Callable[..., Said],
    digits_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    dry: list[str],
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    said = call("run", digits_run / "digits.yaml", "-o", "out", *dry)
    assert_refused(said, OutputError, "1.0 MB", "-o")
    assert not list((tmp_path / "out").rglob("model*"))


def test_what_fails_after_work_began_is_failed_work(
    call: Callable[..., Said], digits_run: Path, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ModelError("a stage made what can't be written")

    monkeypatch.setattr(MEASURED, "measure_pair", fail)
    assert_refused(call("run", digits_run / "digits.yaml", "-o", "out"), ModelError, code=1)
    done = call("run", digits_run / "digits.yaml", "-o", "out", "--jobs", "1", "measure.rounds=4")
    assert done.code == 1


def test_threads_of_openmp_wait_asleep_unless_the_user_says_otherwise(
    call: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given is not None:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        assert call("--version").code == 0
        assert os.environ["OMP_WAIT_POLICY"] == expected


def test_compare_prints_a_table_json_or_markdown_and_writes_html(
    call: Callable[..., Said], digits_run: Path, tmp_path: Path
) -> None:
    reports = digits_run / "reports"
    assert "digits" in call("compare", reports).out
    assert json.loads(call("compare", reports, "--json").out)
    assert "digits" in call("compare", reports / "digits" / "report.json", "--markdown").out
    said = call("compare", reports, "--html", "deep/page.html")
    assert (said.code, said.out, said.err) == (0, "", "wrote deep/page.html\n")
    assert "<html" in (tmp_path / "deep" / "page.html").read_text()
    assert_refused(call("compare", reports, "--json", "--markdown"), RecipeError, "--json", "--markdown")


def test_compare_chooses_among_runs(call: Callable[..., Said], digits_run: Path) -> None:
    reports = digits_run / "reports"
    said = call("compare", reports, "--where", "size_mb > 0", "--sort", "size_mb", "--csv")
    assert said.code == 0
    assert [line.split(",")[0] for line in said.out.splitlines()] == ["run", "baseline", "digits"]
    assert call("compare", reports, "--best", "size") == Said(0, "digits\n", "")
    assert call("compare", reports, "--where", "size_mb < 0", "--csv").out.count("\n") == 2
    said = call("compare", reports, "--best", "size", "--max-drop", "0")
    assert_refused(said, NotReachedError, "--max-drop 0", code=3)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--sort", "sped"], "'speedup'"),
        (["--where", "speed > 1"], "'speedup'"),
        (["--max-drop", "0.1"], "--best"),
        (["--csv", "--best", "size"], "--csv"),
    ],
)
def test_compare_refuses_a_choice_that_cannot_be_read_before_it_reads_reports(
    call: Callable[..., Said], words: list[str], part: str
) -> None:
    assert_refused(call("compare", "nowhere", *words), RecipeError, part)


def test_compare_refuses_what_is_no_run(call: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "report.json").write_text("{")
    for name in ("empty", "gone", "report.json"):
        said = call("compare", name)
        assert_refused(said, type(said.errors[0]), name)


def test_export_writes_a_bundle_of_a_hugging_face_directory(
    call: Callable[..., Said], bert_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()  # an empty directory is free
    said = call("export", bert_directory, "-o", "out", "--max-length", "32")
    assert (said.code, said.err) == (0, "")
    assert "100.0%" in said.out and "64 rows" in said.out
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert {"onnx/model.onnx", "manifest.json", "tokenizer.json", "pytorch/model.safetensors"} <= files
    assert_refused(call("export", bert_directory, "-o", "out"), OutputError, "out", "--overwrite")
    (tmp_path / "out" / "manifest.json").unlink()
    assert_refused(call("export", bert_directory, "-o", "out", "--overwrite"), OutputError, "out")


def test_export_refuses_texts_longer_than_the_model_has_positions(
    call: Callable[..., Said], bert_directory: Path, tmp_path: Path
) -> None:
    said = call("export", bert_directory, "-o", "out", "--max-length", "41")
    assert_refused(said, type(said.errors[0]), "40 tokens", "--max-length")
    assert list(tmp_path.iterdir()) == []
    assert call("export", bert_directory, "-o", "out").code == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["max_length"] == 40


def test_export_takes_a_recipe_without_stages(
    call: Callable[..., Said], digits_run: Path, tmp_path: Path, write_recipe: WriteRecipe
) -> None:
    bundle = {"bundle": str(digits_run / "reports" / "digits")}
    text = write_recipe(tmp_path / "r.yaml", model=bundle).read_text()
    (tmp_path / "r.yaml").write_text(text.replace("stages:\n- quantize/int8_dynamic\n", ""))
    said = call("export", "r.yaml", "-o", "out")
    assert (said.code, said.err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "r.yaml"]
    state = compress.load(tmp_path / "out").state_dict()
    expected = compress.load(digits_run / "reports" / "digits").state_dict()
    assert all(value.equal(expected[name]) for name, value in state.items())


def test_export_compares_a_run_s_bundle_on_its_own_rows(
    call: Callable[..., Said], digits_run: Path, tmp_path: Path
) -> None:
    said = call(
        "export", digits_run / "reports" / "digits", "-o", "out"
    )  # of numbers: no rows can be made up
    assert (said.code, said.err) == (0, "")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["parity"]["rows_from"] == "validation rows"
    report = load_report(digits_run / "reports" / "digits")
    assert manifest["parity"]["rows"] == min(256, report.data.validation_rows)


def test_export_says_where_the_rows_of_a_bundle_are_gone(
    call: Callable[..., Said], bert_directory: Path, tmp_path: Path
) -> None:
    assert call("export", bert_directory, "-o", "bundle", "--max-length", "32").code == 0
    (tmp_path / "bundle" / "recipe.resolved.yaml").write_text(
        f"name: r\nmodel: {{hf: {bert_directory}}}\nstages: []\n"
        f"data: {{source: file, train: {tmp_path}/rows.csv, max_length: 24}}\n"
    )
    said = call("export", "bundle", "-o", "first", "--max-length", "32")
    assert (said.code, said.err) == (0, "") and "rows.csv" in said.out
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    assert "synthetic" in manifest["parity"]["rows_from"] and manifest["max_length"] == 32
    (tmp_path / "rows.csv").write_text(GOOD)
    for words, length in (((), 24), (("--max-length", "16"), 16)):
        assert call("export", "bundle", "-o", "out", "--overwrite", *words).code == 0
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert manifest["parity"]["rows_from"] == "validation rows" and manifest["max_length"] == length


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("gone", "'./gone'"),
        ("mine.py", "builder"),
        ("r.yaml", "r.yaml"),
    ],
)
def test_export_refuses_what_is_no_model(
    call: Callable[..., Said], tmp_path: Path, model: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = call("export", model if model != "gone" else "./gone", "-o", "out")
    assert_refused(said, type(said.errors[0]), part)
    assert list(tmp_path.iterdir()) == []


# inspect


def test_inspect_writes_three_files_and_says_how_many_heads(
    call: Callable[..., Said], tmp_path: Path, write_recipe: WriteRecipe
) -> None:
    write_recipe(tmp_path / "r.yaml", name="r")
    said = call("inspect", "r.yaml", "--quick", "--rows", "20", "-o", "out/r")
    assert (said.code, said.err) == (0, "")
    assert "needs" in said.out and "inspection.html" in said.out
    files = {path.name for path in (tmp_path / "out" / "r").iterdir()}
    assert files == {"inspection.html", "inspection.json", "inspection.md"}
    again = call("inspect", "r.yaml", "--quick", "--rows", "20", "-o", "out/r", "--json")
    assert again.code == 0  # the trained model is in out/.cache
    found = json.loads(again.out)  # progress goes to stderr
    assert found["command"] == "modelpress inspect r.yaml"
    assert found["calibration_rows"] == 20


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["mine.py", "data.source=digits"], "builder"),
        (["some-model"], "data.train=FILE"),
        (["some-model", "data.train=gone.csv", "--json", "--markdown"], "--markdown"),
        (["./some-model", "data.train=gone.csv"], "data.train"),
        (["some-model", "data.train=gone.csv", "-o", "file/out"], "file/out"),
    ],
)
def test_inspect_refuses_wrong_input_before_work(
    call: Callable[..., Said], tmp_path: Path, words: list[str], part: str
) -> None:
    (tmp_path / "file").write_text("")
    said = call("inspect", *words)
    assert_refused(said, type(said.errors[0]), part)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bundle_says_what_the_variants_are(
    call: Callable[..., Said], digits_run: Path, tmp_path: Path
) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        shutil.copytree(digits_run / "reports" / "digits", run)
    report = json.loads((runs[1] / "report.json").read_text())
    (runs[1] / "report.json").write_text(json.dumps({**report, "name": "other"}))
    said = call("bundle", *runs, "-o", tmp_path / "all")
    assert said.code == 0
    assert "onnx/model_quantized.onnx" in said.out and "onnx/model_other.onnx" in said.out
    assert (tmp_path / "all" / "README.md").is_file()

    said = call("bundle", runs[0], runs[0], "-o", tmp_path / "twice")
    assert_refused(said, type(said.errors[0]), "digits")
