"""A module that branches on values is refused before it is trained: by file and line, with what to write."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from compress.data import from_arrays
from compress.errors import ExportError
from compress.export import check_branches
from compress.model import Definition
from compress.pipeline import run

MODULE = """\
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.classifier = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, features):
        x = self.embed(features)
        BRANCH
        return self.classifier(x.relu())
"""
RECIPE = """\
# modelpress run own.yaml
# A model of one's own.
model: {file: models/own.py, builder: Model, train: {epochs: 1, batch_size: 8}}
data: {source: arrays, train: rows.npz}
stages:
  - quantize/int8_dynamic
"""


def _rows() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"features": draw.normal(size=(60, 3)), "labels": np.arange(60) % 2}


def _write(folder: Path, line: str) -> Path:
    (folder / "models").mkdir()
    (folder / "models/own.py").write_text(MODULE.replace("BRANCH", line.replace("\n", "\n        ")))
    return folder / "models/own.py"


def _check(folder: Path, line: str) -> None:
    module = Definition.from_file(_write(folder, line), "Model", {}).build()
    data = from_arrays(_rows(), {name: each[:4] + 7 * (name != "labels") for name, each in _rows().items()})
    check_branches(module, data.train, data.task)


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("if x.sum() > 0:\n    x = x * 2", "own.py:12, `if x.sum() > 0:`, "),
        ("for row in range(x.argmax()):\n    x = x + row", "own.py:12, `for row in range(x.argmax()):`, "),
    ],
)
def test_a_branch_on_values_is_named_by_its_line(tmp_path: Path, line: str, where: str) -> None:
    with pytest.raises(ExportError) as caught:
        _check(tmp_path, line)
    said = str(caught.value)
    assert said.startswith(f"Model cannot be exported to ONNX: {where}takes one way or another by the values")
    assert "torch.where" in said and "torch.cond" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("line", ["x = torch.where(x.sum() > 0, x * 2, x)", "x = x[: max(int(len(x)), 1)]"])
def test_what_a_graph_can_do_is_no_branch(tmp_path: Path, line: str) -> None:
    _check(tmp_path, line)


def test_a_recipe_with_such_a_model_ends_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, "if x.sum() > 0:\n    x = x * 2")
    np.savez(tmp_path / "rows.npz", **_rows())
    (tmp_path / "own.yaml").write_text(RECIPE)
    monkeypatch.setattr(
        sys.modules["compress.pipeline.run"], "fit_", lambda *_, **__: pytest.fail("was trained")
    )
    with pytest.raises(ExportError, match=r"own\.py:12, `if x\.sum\(\) > 0:`"):
        run(tmp_path / "own.yaml", tmp_path / "reports")
