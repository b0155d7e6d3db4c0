"""Several recipes by one command: killed and run again, one after the other or side by side."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from compress.pipeline import run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")

ROOT = Path(__file__).parents[2]
TRAIN = {"batch_size": 32, "learning_rate": 3e-3, "precision": "fp32"}
MODEL = {
    "file": str(ROOT / "models" / "transformer.py"),
    "builder": "patch_classifier",
    "args": {
        "input_dim": 4,
        "output_dim": 10,
        "d_model": 32,
        "nhead": 4,
        "num_layers": 2,
        "dim_feedforward": 64,
        "dropout": 0.1,
        "max_length": 16,
    },
    "train": {**TRAIN, "epochs": 6},
}
DISTILL = {"distill/logits": {"student": {"num_layers": 1}, "train": {**TRAIN, "epochs": 8}}}
STAGES = {
    "pruned": [{"prune/magnitude": {"sparsity": 0.5, "recovery": {**TRAIN, "epochs": 8}}}],
    "distilled": [DISTILL],
}
# What a clock or the memory says, or when and after what it was; all else must be the same.
MEASURED = {
    "created", "environment", "explanation", "gain", "latency", "load_ms", "noise", "p50_ms",
    "peak_memory_bytes", "reused", "resumed_at_epoch", "runtimes", "seconds", "speedup", "warnings",
}  # fmt: skip


class _Batch:
    """A command that runs both recipes; what it printed, line by line."""

    def __init__(self, recipes: Sequence[Path], output: Path, jobs: int) -> None:
        command = [sys.executable, "-m", "compress", "run", *map(str, recipes), "-o", str(output)]
        self.process = subprocess.Popen(
            [*command, "--jobs", str(jobs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line)

    def kill_when(self, is_time: Callable[[list[str]], bool], delay_s: float) -> bool:
        """SIGKILL the command; all that it started must be gone soon. False if it ended before."""
        deadline = time.monotonic() + 300
        while not is_time(self.lines) and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay_s)
        started = psutil.Process(self.process.pid).children(recursive=True) if self._runs() else []
        self.process.kill()
        self.process.wait()
        _, left = psutil.wait_procs(started, timeout=60)
        assert not left
        self._reader.join(60)
        return self.process.returncode == -signal.SIGKILL

    def said(self) -> str:
        """Wait for its end."""
        code = self.process.wait(600)
        self._reader.join(60)
        said = "".join(self.lines)
        assert code == 0, said
        return said

    def _runs(self) -> bool:
        return self.process.poll() is None


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory, write_recipe: Callable[..., Path]) -> list[Path]:
    folder = tmp_path_factory.mktemp("recipes")
    return [
        write_recipe(folder / f"{name}.yaml", *stages, name=name, model=MODEL)
        for name, stages in STAGES.items()
    ]


class _Whole:
    def __init__(self, output: Path, said: str) -> None:
        self.output, self.said = output, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipes: list[Path]) -> _Whole:
    """Both recipes side by side, not interrupted."""
    output = tmp_path_factory.mktemp("whole")
    return _Whole(output, _Batch(recipes, output, 2).said())


def _results(directory: Path) -> tuple[dict[str, torch.Tensor], Any]:
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(inner) for key, inner in value.items() if key not in MEASURED}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    report = without(json.loads((directory / "report.json").read_text()))
    return load_file(directory / "pytorch" / "model.safetensors"), report


def _assert_alike(one: Path, other: Path) -> None:
    """The same weights bit for bit, and the same report but for what was measured by a clock."""
    weights, report = _results(one)
    others, other_report = _results(other)
    assert weights.keys() == others.keys()
    assert all(torch.equal(each, others[name]) for name, each in weights.items())
    assert report == other_report


def _finished(output: Path) -> dict[Path, int]:
    """Finished pieces and runs, and when they were written."""
    files = [*output.glob(".cache/*/record.json"), *output.glob("*/manifest.json")]
    return {path: path.stat().st_mtime_ns for path in files}


def test_what_two_recipes_need_is_made_once(whole: _Whole, recipes: list[Path]) -> None:
    assert whole.said.count(": training the model\n") == 1
    assert whole.said.count(": the trained model is in the cache") == 1  # waited for, or found
    assert "modelpress compare " in whole.said
    kept = {path.name for path in whole.output.iterdir()}
    assert kept == {".cache", "compare.html", *STAGES}


def test_side_by_side_gives_what_one_alone_gives(whole: _Whole, recipes: list[Path], tmp_path: Path) -> None:
    outcome = run(recipes[1], tmp_path)
    _assert_alike(outcome.directory, whole.output / "distilled")


def _moments(draw: random.Random, jobs: int, kills: int) -> list[Callable[[list[str]], bool]]:
    """Some numbers of lines, and once the end of a recipe."""
    most = 6 if jobs == 1 else 9

    def after(count: int) -> Callable[[list[str]], bool]:
        return lambda lines: len(lines) >= count

    moments = [after(draw.randint(1, most)) for _ in range(kills - 1)]
    return [*moments, lambda lines: any(line.startswith("accuracy ") for line in lines)]


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "kills"), [(1, 5), (2, 1), (2, 8)])
def test_a_batch_that_is_killed_does_what_is_missing_with_the_same_bits(
    whole: _Whole, recipes: list[Path], tmp_path: Path, jobs: int, kills: int
) -> None:
    draw = random.Random(10 * jobs + kills)
    for is_time in _moments(draw, jobs, kills):
        assert _Batch(recipes, tmp_path, jobs).kill_when(is_time, draw.uniform(0, 0.5))
    before = _finished(tmp_path)
    assert any(path.name == "manifest.json" for path in before)
    said = _Batch(recipes, tmp_path, jobs).said()
    after = _finished(tmp_path)
    assert {path: after[path] for path in before} == before
    done = sum(path.name == "manifest.json" for path in before)
    assert said.count("not repeated") == done
    assert "training the model" not in said
    for name in STAGES:
        _assert_alike(tmp_path / name, whole.output / name)
    assert not list((tmp_path / ".cache").glob("*.training"))
