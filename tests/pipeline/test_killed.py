"""A run that is killed again and again ends with the bits of one that was let be."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

KILLS = 3
TRAIN = {"batch_size": 32, "learning_rate": 3e-3, "precision": "fp32"}
STAGES = [
    {"distill/logits": {"student": {"num_layers": 1}, "train": {**TRAIN, "epochs": 12, "ema": 0.99}}},
    {"prune/magnitude": {"sparsity": 0.5, "schedule": "cubic", "recovery": {**TRAIN, "epochs": 20}}},
    "quantize/int8_dynamic",
]


def _start(recipe: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "compress", "run", str(recipe), "-o", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def _checkpoint_times(cache: Path) -> set[tuple[str, int]]:
    found = set()
    for folder, _, names in os.walk(cache):  # unlike glob, it passes over what is removed meanwhile
        path = Path(folder) / "checkpoint.pt"
        if path.name not in names or ".training" not in folder:
            continue
        try:
            found.add((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:  # the stage was finished between the two
            continue
    return found


def _killed_after(checkpoints: int, process: subprocess.Popen[str], cache: Path) -> bool:
    """Kill a run once it has written so many checkpoints; false if it ended before."""
    seen = _checkpoint_times(cache)
    enough, deadline = len(seen) + checkpoints, time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        seen |= _checkpoint_times(cache)
        if len(seen) >= enough:
            break
        time.sleep(0.002)
    process.kill()  # SIGKILL
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_run_that_is_killed_at_random_ends_with_the_same_bits(
    tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    model = {
        "file": str(Path(__file__).parents[2] / "models" / "transformer.py"),
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
        "train": {**TRAIN, "epochs": 8, "accumulate": 2},
    }
    recipe = write_recipe(tmp_path / "killed.yaml", *STAGES, model=model, name="killed")
    whole = _start(recipe, tmp_path / "whole")  # meanwhile
    draw, output = random.Random(0), tmp_path / "killed"
    for _ in range(KILLS):
        checkpoints = draw.randint(3, 13)  # there are 40 epochs: it is never at the end
        assert _killed_after(checkpoints, _start(recipe, output), output / ".cache")
    last = _start(recipe, output)
    for process in (last, whole):
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
        assert ("resuming at epoch" in said) == (process is last), said
    files = [tmp_path / name / "killed" / "pytorch" / "model.safetensors" for name in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list((output / ".cache").glob("*.training"))
