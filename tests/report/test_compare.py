from __future__ import annotations

import io
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from compress.errors import OutputError
from compress.page import Bullets, Chart, Row, Section, Table, Text
from compress.report import (
    Comparison,
    ComparisonRow,
    RunReport,
    best_run,
    compare_reports,
    write_reports,
)
from compress.report.compare.sections import comparison_page

MakeReport = Callable[..., RunReport]


def _row(comparison: Comparison, name: str) -> ComparisonRow:
    return next(row for row in comparison.rows if row.name == name)


def _printed(comparison: Comparison, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(comparison.to_table())
    return capture.get()


def test_best_of_each_column_is_marked_among_baseline_and_candidates(
    int8: RunReport, int4: RunReport, sparse: RunReport
) -> None:
    comparison = compare_reports([int8, int4, sparse])
    assert [row.name for row in comparison.rows] == ["baseline", "int8", "int4", "sparse"]
    assert _row(comparison, "baseline").best == ("accuracy",)
    assert _row(comparison, "int8").best == ("p50_ms", "speedup")
    assert _row(comparison, "int4").best == ("file_bytes", "gzip_bytes", "smaller", "peak_memory_bytes")
    assert _row(comparison, "sparse").best == ()
    assert [row.name for row in comparison.rows if row.on_front] == ["baseline", "int8"]


def test_the_front_is_that_of_its_definition_on_many_drawn_runs(make_report: MakeReport) -> None:
    """No other row is as fast and as accurate, and better in one; many are equal in both or in one."""
    draw = random.Random(0)
    runs = [
        make_report(
            f"r{i}",
            speedup=(speed := draw.choice([1.0, 1.5, 2.0, 3.0, 4.0]), speed, speed),
            difference=(drop := draw.choice([-0.03, -0.02, -0.01, 0.0, 0.01]), drop, drop),
        )
        for i in range(40)
    ]
    rows = compare_reports(runs).rows

    def beats(one: ComparisonRow, other: ComparisonRow) -> bool:
        mine, theirs = (one.accuracy, -(one.p50_ms or 0)), (other.accuracy, -(other.p50_ms or 0))
        return mine != theirs and mine[0] >= theirs[0] and mine[1] >= theirs[1]

    for row in rows:
        assert row.on_front == (not any(beats(other, row) for other in rows)), row.name


def test_figures_that_are_displayed_equal_tie(make_report: MakeReport) -> None:
    comparison = compare_reports(
        [make_report("a", speedup=(2.1, 2.0, 2.2)), make_report("b", speedup=(2.11, 2.0, 2.2))]
    )
    assert "speedup" in _row(comparison, "a").best and "speedup" in _row(comparison, "b").best


def test_run_on_another_machine_is_flagged_and_left_out_of_latency_only(make_report: MakeReport) -> None:
    here = [make_report("slow", speedup=(1.5, 1.4, 1.6)), make_report("also", speedup=(1.4, 1.3, 1.5))]
    comparison = compare_reports([make_report("there", machine="m2", speedup=(9.0, 8.0, 10.0)), *here])
    there = _row(comparison, "there")
    assert there.not_comparable == ("p50_ms", "speedup")
    assert "another environment (Example CPU m2)" in there.flags[0]
    assert not {"p50_ms", "speedup"} & set(there.best) and "file_bytes" in there.best
    assert _row(comparison, "slow").best[:2] == ("p50_ms", "speedup")
    assert _row(comparison, "baseline").stages == "fp32, of slow"


def test_run_on_other_test_rows_is_flagged_and_left_out_of_accuracy_only(
    int8: RunReport, make_report: MakeReport
) -> None:
    comparison = compare_reports([int8, make_report("other", test_rows="t2", difference=(0.05, 0.04, 0.06))])
    other = _row(comparison, "other")
    assert other.not_comparable == ("accuracy",)
    assert "other test rows" in other.flags[0]
    assert "accuracy" in _row(comparison, "baseline").best and "p50_ms" in other.best


def test_run_with_another_baseline_is_left_out_of_ratios(int8: RunReport, make_report: MakeReport) -> None:
    model = int8.model.model_copy(update={"parameters": 1})
    comparison = compare_reports([int8, make_report("other", model=model)])
    assert _row(comparison, "other").not_comparable == ("speedup", "smaller")


def test_setting_that_a_run_did_not_measure_is_flagged(int8: RunReport, make_report: MakeReport) -> None:
    measurement = int8.measurement.model_copy(update={"latency": int8.measurement.latency[1:]})
    later = compare_reports([int8, make_report("later", measurement=measurement)])
    assert _row(later, "later").p50_ms is None
    assert "not measured at this batch" in _row(later, "later").flags[0]
    assert later.setting == "batch 1, sequence 128, 1 thread"
    later.to_html()
    later.to_markdown()


def test_a_baseline_that_drifted_between_runs_is_noted(int8: RunReport, make_report: MakeReport) -> None:
    assert not compare_reports([int8]).notes
    (note,) = compare_reports([int8, make_report("hot", base_ms=20.0)]).notes
    assert "from 12.3 ms to 20.0 ms" in note


def test_folder_is_searched_one_level_deep_and_hidden_folders_are_ignored(
    int8: RunReport, int4: RunReport, tmp_path: Path
) -> None:
    for report, where in ((int8, "int8"), (int4, "int4"), (int8, ".cache"), (int8, "deep/er")):
        (tmp_path / where).mkdir(parents=True)
        report.save(tmp_path / where / "report.json")
    (tmp_path / "empty").mkdir()
    names = [row.name for row in compare_reports([tmp_path]).rows]
    assert names == ["baseline", "int4", "int8"]
    same = compare_reports([tmp_path / "int4", tmp_path / "int8" / "report.json", str(tmp_path)])
    assert [row.name for row in same.rows] == names


def test_broken_report_in_a_folder_is_noted_but_a_named_one_refused(int8: RunReport, tmp_path: Path) -> None:
    write_reports(int8, tmp_path / "int8")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "report.json").write_text("{")
    comparison = compare_reports([tmp_path])
    assert len(comparison.rows) == 2 and "invalid JSON" in comparison.notes[0]
    with pytest.raises(OutputError, match="invalid JSON"):
        compare_reports([tmp_path / "broken"])


def test_nothing_to_compare_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no report to compare in .*; give run directories"):
        compare_reports([tmp_path])
    with pytest.raises(OutputError, match="nothing given"):
        compare_reports([])
    with pytest.raises(OutputError, match=r"no report\.json here"):
        compare_reports([tmp_path / "missing"])


def test_runs_of_one_name_are_distinguished_by_their_parent_folder(int8: RunReport, tmp_path: Path) -> None:
    for where in ("monday", "tuesday"):
        write_reports(int8, tmp_path / where / "int8")
    comparison = compare_reports([tmp_path / "monday", tmp_path / "tuesday"])
    assert [row.name for row in comparison.rows[1:]] == ["monday/int8", "tuesday/int8"]
    assert [row.name for row in compare_reports([int8, int8]).rows[1:]] == ["int8", "int8 (2)"]


def test_comparison_survives_json(int8: RunReport, int4: RunReport) -> None:
    comparison = compare_reports([int8, int4])
    assert Comparison.model_validate_json(comparison.to_json()) == comparison


@pytest.mark.parametrize("width", [80, 100])
def test_terminal_table_fits_and_keeps_every_figure(
    width: int, int8: RunReport, int4: RunReport, make_report: MakeReport
) -> None:
    named = make_report("a-rather-long-name-of-a-run [red]", machine="m2")
    text = _printed(compare_reports([int8, int4, named]), width)
    assert max(map(len, text.splitlines())) <= width
    for figure in ("91.2 %*", "−1.1 to +0.7", "5.86*", "2.0 to 2.2", "0.87x", "44.0*", "5.86†", "88.0*"):
        assert figure in text
    assert "…" not in text and "red" in text


def test_pages_have_the_flags_and_verdicts_of_all_runs(
    int8: RunReport, int4: RunReport, make_report: MakeReport
) -> None:
    comparison = compare_reports([int8, int4, make_report("there", machine="m2")])
    sections = {x.key: x for x in comparison_page(comparison).sections}
    (doubts,) = (x for x in sections["doubts"].parts if isinstance(x, Bullets))
    (flag,) = _row(comparison, "there").flags
    assert doubts.lines == (f"there: {flag}.",)
    (verdicts,) = (x for x in sections["verdicts"].parts if isinstance(x, Table))
    assert verdicts.rows == tuple((x.name, x.verdict) for x in comparison.rows if not x.is_baseline)
    by_latency, by_size = _captions(comparison)
    assert "there" in by_latency and "there" not in by_size  # not drawn


def _charts(comparison: Comparison) -> Section:
    (section,) = (x for x in comparison_page(comparison).sections if x.key == "charts")
    return section


def _captions(comparison: Comparison) -> list[str]:
    """What HTML says below each chart."""
    row = next(part for part in _charts(comparison).parts if isinstance(part, Row))
    return [part.caption for part in row.parts if isinstance(part, Chart)]


def _numbered(comparison: Comparison) -> dict[str, str]:
    """Names by number, as listed below the charts; empty if the charts show names."""
    notes = [x.text for x in _charts(comparison).parts if isinstance(x, Text) and x.style == "note"]
    return {} if len(notes) < 2 else dict(re.findall(r"(\d+) ([\w-]+)[,.]", notes[0]))


def test_a_chart_of_many_runs_uses_numbers_and_lists_their_names(make_report: MakeReport) -> None:
    runs = [
        make_report(f"run-{i}", speedup=(1 + i, 1 + i, 1 + i), difference=(-0.001 * i, -0.02, 0.01))
        for i in range(12)
    ]
    many = compare_reports(runs)
    assert ">1</text>" in many.to_html() and ">run-1</text>" not in many.to_html()
    assert _numbered(many)["12"] == "run-11"
    few = compare_reports(runs[:3])
    assert few.to_html().count(">run-1</text>") == 2  # over latency and over size
    assert _numbered(few) == {}


def test_names_that_would_cross_anything_give_way_to_numbers(make_report: MakeReport) -> None:
    runs = [make_report(f"a-name-of-thirty-characters-{i:02}") for i in range(6)]  # all at one point
    crowded = compare_reports(runs)
    assert _numbered(crowded)["6"] == "a-name-of-thirty-characters-05"


def test_of_very_many_runs_only_the_front_is_numbered(make_report: MakeReport) -> None:
    runs = [make_report(f"run-{i}", difference=(-0.001 * i, -0.02, 0.01)) for i in range(50)]
    comparison = compare_reports(runs)
    on_front = {row.name for row in comparison.rows if row.on_front or row.on_size_front or row.is_baseline}
    assert set(_numbered(comparison).values()) == on_front and len(on_front) < 50


def test_points_have_tooltips_and_links_to_the_reports(make_report: MakeReport, tmp_path: Path) -> None:
    for name in ("a&b c", "plain"):
        write_reports(make_report(name), tmp_path / "runs" / name)
    comparison = compare_reports(tmp_path / "runs")
    page = comparison.to_html(tmp_path / "pages")
    assert page.count('href="../runs/a%26b%20c/report.html"') == 3  # its name, and a point in each picture
    assert "<title>a&amp;b c: " in page and "<title>baseline: " in page
    assert (tmp_path / "runs").as_uri() not in page and (tmp_path / "runs").as_uri() in comparison.to_html()
    (tmp_path / "runs" / "plain" / "report.html").unlink()
    assert "plain/report.html" not in compare_reports(tmp_path / "runs").to_html(tmp_path / "pages")


def test_the_front_over_size_is_of_size(int8: RunReport, int4: RunReport) -> None:
    small = min((int8, int4), key=lambda x: x.measurement.candidate.size.file_bytes)
    rows = {row.name: row for row in compare_reports([int8, int4]).rows}
    assert rows[small.name].on_size_front
    less_accurate = rows[int4.name].accuracy < rows[int8.name].accuracy
    assert less_accurate and not rows[int4.name].on_front  # slower and less accurate, and yet smaller


def test_language_models_are_ranked_by_perplexity(make_report: MakeReport, of_language: MakeReport) -> None:
    # b names more tokens right, and gives the right ones less probability.
    runs = [
        of_language(make_report("a", difference=(-0.01, -0.02, 0.0), file_mb=90.0), 21.0),
        of_language(make_report("b", difference=(0.01, 0.0, 0.02), file_mb=80.0), 30.0),
    ]
    comparison = compare_reports(list(runs))
    assert (comparison.test_rows, comparison.test_tokens) == (10, 1_000)
    assert (comparison.units, comparison.unit) == (1_000, "token")
    assert [row.perplexity for row in comparison.rows] == [20.0, 21.0, 30.0]
    assert [row.perplexity_ratio and row.perplexity_ratio.value for row in comparison.rows] == [
        None,
        pytest.approx(1.05),
        1.5,
    ]
    assert "perplexity" in _row(comparison, "baseline").best
    assert not any("accuracy" in row.best for row in comparison.rows)
    assert best_run(comparison, "accuracy").name == "a"
    kept = compare_reports(list(runs), "worst_perplexity_ratio < 1.1")
    assert [row.name for row in kept.rows] == ["baseline", "a"]
    assert [row.name for row in comparison.rows if row.on_size_front] == ["baseline", "a", "b"]
    worse_and_larger = of_language(make_report("c", difference=(0.01, 0.0, 0.02), file_mb=100.0), 30.0)
    assert not _row(compare_reports([*runs, worse_and_larger]), "c").on_size_front
    assert Comparison.model_validate_json(comparison.to_json()) == comparison
    for shown in (comparison.to_markdown(), comparison.to_html(), _printed(comparison, 80)):
        assert "perplexity" in shown.lower() and "21.000" in shown
    assert max(map(len, _printed(comparison, 80).splitlines())) <= 80


def test_a_comparison_of_classifiers_has_no_perplexity(int8: RunReport, int4: RunReport) -> None:
    comparison = compare_reports([int8, int4])
    assert comparison.test_tokens is None and "perplexity" not in comparison.columns
    assert "perplexity" not in comparison.to_markdown() + comparison.to_html()
