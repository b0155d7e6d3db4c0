"""Two processes train what one trains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compress.report import load_report

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "several-processes.md"
TRAIN = {"epochs": 2, "learning_rate": 3e-3, "precision": "fp32"}


def _launcher() -> list[str]:
    """The launcher and its options, as the documentation gives them, with a free port."""
    line = re.search(
        r"^accelerate launch (.*) -m compress run ", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert line is not None
    return ["accelerate.commands.launch", *line[1].split(), "--main_process_port", "0", "-m"]


def _run(recipe: Path, output: Path, *launcher: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "compress", "run", str(recipe), "-o", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="gloo")
def test_two_processes_train_the_model_of_one(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    # Batches of 9: shares of different sizes.
    distill = {"student": {"num_layers": 1}, "train": {**TRAIN, "batch_size": 9, "accumulate": 2, "ema": 0.5}}
    recipe = write_recipe(tmp_path / "r.yaml", {"distill/logits": distill}, name="r")
    one, two = _run(recipe, tmp_path / "one"), _run(recipe, tmp_path / "two", *_launcher())
    for process in (one, two):
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
    assert said.count("stage distill/logits") == 1  # by the main process alone
    reports = [load_report(tmp_path / name / "r") for name in ("one", "two")]
    for mine, theirs in zip(reports[0].stages[0].curve, reports[1].stages[0].curve, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        # Rounding may turn one row of the validation rows that stands on the edge.
        assert mine.validation_metric == pytest.approx(theirs.validation_metric, abs=0.01)
    weights = [load_file(tmp_path / name / "r" / "pytorch" / "model.safetensors") for name in ("one", "two")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0]), (
        "was it one process?"
    )
    for name, weight in weights[0].items():
        # AdamW divides by a gradient's size: that of a bias of keys, which changes no attention, is
        # nothing but rounding, and a step of 3e-3 goes either way. Nothing else moves like that.
        atol = 0.1 if name.endswith("k_proj.bias") else 1e-5
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=atol)
    assert not [path for path in (tmp_path / "two").iterdir() if path.name not in (".cache", "r")]
