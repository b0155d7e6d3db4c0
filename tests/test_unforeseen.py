"""No traceback reaches a user: what nobody foresaw is one line, a log file and an exit code of its own."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import compress
from compress.cli import main
from compress.cli.unforeseen import as_known
from compress.errors import CompressError, DataError, InternalError, ModelError, RecipeError

RUN = import_module("compress.cli.run")
STARTER = import_module("compress.recipe.starter")
LONG = "n" * 300  # a component of a path has 255 bytes at the most


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "logs"))
    monkeypatch.setenv("COLUMNS", "200")


def test_an_exception_becomes_a_line_a_log_and_exit_code_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(directory: Path) -> None:
        raise KeyError("\udcff\n" + "x" * 10_000)

    monkeypatch.setattr(STARTER, "init", fail)
    assert main(["init", "new"]) == 70
    said = capsys.readouterr()
    (log,) = (tmp_path / "logs").iterdir()
    assert said.err.startswith("error: ") and "Traceback" not in said.out + said.err
    assert str(log) in said.err and "KeyError" in said.err and len(said.err) < 1_000
    text = log.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text and "KeyError" in text and "in fail" in text


def test_without_room_for_a_log_the_line_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    known = as_known(ValueError("reason"))
    assert type(known) is InternalError and known.exit_code == 70
    assert "reason" in str(known) and "No space left" in str(known) and "MODELPRESS_LOG=debug" in str(known)


def test_errors_of_the_operating_system_name_their_file() -> None:
    refused = as_known(PermissionError(errno.EACCES, "Permission denied", "some/file"))
    assert type(refused) is CompressError and refused.exit_code == 1
    assert str(refused).startswith("some/file: Permission denied")
    too_long = as_known(OSError(errno.ENAMETOOLONG, "File name too long", LONG))
    assert type(too_long) is RecipeError and "File name too long" in str(too_long)
    own = DataError("mine")
    assert as_known(own) is own


@pytest.mark.parametrize("other", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_process_on_purpose_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: type[BaseException]
) -> None:
    def stop(directory: Path) -> None:
        raise other

    monkeypatch.setattr(STARTER, "init", stop)
    if other is SystemExit:
        with pytest.raises(SystemExit):
            main(["init", "new"])
    else:
        assert main(["init", "new"]) == 130
    assert not list((tmp_path / "logs").iterdir())


def test_of_several_recipes_one_that_fails_unforeseen_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, write_recipe: Any
) -> None:
    ran = []

    def fail(recipe: Any, *_: Any, **__: Any) -> None:
        ran.append(recipe.run_name)
        raise ZeroDivisionError

    pipeline = import_module("compress.pipeline")
    monkeypatch.setattr(pipeline, "run", fail)
    recipes = [str(write_recipe(tmp_path / f"{name}.yaml", name=name)) for name in ("one", "two")]
    assert main(["run", *recipes, "-o", "out"]) == 70
    assert ran == ["one", "two"]
    assert capsys.readouterr().err.count("ZeroDivisionError") == 2


def test_a_log_level_that_does_not_exist_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELPRESS_LOG", "foo")
    assert main(["list"]) == 2
    assert "MODELPRESS_LOG is foo" in capsys.readouterr().err
    for level in ("", "info", "WARNING"):
        monkeypatch.setenv("MODELPRESS_LOG", level)
        assert main(["--version"]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["run", LONG],
        ["run", f"{LONG}.yaml", "--dry-run"],
        ["show", LONG],
        ["init", LONG],
        ["export", LONG, "-o", "out"],
        ["export", "x", "-o", LONG],
        ["inspect", LONG, "data.source=digits"],
        ["inspect", "x", "data.source=digits", "-o", LONG],
        ["explain", LONG],
        ["explain", "x", "--against", LONG],
        ["check", LONG],
        ["check", ".", "--junit", f"{LONG}/x.xml"],
        ["compare", LONG],
        ["bundle", LONG, "x", "-o", "out"],
        ["inspect", "~nobody-of-this-name/x", "data.source=digits"],
        ["generate", LONG, "text"],
        ["generate", ".", "text", "--file", LONG],
    ],
)
def test_a_path_that_cannot_be_looked_up_is_wrong_input(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert "error: " in said.err and "Traceback" not in said.err
    assert not list((tmp_path / "logs").iterdir())


def test_an_argument_that_is_not_text_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", os.fsdecode(b"caf\xe9.yaml")]) == 2
    assert "not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
def test_json_that_is_nested_without_end_is_refused_by_every_command(
    name: str, digits_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(digits_run / "reports" / "digits", tmp_path / "run")
    (tmp_path / "run" / name).write_text("[" * 200_000)
    of_manifest = [["check", "run"], ["bundle", "run", "run", "-o", "v"], ["export", "run", "-o", "out"]]
    of_report = [["compare", "run"], ["explain", "run"]]
    for words in of_manifest if name == "manifest.json" else of_report:
        assert main(words) == 2, words
        assert name in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_hugging_face_directory_of_brackets_is_refused(
    name: str, bert_directory: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = shutil.copytree(bert_directory, tmp_path / "broken")
    (broken / name).write_text("[" * 200_000)
    assert main(["export", str(broken), "-o", "out"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"modules": None},
        {"modules": {"no.such": {"kind": "Linear"}}},
        {"modules": {"head": {"kind": ["x"]}}},
        {"definition": []},
        {"buffers": {"head.x": {"shape": [-1], "dtype": "float99"}}},
        {"parameters": {"head.weight": ["x"]}},
        {"tied": {"head.weight": 3}},
    ],
)
def test_a_bundle_whose_structure_is_damaged_is_refused(
    change: dict[str, Any], digits_run: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(digits_run / "reports" / "digits", tmp_path / "bundle")
    file = bundle / "pytorch" / "structure.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match="structure.json"):
        compress.load(bundle)


def test_export_refuses_a_tokenizer_with_more_tokens_than_the_model_has(
    bert_directory: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mixed = shutil.copytree(bert_directory, tmp_path / "mixed")
    tokenizer = json.loads((mixed / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["stranger"] = 999
    (mixed / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert main(["export", str(mixed), "-o", "out", "--max-length", "16"]) == 2
    assert re.search("id 999, .* 16 rows", capsys.readouterr().err)


def test_letters_that_the_terminal_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", ascii_only)
    assert main(["--version"]) == 0
    print("ü", flush=True)
    assert ascii_only.buffer.getvalue().endswith(b"\\xfc\n")  # type: ignore[attr-defined]


@pytest.mark.skipif(os.name == "nt", reason="a shell's pipe")
def test_output_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m compress --help | true"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stderr == "" and done.returncode in (0, 1)  # 0: written before the pipe was closed
