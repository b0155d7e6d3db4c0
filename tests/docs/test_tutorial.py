"""The tutorial from its first command to its last, on small stand-ins for the reader's model and data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.cli import main

from .blocks import ROOT, blocks, commands, shortened, write_stand_ins

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
# A speed is promised on a quiet machine only; and gates on tiny models may hold or not.
CUT = "prune/structured={macs: 0.6, calibration_rows: 16, search_rows: 16, search_steps: 2}"
JUDGED = (0, 3, 4)


def test_every_command_works_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands(TUTORIAL):
        if words[0] == "cd":
            monkeypatch.chdir(words[1])
            write_stand_ins(Path.cwd())
            (recipe,) = blocks(TUTORIAL, "yaml")
            Path("fast.yaml").write_text(recipe)
            (program,) = blocks(TUTORIAL, "python")
            Path("classify.py").write_text(program)
        elif words[0] == "modelpress":
            judges = "fast.yaml" in words or words[1] == "check"
            cuts = any(word.endswith(("fast.yaml", "prune-structured.yaml")) for word in words)
            more = [CUT] if cuts else []
            assert main([*shortened(words), *more]) in (JUDGED if judges else (0,)), words
        else:
            answers = _python(words[1:])
    project = tmp_path / "my-project"
    bundles = {path.parent.name for path in (project / "reports").glob("*/report.json")}
    assert bundles == {"reviews-quantize-int8", "my-project-fast"}
    assert (project / "junit.xml").is_file() and (project / "comparison.html").is_file()
    labels = json.loads((project / "reports/reviews-quantize-int8/manifest.json").read_text())["labels"]
    first, second = answers.splitlines()
    assert first.split()[0] in labels and first.endswith("a quietly moving film")
    assert second.split()[0] in labels and second.endswith("a dull and pointless film")


def _python(words: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout
