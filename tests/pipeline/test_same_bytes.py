"""The same recipe, data, versions and machine give the same bytes, beside other work too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from compress.report import load_report

TRAIN = {"epochs": 2, "batch_size": 32, "learning_rate": 3e-3}  # precision: auto
STAGES = [
    {"distill/logits": {"student": {"num_layers": 1}, "train": {**TRAIN, "ema": 0.9}}},
    {"quantize/int8_static": {"calibration_rows": 32}},
]
# Made of times, or of what was timed.
TIMED = ("report.", "manifest.json", "README.md")


def test_two_runs_at_once_write_the_same_bytes(tmp_path: Path, write_recipe: Callable[..., Path]) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", *STAGES, name="r")
    values = ["model.train.precision=auto", "model.args.dropout=0.1", "measure.ladder=false"]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "compress", "run", str(recipe), *values, "-o", str(tmp_path / seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": seed},  # of the order of sets
        )
        for seed in ("1", "2")
    ]
    for process in running:
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
    ours, theirs = (_files(tmp_path / seed / "r") for seed in ("1", "2"))
    assert {"pytorch/model.safetensors", "onnx/model.onnx"} <= ours.keys()
    assert [name for name in ours | theirs if ours.get(name) != theirs.get(name)] == []
    report = load_report(tmp_path / "1" / "r")
    assert report.model.precision == "fp32"  # too narrow for bf16 on any device
    assert [each.facts.get("precision") for each in report.stages] == ["fp32", None]
    assert "Trained in fp32." in (tmp_path / "1" / "r" / "report.md").read_text(encoding="utf-8")


def _files(directory: Path) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(TIMED))
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}
