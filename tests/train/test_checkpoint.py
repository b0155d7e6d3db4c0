"""A checkpoint comes back as it was written, or not at all."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.data import Splits
from compress.keys import training_key
from compress.model import Definition
from compress.train import fit_
from compress.train.checkpoint import Checkpoints
from compress.train_config import TrainConfig

resource = pytest.importorskip("resource", reason="limits the size of files")

CONFIG = TrainConfig(epochs=2, batch_size=16, learning_rate=1e-3, precision="fp32")
STATE = {"weights": {"a": torch.arange(6.0).view(2, 3)}, "score": -float("inf"), "name": "x", "steps": [1, 2]}


def _checkpoints(folder: Path, key: str = "k") -> tuple[Checkpoints, list[str]]:
    said: list[str] = []
    return Checkpoints(folder, key, said.append), said


def test_what_was_saved_last_comes_back(tmp_path: Path) -> None:
    checkpoints, said = _checkpoints(tmp_path / "deep" / "er")
    assert checkpoints.load() is None
    checkpoints.save({"steps": 1})
    checkpoints.save(STATE)
    found = checkpoints.load()
    assert found is not None and not said
    assert torch.equal(found["weights"]["a"], STATE["weights"]["a"])
    assert (found["score"], found["name"], found["steps"]) == (-float("inf"), "x", [1, 2])
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["checkpoint.pt"]


def test_every_changed_byte_and_every_cut_is_noticed(tmp_path: Path) -> None:
    checkpoints, said = _checkpoints(tmp_path)
    checkpoints.save(STATE)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    tries = 0
    for at in range(0, len(whole), 23):
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        for content in (bytes(changed), whole[:at]):
            path.write_bytes(content)
            assert checkpoints.load() is None
            tries += 1
    assert len(said) == tries > 50
    assert all("checkpoint.pt is damaged" in line for line in said)


def test_that_of_another_training_is_not_used(tmp_path: Path) -> None:
    _checkpoints(tmp_path, "mine")[0].save(STATE)
    other, said = _checkpoints(tmp_path, "yours")
    assert other.load() is None
    assert len(said) == 1 and f"{tmp_path}/checkpoint.pt is from another training" in said[0]


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was-run"),)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"key": "k", "code": _Code()}, tmp_path / "checkpoint.pt")
    with (tmp_path / "checkpoint.pt").open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.write(digest)
    checkpoints, said = _checkpoints(tmp_path)
    assert checkpoints.load() is None and len(said) == 1
    assert not (tmp_path / "was-run").exists()
    pickle.loads(pickle.dumps(_Code()))
    assert (tmp_path / "was-run").exists()  # it would have been


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    checkpoints, _ = _checkpoints(tmp_path)
    checkpoints.save(STATE)
    (tmp_path / "checkpoint.pt.123.partial").write_bytes(b"half")
    assert checkpoints.load() is not None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("change", ["config", "rows", "weights", "seed"])
def test_the_key_is_of_all_that_a_training_depends_on(
    definition: Definition, splits: Splits, change: str
) -> None:
    def key(config: TrainConfig = CONFIG, train: Any = splits.train, build: int = 0, seed: int = 0) -> str:
        settings = config.model_dump(mode="json")
        return training_key(definition.build(seed=build), train, splits.validation, settings, seed=seed)

    changed = {
        "config": {"config": CONFIG.model_copy(update={"ema": 0.9})},
        "rows": {"train": splits.train.at(range(95, -1, -1))},
        "weights": {"build": 1},
        "seed": {"seed": 1},
    }
    assert key() == key() != key(**changed[change])


class _Said:
    """Progress that remembers its lines."""

    def __init__(self) -> None:
        from compress.progress import Silent

        self.lines: list[str] = []
        self.bar = Silent().bar

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_full_disk_does_not_stop_a_training(definition: Definition, splits: Splits, tmp_path: Path) -> None:
    results = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for folder in (None, tmp_path):
        module, progress = definition.build(), _Said()
        # No file may become larger: what a full disk does, and no other disk is needed for it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            fit_(
                module, splits.train, splits.validation, splits.task, CONFIG, folder=folder, progress=progress
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        results.append(module.state_dict())
    assert len(progress.lines) == 1, progress.lines  # two epochs: said once
    assert progress.lines[0].startswith(f"training: cannot write a checkpoint in {tmp_path}: File too large;")
    assert list(tmp_path.iterdir()) == []
    assert all(torch.equal(results[0][name], weight) for name, weight in results[1].items())
