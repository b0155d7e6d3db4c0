"""Pairs of runs, compared row by row on the same rows, and differences between recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.errors import OutputError
from compress.measure.answers import pack_answers
from compress.measure.results import Answers
from compress.report import Comparison, RunReport, compare_reports, sorted_by
from compress.report.compare.sections import comparison_page

MakeReport = Callable[..., RunReport]
LABELS = np.zeros(1_000, dtype=np.int64)


def with_answers(report: RunReport, wrong: Sequence[int], labels: Any = LABELS) -> RunReport:
    """The report of a model that is wrong on these rows."""
    classes = labels.copy()
    classes[list(wrong)] = 1
    packed = Answers(
        labels=pack_answers(labels), baseline=pack_answers(labels), candidate=pack_answers(classes)
    )
    measurement = report.measurement.model_copy(update={"answers": packed})
    return report.model_copy(update={"measurement": measurement})


@pytest.fixture
def runs(make_report: MakeReport) -> list[Any]:
    return [
        with_answers(make_report("a", file_mb=10.0), range(100)),
        with_answers(make_report("b", file_mb=20.0), range(160)),
        with_answers(make_report("c", file_mb=30.0), [*range(99), 500]),
    ]


@pytest.fixture
def compared(runs: list[Any]) -> Comparison:
    return compare_reports(runs)


def test_each_pair_is_compared_row_by_row(compared: Comparison) -> None:
    pairs = {(pair.one, pair.other): pair.difference for pair in compared.pairs}
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    ab = pairs["a", "b"]
    assert ab.value == pytest.approx(0.06) and ab.low > 0.04
    assert ab.agreement == 0.94 and ab.rows == 1_000
    ac = pairs["a", "c"]
    assert ac.value == 0 and ac.low < 0 < ac.high and ac.agreement == 0.998


def test_pages_say_which_run_is_better_only_if_it_is_measurable(compared: Comparison) -> None:
    for page in (compared.to_markdown(), compared.to_html()):
        assert "6.0 points higher (95 % interval" in page  # a against b
        assert "6.0 points lower (95 % interval" in page  # b against c
        assert "no measurable difference (0.0 points" in page  # a against c


def test_other_rows_old_reports_and_many_runs_are_left_out(make_report: MakeReport) -> None:
    old, here = make_report("old"), with_answers(make_report("here"), [1])
    there = with_answers(make_report("there", test_rows="t2"), [1])
    others = LABELS.copy()
    others[3] = 1
    relabelled = with_answers(make_report("relabelled"), [1], others)
    assert compare_reports([old, here, there, relabelled]).pairs == ()
    assert "Against each other" not in compare_reports([old, here]).to_html()
    many = [with_answers(make_report(f"r{i}"), [i]) for i in range(13)]
    assert len(compare_reports(many[:12]).pairs) == 66 and compare_reports(many).pairs == ()


def test_what_differs_in_the_recipes_is_listed_by_key(make_report: MakeReport) -> None:
    one = make_report("one")
    recipe = {**one.recipe, "data": {"source": "file", "max_length": 64}, "seed": 3}
    other = make_report("other", "int4", recipe=recipe)
    comparison = compare_reports([one, other])
    differs = {each.key: each.values for each in comparison.differs}
    assert differs["data.max_length"] == {"one": "128", "other": "64"}
    assert differs["seed"] == {"one": "–", "other": "3"}
    assert differs["stages"] == {"one": "prune/heads, quantize/int8", "other": "quantize/int4"}
    assert "data.source" not in differs and "name" not in differs
    assert "differs" in {x.key for x in comparison_page(comparison).sections}
    assert "data.max_length" in comparison.to_html()
    assert compare_reports([one]).differs == ()


def test_chosen_runs_are_compared_among_themselves(runs: list[Any], make_report: MakeReport) -> None:
    left = compare_reports(runs, "size_mb > 15")
    assert [(pair.one, pair.other) for pair in left.pairs] == [("b", "c")]
    many = [with_answers(make_report(f"r{i}", file_mb=10.0 + i), [i]) for i in range(13)]
    assert compare_reports(many).pairs == (), "of so many nobody reads the table"
    assert len(compare_reports(many, "size_mb > 19.5").pairs) == 3
    one = make_report("one", file_mb=10.0)
    others = [make_report(f"other{i}", file_mb=20.0, recipe={**one.recipe, "seed": 3}) for i in range(2)]
    assert [each.key for each in compare_reports([one, *others]).differs] == ["seed"]
    assert compare_reports([one, *others], "size_mb > 15").differs == ()
    (seed,) = sorted_by(compare_reports([one, *others]), "size_mb").differs
    assert seed.values == {"one": "–", "other0": "3", "other1": "3"}


def test_a_report_with_damaged_answers_is_refused_in_words(runs: list[Any], tmp_path: Path) -> None:
    text = runs[0].model_dump_json()
    answers = runs[0].measurement.answers
    for wrong in ("no base64!", pack_answers(LABELS[:5])):
        (tmp_path / "report.json").write_text(text.replace(answers.candidate, wrong))
        with pytest.raises(OutputError, match=r"not a valid report: measurement.answers"):
            compare_reports(tmp_path)
