"""Runs against each other: row by row on the same rows, and what differs in their recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from compress.measure.answers import pack_classes
from compress.measure.results import Answers
from compress.report import Comparison, RunReport, compare_reports, selected, sorted_by

MakeReport = Callable[..., RunReport]
LABELS = np.zeros(1_000, dtype=np.int64)


def with_answers(report: RunReport, wrong: Sequence[int], labels: Any = LABELS) -> RunReport:
    """The report of a model that is wrong on these rows."""
    classes = labels.copy()
    classes[list(wrong)] = 1
    packed = Answers(
        labels=pack_classes(labels), baseline=pack_classes(labels), candidate=pack_classes(classes)
    )
    measurement = report.measurement.model_copy(update={"answers": packed})
    return report.model_copy(update={"measurement": measurement})


@pytest.fixture
def compared(make_report: MakeReport) -> Comparison:
    return compare_reports(
        [
            with_answers(make_report("a"), range(100)),
            with_answers(make_report("b"), range(160)),
            with_answers(make_report("c"), [*range(99), 500]),
        ]
    )


def test_each_pair_is_compared_row_by_row(compared: Comparison) -> None:
    pairs = {(pair.one, pair.other): pair for pair in compared.pairs}
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    ab = pairs["a", "b"]
    assert ab.value == pytest.approx(0.06) and ab.low > 0.04 and ab.is_measurable
    assert ab.agreement == 0.94 and ab.rows == 1_000
    ac = pairs["a", "c"]
    assert ac.value == 0 and ac.low < 0 < ac.high and not ac.is_measurable and ac.agreement == 0.998


def test_pages_say_which_is_better_or_that_nothing_can_be_told(compared: Comparison) -> None:
    for page in (compared.to_markdown(), compared.to_html()):
        assert "a is more accurate than b: +6.0 points" in page
        assert "c is more accurate than b: −6.0 points" in page
        assert "no measurable difference: 0.0 points" in page


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
    assert "What differs in the recipes" in comparison.to_markdown()
    assert "data.max_length" in comparison.to_html()
    assert compare_reports([one]).differs == ()


def test_choosing_runs_chooses_their_pairs_and_differences(
    compared: Comparison, make_report: MakeReport
) -> None:
    left = selected(compared, "accuracy > 0").model_copy()
    assert left.pairs == compared.pairs
    assert selected(compared, "accuracy < 0").pairs == ()
    one = make_report("one", file_mb=10.0)
    two = make_report("two", file_mb=20.0, recipe={**one.recipe, "seed": 3})
    three = make_report("three", file_mb=30.0, recipe={**one.recipe, "seed": 3})
    comparison = compare_reports([one, two, three])
    assert [each.key for each in comparison.differs] == ["seed"]
    assert selected(comparison, "size_mb > 15").differs == ()
    (seed,) = sorted_by(comparison, "size_mb").differs
    assert seed.values == {"one": "–", "two": "3", "three": "3"}
