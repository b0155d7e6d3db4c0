"""What README.md shows works as printed, in its order, on small stand-ins for the reader's model and data."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import onnxruntime as ort
import pytest

from compress.cli import app, main
from compress.recipe import load_recipe

from .docs.blocks import ROOT, blocks, commands, shortened, write_stand_ins

README = (ROOT / "README.md").read_text(encoding="utf-8")
JUDGED = (0, 3, 4)  # gates on stand-ins and 3 rounds may hold or not; they must be judged


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all commands of README were run, the last one as well."""
    folder = tmp_path_factory.mktemp("readme")
    run = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in commands(README):
            if words[0] == "cd" and words[1] == "my-project":
                patch.chdir(words[1])
                write_stand_ins(Path.cwd())
            if words[0] != "modelpress":
                continue
            code = main(shortened(words))
            assert code in (JUDGED if words[1] == "check" else (0,)), words
            run.append(words[1])
    assert {"init", "run", "compare", "explain", "export", "check"} <= set(run)
    return folder / "my-project"


def test_every_command_works_in_order(project: Path) -> None:
    assert (project / "reports" / "digits-quantize-int8" / "report.html").is_file()
    assert (project / "reports" / "reviews-quantize-int8" / "onnx" / "model.onnx").is_file()


def test_the_set_up_commands_are_those_of_dev_py() -> None:
    others = [words for words in commands(README) if words[0] not in ("modelpress", "cd")]
    assert ["python3", ".ci/dev.py", "demo"] in others and ["python3", ".ci/dev.py", "test"] in others
    jobs = subprocess.run([sys.executable, ROOT / ".ci" / "dev.py"], capture_output=True, text=True)
    assert jobs.returncode == 2 and "dev.py demo" in jobs.stdout and "dev.py test" in jobs.stdout
    (installed,) = [words[-1] for words in others if words[0] == "pip"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\w+", installed)) <= set(extras)


def test_the_deployed_program_answers(project: Path) -> None:
    (program,) = [block for block in blocks(README, "python") if "Tokenizer" in block]
    bundle = project / "reports" / "reviews-quantize-int8"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=bundle,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"\[\[\s*-?\d+\.\d+\s+-?\d+\.\d+\s*\]\]", done.stdout.strip())


def test_the_python_example_exports_an_int8_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = [block for block in blocks(README, "python") if "import compress" in block]
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    assert "int8_linear" in capsys.readouterr().out
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["features"]


def test_the_recipes_are_recipes(tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text("")
    shown = blocks(README, "yaml")
    for block in shown:
        (tmp_path / "recipe.yaml").write_text(block)
        assert load_recipe(tmp_path / "recipe.yaml").stages
    assert len(shown) == 2


def test_the_stages_and_commands_are_all_there_are() -> None:
    from compress.registry import stage_names

    assert set(re.findall(r"^\| `([a-z]+/\w+)`", README, re.MULTILINE)) == set(stage_names())
    known = {
        (command.name or command.callback.__name__) for command in app.registered_commands if command.callback
    }
    assert set(re.findall(r"^\| `modelpress (\w+)", README, re.MULTILINE)) == known


def test_the_results_are_one_table_between_their_markers() -> None:
    parts = README.split("<!-- results -->")
    assert len(parts) == 3
    rows = parts[1].strip().splitlines()
    assert all(row.startswith("| ") for row in rows) and "| fp32 ONNX |" in parts[1]


def test_the_table_of_families_is_that_of_the_reference_reports() -> None:
    file = ROOT / "tests" / "benchmarks" / "families.py"
    specification = importlib.util.spec_from_file_location("families", file)
    assert specification is not None and specification.loader is not None
    families = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(families)
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert families.table() in results, "replace it by what `python tests/benchmarks/families.py` prints"


@pytest.mark.slow
def test_the_example_works_whole(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in commands(README.split("## Results")[0]):
        if words[0] == "modelpress":
            folder = tmp_path if words[1] == "init" else tmp_path / "my-project"
            program = [sys.executable, "-m", "compress", *words[1:]]
            subprocess.run(program, cwd=folder, env=environment, check=True)
    assert (tmp_path / "my-project" / "reports" / "digits-quantize-int8" / "report.html").is_file()
