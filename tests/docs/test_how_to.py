"""Examples of the how-to pages: recipes load, commands exist with their options, programs run."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest
import typer.main
import yaml

from compress.cli import app, main
from compress.recipe import load_recipe

from .blocks import QUICK, QUICK_DIGITS, ROOT, blocks, commands

HOW_TO = ROOT / "docs" / "how-to"
REST = {
    "model": {"hf": "my-model"},
    "data": {"source": "file", "train": "train.csv"},
    "stages": ["quantize/int8_dynamic"],
}
PAGES = sorted(HOW_TO.glob("*.md"))


def text(page: str) -> str:
    return (HOW_TO / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipes_load_and_fragments_have_keys_of_a_recipe(page: Path, tmp_path: Path) -> None:
    for name in ("my_model.py", "my_cnn.py"):
        (tmp_path / name).write_text("")
    for block in blocks(page.read_text(encoding="utf-8"), "yaml"):
        content = yaml.safe_load(block)
        if "jobs" in content:
            continue  # the workflow of GitHub Actions
        if "model" not in content:
            content = {**REST, **content}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        assert load_recipe(tmp_path / "recipe.yaml").stages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist_with_their_options_and_keys(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for words in commands(page.read_text(encoding="utf-8")):
        if words[0] != "modelpress":
            continue
        command = known[words[1]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words[2:] if re.match("--?[a-z]", word)} <= options, words
        paths = [word for word in words[2:] if word.endswith(".yaml") and (ROOT / word).exists()]
        overrides = [word for word in words[2:] if re.match(r"[a-z_/.\d]+=", word)]
        for path in paths:
            assert load_recipe(path, overrides).stages


def test_the_workflow_runs_commands_that_exist() -> None:
    (workflow,) = [yaml.safe_load(each) for each in blocks(text("ci-gates.md"), "yaml") if "jobs:" in each]
    steps = workflow["jobs"]["compress"]["steps"]
    run = "\n".join(step.get("run", "") for step in steps)
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(re.findall(r"modelpress (\w+)", run)) <= set(known)
    assert all("uses" in step or "run" in step for step in steps)


def test_the_module_with_a_structure_is_cut_quantized_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program = "\n".join(blocks(text("own-modules.md"), "python"))
    exec(compile(program, "own-modules.md", "exec"), {"__name__": "how_to"})
    assert "[2]" in capsys.readouterr().out
    session = ort.InferenceSession(tmp_path / "my-model.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["features", "about"]
    weights = onnx.load(tmp_path / "my-model.onnx").graph.initializer
    assert [list(w.dims) for w in weights].count([64, 96]) == 1, "two of four heads, and stored once"

    Path("my_model.py").write_text(blocks(text("own-modules.md"), "python")[0])
    Path("my-recipe.yaml").write_text(blocks(text("own-modules.md"), "yaml")[0])
    for words in commands(text("own-modules.md")):
        more = [*QUICK, "model.train.epochs=1"] if words[1] == "run" else []
        assert main([*words[1:], *more]) == 0, words
    (bundle,) = (tmp_path / "reports").glob("*/onnx/model.onnx")
    assert bundle.parts[-3].endswith("-my-recipe")


def test_the_programs_of_the_python_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("recipes", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    program = "\n".join(blocks(text("python.md"), "python"))
    quick = program.replace('["seed=1"]', str(["seed=1", *QUICK_DIGITS]))
    assert quick != program
    exec(compile(quick, "python.md", "exec"), {"__name__": "how_to"})
    assert "{'int8_static_linear': 2}" in capsys.readouterr().out
    assert (tmp_path / "net.onnx").is_file()
