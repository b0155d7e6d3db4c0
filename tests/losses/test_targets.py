"""What teachers answer and hold is kept once, row by row, and given back batch by batch."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.errors import StageError
from compress.losses import TargetPlace, Targets, Teaching, target_files, teacher_targets
from compress.losses.views import Watch, layer_paths
from compress.model.forward import logits, to_tensors
from compress.progress import Silent
from compress.tasks import ROW_INDEX_KEY


@dataclass
class Told(Silent):
    lines: list[str] = field(default_factory=list)

    def say(self, message: str) -> None:
        self.lines.append(message)


def _targets(
    model: nn.Module, splits: Splits, place: TargetPlace, *more: nn.Module, told: Told | None = None
) -> Targets:
    teaching = Teaching([model, *more], splits.train, splits.task, place, progress=told or Told())
    return teacher_targets(teaching, layer_paths(model))


def _batch(splits: Splits) -> dict[str, Any]:
    return list(splits.train.batches(8))[2]


@pytest.mark.parametrize("most_bytes", [4 << 30, 0])
def test_a_batch_gets_its_own_rows_states_kept_or_run(
    text_model: nn.Module, text_splits: Splits, tmp_path: Path, most_bytes: int
) -> None:
    batch = _batch(text_splits)
    inputs = to_tensors(batch, text_splits.task.input_names)
    assert int(inputs["attention_mask"].sum()) < inputs["attention_mask"].numel()  # there is padding
    place = TargetPlace(tmp_path, most_bytes)
    found = _targets(text_model, text_splits, place).at(inputs, torch.from_numpy(batch[ROW_INDEX_KEY]))
    with torch.no_grad(), Watch(text_model.eval(), layer_paths(text_model)) as watch:
        answers = logits(text_model, inputs)
        states = watch.take()
    # float32 sums in another order (other padding beside a row) and states in float16: 11 bits.
    torch.testing.assert_close(found["answers"], answers, rtol=1e-4, atol=1e-5)
    mask = inputs["attention_mask"].bool()
    for path, state in states.items():
        torch.testing.assert_close(found[path][mask], state[mask], rtol=1e-3, atol=1e-3)
        assert found[path].shape == state.shape
    assert any(tmp_path.glob("targets-*")) == (most_bytes > 0)


def test_the_teacher_is_asked_once_for_the_same_rows(
    model: nn.Module, splits: Splits, tmp_path: Path
) -> None:
    told = Told()
    _targets(model, splits, TargetPlace(tmp_path), told=told)
    (folder,) = tmp_path.glob("targets-*")
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = _targets(model, splits, TargetPlace(tmp_path), told=told)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    # 96 rows of 5 positions in two layers of 32 numbers of 2 bytes, and 3 answers of 4: 62.6 kB.
    assert "96 rows take 0.1 MB" in told.lines[0] and "in the cache" in told.lines[1]
    assert again.at({"features": torch.zeros(2, 5, 4)}, torch.tensor([5, 1]))["layers.0"].shape == (2, 5, 32)


def test_another_teacher_gets_a_place_of_its_own(model: nn.Module, splits: Splits, tmp_path: Path) -> None:
    _targets(model, splits, TargetPlace(tmp_path))
    with torch.no_grad():
        next(model.parameters()).add_(1)
    _targets(model, splits, TargetPlace(tmp_path))
    assert len(list(tmp_path.glob("targets-*"))) == 2


def test_targets_of_another_teacher_under_a_name_are_made_anew(
    model: nn.Module, splits: Splits, tmp_path: Path
) -> None:
    _targets(model, splits, TargetPlace(tmp_path))
    (folder,) = tmp_path.glob("targets-*")
    (folder / "record.json").write_text('{"key": "of another"}')
    np.save(folder / "answers.npy", np.zeros((96, 3), np.float32))
    told = Told()
    again = _targets(model, splits, TargetPlace(tmp_path), told=told)
    answers = again.at({"features": torch.zeros(1, 5, 4)}, torch.tensor([0]))["answers"]
    assert float(answers.abs().max()) > 0 and "take" in told.lines[0]


def test_the_answers_of_several_teachers_are_averaged(
    model: nn.Module, splits: Splits, tmp_path: Path
) -> None:
    class Second(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 9.0, 0.0]]).expand(len(features), 3)

    batch = _batch(splits)
    inputs, rows = to_tensors(batch, ("features",)), torch.from_numpy(batch[ROW_INDEX_KEY])
    both = _targets(model, splits, TargetPlace(tmp_path), Second()).at(inputs, rows)["answers"]
    with torch.no_grad():
        mean = (model(inputs["features"]) + torch.tensor([[0.0, 9.0, 0.0]])) / 2
    torch.testing.assert_close(both, mean, rtol=1e-5, atol=1e-5)  # float32, sums in another order


def test_states_that_are_large_are_kept_in_float32(model: nn.Module, splits: Splits, tmp_path: Path) -> None:
    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud = nn.Linear(4, 2)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.loud(features * 1e6).sum(1)

    loud = Loud()
    found = teacher_targets(Teaching([loud], splits.train, splits.task, TargetPlace(tmp_path)), ["loud"])
    features = torch.from_numpy(splits.train.rows[7]["features"])[None]
    state = found.at({"features": features}, torch.tensor([7]))["loud"]
    # float32 products of a batch of another size
    torch.testing.assert_close(state, loud.loud(features * 1e6), rtol=1e-5, atol=1e-2)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    model: nn.Module, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(target_files, "_store", full)
    with pytest.raises(StageError, match="teacher's outputs.*: No space left on device"):
        _targets(model, splits, TargetPlace(tmp_path))
    assert not list(tmp_path.glob("targets-*"))


def test_a_teacher_that_answers_no_number_is_refused(
    model: nn.Module, splits: Splits, tmp_path: Path
) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(StageError, match="teacher's output.*NaN"):
        _targets(model, splits, TargetPlace(tmp_path))


def test_a_place_without_positions_is_refused(model: nn.Module, splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"\[32, 3\].*of 5 positions"):
        teacher_targets(Teaching([model], splits.train, splits.task, TargetPlace(tmp_path)), ["classifier"])
