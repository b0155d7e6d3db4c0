"""A recipe with a promised speed-up, from the table to the report, on a real clock; no time is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compress.errors import RecipeError
from compress.pipeline import run
from compress.pipeline.cache import Cache
from compress.recipe import load_recipe
from compress.recipe.config import ExportConfig

STAGE: dict[str, Any] = {
    "speedup": 1.4,  # more than noise makes of two timings of one small file
    "batch": 2,
    "threads": 1,
    "calibration_rows": 32,
    "search_rows": 16,
    "search_steps": 3,
}


def test_a_promise_is_measured_reported_and_its_table_kept(
    write_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How far layers and whole files agree is a matter of time, and of what else runs on this machine.
    monkeypatch.setattr("compress.prune.structured.latency_table._AGREES_WITHIN", float("inf"))
    monkeypatch.setattr("compress.prune.structured.latency_table._QUIET_AGREES_WITHIN", float("inf"))
    # Beside other tests no round is quiet: timing again would take a minute for each figure.
    monkeypatch.setattr("compress.measure.latency._MOST_AGAIN_S", 0)
    # Each further try exports and times another model; tests/prune has what comes of several.
    monkeypatch.setattr("compress.prune.structured.cut_job._TRIES", 2)
    outcome = run(write_recipe(tmp_path / "r.yaml", {"prune/structured": STAGE}), tmp_path / "out")
    facts = outcome.report.stages[0].facts
    table = facts["latency_table"]
    assert table["point"] == {"batch": 2, "sequence": 16, "threads": 1} and table["precision"] == "fp32"
    assert {times["kind"] for times in table["kinds"]} == {"attention", "feed_forward"}
    assert all(times["ms"] == sorted(times["ms"]) for times in table["kinds"])
    assert facts["checked"]["speedup"] > 0 and facts["point"]["precision"] == "fp32"
    assert sum(site["kept"] for site in facts["sites"]) < sum(site["before"] for site in facts["sites"])
    text = (outcome.directory / "report.md").read_text(encoding="utf-8")
    assert "Target and measurement" in text
    assert facts["checked"]["disturbed_rounds"] <= facts["checked"]["rounds"] and table["rounds"] == 9
    assert outcome.report.promise in ("kept", "missed", "unknown")


def test_a_table_of_another_machine_is_refused_and_measured_again(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from dataclasses import replace

    from compress.pipeline import timer as module
    from compress.progress import Silent

    said: list[str] = []

    class Listening(Silent):
        def say(self, message: str) -> None:
            said.append(message)

    class HereTimer(module.OnnxTimer):
        @property
        def machine(self) -> dict[str, str]:
            return {"cpu": "here"}

    class ThereTimer(module.OnnxTimer):
        @property
        def machine(self) -> dict[str, str]:
            return {"cpu": "there"}

    recipe, baseline = load_recipe(write_recipe(tmp_path / "r.yaml")), tmp_path / "model.onnx"
    baseline.write_bytes(b"graph")
    prepared: Any = SimpleNamespace(recipe=recipe, cache=Cache(tmp_path), progress=Listening())
    parts: tuple[Any, ...] = (prepared, None, baseline, (), None)
    there, here = ThereTimer(*parts), HereTimer(*parts)
    assert replace(there).remembered("model", lambda: {"ms": 1}) == {"ms": 1}
    assert here.remembered("model", lambda: {"ms": 2}) == {"ms": 2}
    assert len(said) == 1 and "cpu" in said[0]
    assert here.remembered("model", lambda: {"ms": 3}) == {"ms": 2}
    assert json.loads(next(tmp_path.glob("*/record.json")).read_text())["machine"] == {"cpu": "here"}


def test_a_table_that_was_timed_beside_other_work_is_measured_again(tmp_path: Path) -> None:
    from compress.pipeline import timer as module
    from compress.progress import Silent

    class HereTimer(module.OnnxTimer):
        @property
        def machine(self) -> dict[str, str]:
            return {"cpu": "here"}

    recipe = SimpleNamespace(export=ExportConfig())
    prepared: Any = SimpleNamespace(recipe=recipe, cache=Cache(tmp_path), progress=Silent())
    (tmp_path / "model.onnx").write_bytes(b"baseline")
    nothing: Any = None
    timer = HereTimer(prepared, nothing, tmp_path / "model.onnx", (), nothing)
    first = {"ms": 1, "disturbed_rounds": 3}
    assert timer.remembered("model", lambda: first) == first
    assert timer.remembered("model", lambda: {"ms": 2, "disturbed_rounds": 0})["ms"] == 2
    assert timer.remembered("model", lambda: {"ms": 3, "disturbed_rounds": 0})["ms"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 4096}, "threads: 4096"),
        ({"sequence": 8}, r"measure\.sequence: 8"),
    ],
)
def test_a_point_that_cannot_be_timed_is_refused_before_work(
    write_recipe: Callable[..., Path], tmp_path: Path, change: dict[str, int], message: str
) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml", {"prune/structured": {**STAGE, **change}}))
    with pytest.raises(RecipeError, match=message):
        run(recipe, tmp_path / "out")
    assert not (tmp_path / "out" / recipe.run_name).exists()


def test_what_follows_is_part_of_what_a_size_or_a_time_is_kept_by(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from compress.pipeline.prepare import prepare

    def keys(budget: dict[str, float]) -> set[str]:
        stage = {"prune/structured": budget}
        files = [
            write_recipe(tmp_path / "float.yaml", stage),
            write_recipe(tmp_path / "int8.yaml", stage, "quantize/int8_dynamic"),
        ]
        return {prepare(load_recipe(file), tmp_path).keys.stages[0] for file in files}

    assert [len(keys(budget)) for budget in ({"macs": 0.5}, {"size_mb": 0.1}, {"speedup": 1.5})] == [1, 2, 2]
