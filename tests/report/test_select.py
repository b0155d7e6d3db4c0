"""Choosing among runs: conditions are parsed, never executed; only comparable figures are chosen by."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import pytest

from compress.errors import NotReachedError, RecipeError
from compress.report import (
    Comparison,
    RunReport,
    best_run,
    compare_reports,
    comparison_csv,
    sorted_by,
)

MakeReport = Callable[..., RunReport]


@pytest.fixture
def runs(make_report: MakeReport) -> list[RunReport]:
    return [
        make_report("exact", speedup=(1.5, 1.4, 1.6), difference=(0.0, -0.004, 0.004), file_mb=120.0),
        make_report("fast", speedup=(4.0, 3.8, 4.2), difference=(-0.02, -0.035, -0.006), file_mb=40.0),
        make_report("small", speedup=(0.9, 0.8, 1.0), difference=(-0.004, -0.012, 0.003), file_mb=20.0),
    ]


@pytest.fixture
def comparison(runs: list[RunReport]) -> Comparison:
    return compare_reports(list(runs))


def names(comparison: Comparison) -> list[str]:
    return [row.name for row in comparison.rows]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("speedup > 1.5", ["fast"]),
        ("speedup >= 1.5", ["exact", "fast"]),
        ("speedup>1 and size_mb<100", ["fast"]),
        ("worst_drop <= 0.012 and size_mb < 1e2", ["small"]),
        ("drop = 0", ["exact"]),
        ("drop == 0", ["exact"]),
        ("drop != 0", ["fast", "small"]),
        ("accuracy < 0", []),
    ],
)
def test_conditions_keep_the_runs_that_meet_them(runs: list[Any], where: str, expected: list[str]) -> None:
    found = compare_reports(runs, where)
    assert names(found) == ["baseline", *expected]
    assert any(where in note for note in found.notes)


def test_the_best_is_marked_among_the_selected_runs(runs: list[Any]) -> None:
    left = compare_reports(runs, "size_mb > 30")
    marked = {row.name for row in left.rows if "file_bytes" in row.best}
    assert marked == {"fast"}, "small, the smallest, is gone"


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("__import__('os').system('touch hacked')", "is not a condition"),
        ("speedup", "'speedup' is not a condition"),
        ("speedup > 2 or drop < 1", "is not a condition"),
        ("speedup > fast", "'fast' in 'speedup > fast' is not a number"),
        ("speed > 2", "unknown column 'speed'; did you mean 'speedup'"),
        ("speedup > 2 and", "'' is not a condition"),
        ("", "'' is not a condition"),
    ],
)
def test_invalid_conditions_are_refused_before_reports_are_read(where: str, words: str) -> None:
    with pytest.raises(RecipeError, match="--where") as error:
        compare_reports("/nowhere", where)
    assert words in str(error.value)


def test_sorting_puts_the_best_first(comparison: Comparison) -> None:
    assert names(sorted_by(comparison, "speedup")) == ["baseline", "fast", "exact", "small"]
    assert names(sorted_by(comparison, "size_mb")) == ["baseline", "small", "fast", "exact"]
    assert names(sorted_by(comparison, "worst_drop")) == ["baseline", "exact", "small", "fast"]
    with pytest.raises(RecipeError, match=r"--sort: unknown column 'sped'; did you mean 'speedup'"):
        sorted_by(comparison, "sped")


def test_the_best_is_named_within_a_proven_drop(comparison: Comparison) -> None:
    assert best_run(comparison, "size").name == "small"
    assert best_run(comparison, "speed").name == "fast"
    assert best_run(comparison, "accuracy").name == "exact"
    assert best_run(comparison, "speed", 0.034).name == "exact", "fast may have lost 3.5 points"
    assert best_run(comparison, "size", 0.012).name == "small"
    with pytest.raises(NotReachedError, match=r"no run is proven.*0\.0040"):
        best_run(comparison, "size", 0.003)


def test_figures_that_are_not_comparable_are_not_chosen(make_report: MakeReport) -> None:
    here: list[Any] = [make_report("slow"), make_report("also")]
    there = make_report("there", machine="m2", speedup=(9.0, 8.0, 10.0))
    comparison = compare_reports([there, *here])
    assert best_run(comparison, "speed").name in ("slow", "also")
    assert "there" not in names(compare_reports([there, *here], "speedup > 0"))
    assert names(sorted_by(comparison, "speedup"))[-1] == "there"


def test_csv_has_raw_figures_and_names_columns_that_are_not_comparable(make_report: MakeReport) -> None:
    runs = [make_report("a,b", file_mb=72.0), make_report("c"), make_report("d", machine="m2")]
    rows = list(csv.DictReader(comparison_csv(compare_reports(runs)).splitlines()))
    assert [row["run"] for row in rows] == ["baseline", "a,b", "c", "d"]
    assert float(rows[1]["size_mb"]) == 72.0 and float(rows[1]["worst_drop"]) == pytest.approx(0.011)
    assert rows[0]["drop"] == "" and rows[3]["not_comparable"] == "p50_ms speedup"
