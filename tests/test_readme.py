"""What the README shows works as it stands there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from compress.cli import app
from compress.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_example_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module, script = blocks("python")
    assert len(module.strip().splitlines()) < 40 and len(script.strip().splitlines()) <= 12
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(module + script, "README.md", "exec"), namespace)
    assert "[2]" in capsys.readouterr().out
    session = ort.InferenceSession(tmp_path / "my-model.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["features", "about"]
    weights = onnx.load(tmp_path / "my-model.onnx").graph.initializer
    assert [list(w.dims) for w in weights].count([64, 96]) == 1, "two of four heads, and stored once"


def test_the_recipe_shown_is_a_recipe(tmp_path: Path) -> None:
    (shown,) = [block for block in blocks("yaml") if block.startswith("# recipes/digits/joint.yaml")]
    (tmp_path / "joint.yaml").write_text(shown)
    recipe = load_recipe(tmp_path / "joint.yaml")
    assert [stage.name for stage in recipe.stages] == [
        "distill/logits",
        "prune/heads",
        "quantize/int8_dynamic",
    ]


def test_the_table_of_families_is_that_of_the_reference_reports() -> None:
    file = ROOT / "tests" / "benchmarks" / "families.py"
    specification = importlib.util.spec_from_file_location("families", file)
    assert specification is not None and specification.loader is not None
    families = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(families)
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert families.table() in results, "replace it by what `python tests/benchmarks/families.py` prints"


def test_every_command_of_the_table_exists() -> None:
    named = set(re.findall(r"`modelpress (\w+)", README))
    known = {
        (command.name or command.callback.__name__) for command in app.registered_commands if command.callback
    }
    assert named <= known
    assert known <= named | {"list"}  # `show RECIPE` / `list` share a cell


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\((?!#|https)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
