"""A run that is killed again and again ends with the bits of one that was let be, and leaves no litter."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from compress.export import broken_seals, read_manifest

TRAIN = {"batch_size": 32, "learning_rate": 3e-3, "precision": "fp32"}
STAGES = [
    {"distill/logits": {"student": {"num_layers": 1}, "train": {**TRAIN, "epochs": 5, "ema": 0.99}}},
    {"prune/magnitude": {"sparsity": 0.5, "schedule": "cubic", "recovery": {**TRAIN, "epochs": 8}}},
    "quantize/int8_dynamic",
]


def _start(recipe: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "compress", "run", str(recipe), "-o", str(output), "--overwrite"]
    temporary = output.with_name(f"{output.name}-tmp")
    temporary.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
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


def _ended_after(checkpoints: int, process: subprocess.Popen[str], cache: Path, number: int) -> int:
    """End a run by a signal once it has written so many checkpoints, and return its exit code."""
    seen = _checkpoint_times(cache)
    enough, deadline = len(seen) + checkpoints, time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        seen |= _checkpoint_times(cache)
        if len(seen) >= enough:
            break
        time.sleep(0.002)
    process.send_signal(number)
    process.communicate()
    return process.returncode


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize(
    "signals",
    [("SIGKILL", "SIGTERM"), pytest.param(("SIGKILL", "SIGTERM", "SIGHUP"), marks=pytest.mark.slow)],
)
def test_a_run_that_is_killed_at_random_ends_with_the_same_bits(
    tmp_path: Path, write_recipe: Callable[..., Path], signals: tuple[str, ...]
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
    for name in signals:  # one a run
        checkpoints = draw.randint(3, 8)  # 6, 6 and 3 of 21 epochs: in each of the three trainings
        number = getattr(signal, name)
        code = _ended_after(checkpoints, _start(recipe, output), output / ".cache", number)
        assert code == (-number if name == "SIGKILL" else 128 + number)
        if name != "SIGKILL":
            assert _litter(output) == []
    last = _start(recipe, output)
    for process in (last, whole):
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
        assert ("resuming at epoch" in said) == (process is last), said
    files = [tmp_path / name / "killed" / "pytorch" / "model.safetensors" for name in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list((output / ".cache").glob("*.training"))
    assert _litter(output) == []


def _litter(output: Path) -> list[Path]:
    """What is unfinished in the output, the cache and the temporary folder (torch keeps caches there)."""
    temporary = output.with_name(f"{output.name}-tmp")
    hidden = [*output.glob(".*"), *(output / ".cache").glob(".*")]
    return [*(path for path in hidden if path.name != ".cache"), *temporary.glob("modelpress*")]


def _processes(output: Path) -> list[psutil.Process]:
    """Those whose temporary folder is this run's."""
    temporary, found = str(output.with_name(f"{output.name}-tmp")), []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == temporary and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_however_often_it_is_killed_nothing_is_left(
    tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", "quantize/int8_dynamic", name="r")
    draw, output = random.Random(0), tmp_path / "out"
    began = time.monotonic()
    whole = _start(recipe, output)
    assert whole.wait(600) == 0
    longest = time.monotonic() - began
    for turn in range(25):
        process = _start(recipe, output)
        time.sleep(draw.uniform(0, longest))
        process.send_signal((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)[turn % 3])
        process.communicate()
        deadline = time.monotonic() + 30
        while _processes(output) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _processes(output) == []  # the measuring process ends with the one that started it
        bundle = output / "r"
        assert broken_seals(bundle, read_manifest(bundle)) == []
    last = _start(recipe, output)
    said, _ = last.communicate(timeout=600)
    assert last.returncode == 0, said
    assert _litter(output) == []
