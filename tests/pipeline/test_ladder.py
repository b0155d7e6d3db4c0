"""The ladder's files: one a stage, and what stands for a model that can't be exported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from compress.errors import ExportError
from compress.measure import Step
from compress.pipeline.cache import Cache
from compress.pipeline.exported import Exported
from compress.pipeline.prepare import prepare
from compress.pipeline.stages import Work, with_file
from compress.progress import Silent
from compress.recipe import load_recipe
from compress.report import Parity

STAGES_OF_RUN = import_module("compress.pipeline.stages")
NAMES = ["distill/logits", "prune/width", "prune/heads", "quantize/int8_dynamic"]
STAGES: list[Any] = [
    {"distill/logits": {"student": {"num_layers": 1}}},
    {"prune/width": {"width": 16}},
    {"prune/heads": {"sparsity": 0.5}},
    "quantize/int8_dynamic",
]
PARITY = Parity(
    rows=1,
    agreement=1.0,
    metric_difference=0.0,
    max_abs_error=0.0,
    min_agreement=0.98,
    max_metric_difference=0.02,
)


class _Listening(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        ([], [("original", 0), *((name, 1) for name in NAMES)]),
        ([1], [("original", 0), (NAMES[0], 1), ("prune/width + prune/heads", 2), (NAMES[3], 1)]),
        ([0, 1, 2], [("original", 0), (" + ".join(NAMES), 4)]),
    ],
)
def test_the_next_file_stands_for_stages_whose_models_cannot_be_exported(
    refused: list[int],
    expected: list[tuple[str, int]],
    write_recipe: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def exported(recipe: Any, module: Any, splits: Any, directory: Path) -> Exported:
        asked.append(index)
        if index in refused:
            raise ExportError("an operator is missing")
        path = directory / "model.onnx"
        path.write_bytes(b"ONNX")
        return Exported(path, PARITY)

    monkeypatch.setattr(STAGES_OF_RUN, "exported", exported)
    recipe, progress = load_recipe(write_recipe(tmp_path / "r.yaml", *STAGES)), _Listening()
    run = prepare(recipe, tmp_path, cache=Cache(tmp_path / "cache"), progress=progress)
    module, splits = run.loaded.module, run.splits
    for _ in range(2):  # what is in the cache is not made again; what failed is not there
        original = Step("original", tmp_path / "base.onnx", splits.validation, splits.task, stages=0)
        work = Work(module, splits, module, steps=(original,))
        for index in range(len(STAGES) - 1):
            work = with_file(run, work, index)
        steps = work.with_step(tmp_path / "last.onnx", len(NAMES), NAMES).steps
        assert [(step.name, step.stages) for step in steps] == expected
    assert sorted(asked) == sorted([0, 1, 2, *refused])
    said = [line for line in progress.lines if line.endswith("an operator is missing")]
    assert len(said) == 2 * len(refused)
    for line, index in zip(said, 2 * list(refused), strict=True):
        assert NAMES[index] in line
    pieces = [path for path in (tmp_path / "cache").iterdir() if path.name != "locks"]
    assert len(pieces) == 3 - len(refused)
