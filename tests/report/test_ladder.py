"""The ladder: the stages with the largest loss and gains are named only where that is measurable."""

from __future__ import annotations

from compress.measure.results import AccuracyDifference, Interval, Rung
from compress.page import Table
from compress.report import RunReport, report_sections
from compress.report.sections.ladder import (
    Extreme,
    ladder_dots,
    ladder_note,
    ladder_sentences,
    ladder_table,
    largest_loss,
    largest_reduction,
    largest_speedup,
)


def rung(
    name: str,
    change: tuple[float, float, float] = (0.0, -0.005, 0.005),
    gain: tuple[float, float, float] = (1.0, 0.98, 1.03),
    speedup: float = 1.0,
    mb: float = 90.0,
    accuracy: float = 0.9,
) -> Rung:
    value, low, high = change
    return Rung(
        name=name,
        rows=500,
        accuracy=accuracy,
        agreement=0.97,
        change=AccuracyDifference(
            value=value, low=low, high=high, rows=500, units=500, gained=3, lost=5, agreement=0.98
        ),
        p50_ms=12.0 / speedup,
        speedup=Interval(value=speedup, low=speedup * 0.95, high=speedup * 1.05),
        gain=Interval(value=gain[0], low=gain[1], high=gain[2]),
        file_bytes=int(mb * 1e6),
    )


LADDER = (
    rung("original"),
    rung("prune/vocabulary", mb=60.0),
    rung("distill/student", (-0.012, -0.02, -0.004), (2.0, 1.9, 2.1), 2.0, 40.0, 0.888),
    rung("quantize/int8_dynamic", (-0.002, -0.009, 0.004), (1.7, 1.6, 1.8), 3.4, 10.0, 0.886),
)


def _numbers(found: Extreme) -> tuple[str | None, str | None]:
    """Stage numbers of what is proven and of what is possible."""
    one, other = (None if x is None else x.number for x in (found.proven, found.possible))
    return one, other


def test_the_stages_with_the_largest_loss_and_gains_are_found() -> None:
    assert _numbers(largest_loss(LADDER)) == ("2", None)
    assert _numbers(largest_speedup(LADDER)) == ("2", None)
    reduction = largest_reduction(LADDER)
    assert reduction is not None and [step.number for step in reduction] == ["2", "3"]


def test_what_is_not_measurable_is_at_most_possible() -> None:
    lost = (LADDER[0], rung("prune/heads", (-0.01, -0.025, 0.004)), rung("prune/width"))
    assert _numbers(largest_loss(lost)) == (None, "1")
    assert largest_speedup(lost).proven is None and largest_reduction(lost) is None
    gained = (LADDER[0], rung("distill/student", (0.01, -0.004, 0.025)))
    assert _numbers(largest_loss(gained)) == (None, None)


def test_a_measurable_change_is_proven_and_a_larger_one_that_is_noise_is_possible() -> None:
    noisy = rung("prune/heads", (-0.02, -0.045, 0.005), (1.5, 0.9, 2.0))
    sure = rung("quantize/int8_dynamic", (-0.012, -0.02, -0.004), (1.3, 1.2, 1.4))
    for find in (largest_loss, largest_speedup):
        assert _numbers(find((LADDER[0], noisy, sure))) == ("2", "1")


def test_sentences_have_the_figures_of_the_stages_they_name() -> None:
    loss, speed, size = ladder_sentences(LADDER, "micro F1")
    for words in ("distill/student", "micro F1", "−1.2", "−2.0 to −0.4", "500"):
        assert words in loss
    assert "2.0x (1.9 to 2.1)" in speed and "4.0x" in size and "int8_dynamic" in size
    assert ladder_sentences(LADDER[:1], "accuracy") == []


def test_stages_without_a_file_between_them_share_a_row() -> None:
    both = rung("prune/vocabulary + distill/student", (-0.012, -0.02, -0.004), (2.0, 1.9, 2.1), 2.0, 40.0)
    rungs = (LADDER[0], both.model_copy(update={"stages": 2}), LADDER[3])
    assert _numbers(largest_loss(rungs)) == ("1–2", None)
    reduction = largest_reduction(rungs)
    assert reduction is not None and reduction[1].number == "3"
    assert [row[0] for row in ladder_table(rungs, "", "accuracy").rows] == ["0", "1–2", "3"]
    assert len(ladder_note(rungs)) > len(ladder_note(LADDER))


def test_a_rung_of_an_older_report_is_of_one_stage() -> None:
    content = LADDER[2].model_dump(exclude={"stages"})
    assert Rung.model_validate(content).stages == 1


def test_the_table_has_a_row_a_stage_and_names_the_setting() -> None:
    table = ladder_table(LADDER, "batch 1, sequence 128, 1 thread", "micro F1")
    assert table.columns[2] == "micro F1"
    assert table.columns[5] == "p50 ms, batch 1, sequence 128, 1 thread"
    assert [row[1] for row in table.rows] == [each.name for each in LADDER]
    assert table.rows[0][3] == table.rows[0][6] == ""
    assert table.rows[2][2:5] == ("88.8 %", "−1.2 (−2.0 to −0.4)", "97.0 %")
    assert table.rows[2][6] == "2.0x (1.9 to 2.1)" and table.rows[3][7] == "10.0"


def test_a_dots_interval_is_that_of_the_change_from_the_stage_before() -> None:
    first, *_, last = ladder_dots(LADDER)
    assert first.is_baseline and (first.low, first.high) == (0.9, 0.9)
    assert (round(last.low, 4), round(last.high, 4)) == (0.879, 0.892)
    assert (last.label, last.number) == ("3 int8_dynamic", "3")


def test_a_dots_interval_ends_where_accuracy_does() -> None:
    up = rung("distill/logits", (0.01, -0.016, 0.043), accuracy=0.99)
    down = rung("quantize/int8_dynamic", (-0.01, -0.04, 0.01), accuracy=0.02)
    dots = ladder_dots((LADDER[0], up, down))[1:]
    assert [(round(dot.low, 3), round(dot.high, 3)) for dot in dots] == [(0.964, 1.0), (0.0, 0.04)]


def test_reports_show_it_where_it_is_there(int8: RunReport) -> None:
    assert "ladder" not in {x.key for x in report_sections(int8)}
    report = RunReport.model_validate_json(int8.model_copy(update={"ladder": LADDER}).model_dump_json())
    (found,) = (x for x in report_sections(report) if x.key == "ladder")
    (table,) = (x for x in found.parts if isinstance(x, Table))
    assert table == ladder_table(LADDER, "batch 1, sequence 128, 1 thread", "accuracy")
