"""The ladder in words: the stages that lost or won most are named only where that is measurable."""

from __future__ import annotations

from compress.measure.results import AccuracyDifference, Interval, Rung
from compress.report import RunReport, to_html, to_markdown
from compress.report.sections.ladder import ladder_dots, ladder_note, ladder_sentences, ladder_table


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


def test_the_stages_that_lost_and_won_most_are_named() -> None:
    assert ladder_sentences(LADDER) == [
        "Stage 2 (distill/student) lost most accuracy: −1.2 points (95 % interval −2.0 to −0.4, 500 "
        "validation rows).",
        "Stage 2 (distill/student) won most speed: 2.0x (1.9 to 2.1) of the stage before.",
        "Stage 3 (quantize/int8_dynamic) won most size: 4.0x smaller than the stage before.",
    ]


def test_what_is_not_measurable_is_said_to_be_so() -> None:
    lost = (LADDER[0], rung("prune/heads", (-0.01, -0.025, 0.004)), rung("prune/width"))
    assert ladder_sentences(lost) == [
        "No stage lost accuracy measurably. Stage 1 (prune/heads) came nearest: −1.0 points (95 % interval "
        "−2.5 to +0.4, 500 validation rows).",
        "No stage made it measurably faster.",
        "No stage made the file smaller.",
    ]
    gained = (LADDER[0], rung("distill/student", (0.01, -0.004, 0.025)))
    assert ladder_sentences(gained)[0] == "No stage lost accuracy on 500 validation rows."


def test_a_measurable_change_is_named_before_a_larger_one_that_is_noise() -> None:
    noisy = rung("prune/heads", (-0.02, -0.045, 0.005), (1.5, 0.9, 2.0))
    sure = rung("quantize/int8_dynamic", (-0.012, -0.02, -0.004), (1.3, 1.2, 1.4))
    assert ladder_sentences((LADDER[0], noisy, sure))[:2] == [
        "Stage 2 (quantize/int8_dynamic) lost most accuracy: −1.2 points (95 % interval −2.0 to −0.4, 500 "
        "validation rows). Stage 1 (prune/heads) may have lost more: −2.0 points (95 % interval −4.5 to "
        "+0.5, 500 validation rows).",
        "Stage 2 (quantize/int8_dynamic) won most speed: 1.30x (1.20 to 1.40) of the stage before. Stage 1 "
        "(prune/heads) may have won more: 1.50x (0.90 to 2.00).",
    ]


def test_stages_without_a_file_between_them_share_a_row() -> None:
    both = rung("prune/vocabulary + distill/student", (-0.012, -0.02, -0.004), (2.0, 1.9, 2.1), 2.0, 40.0)
    rungs = (LADDER[0], both.model_copy(update={"stages": 2}), LADDER[3])
    assert ladder_sentences(rungs)[0].startswith(
        "Stages 1–2 (prune/vocabulary + distill/student) lost most accuracy: −1.2 points"
    )
    assert ladder_sentences(rungs)[2].startswith("Stage 3 (quantize/int8_dynamic) won most size")
    assert [row[0] for row in ladder_table(rungs, "").rows] == ["0", "1–2", "3"]
    assert "could not be exported" in ladder_note(rungs)
    assert "could not be exported" not in ladder_note(LADDER)


def test_a_rung_of_an_older_report_is_of_one_stage() -> None:
    content = LADDER[2].model_dump(exclude={"stages"})
    assert Rung.model_validate(content).stages == 1


def test_the_table_has_a_row_a_stage_and_names_the_setting() -> None:
    table = ladder_table(LADDER, "batch 1, sequence 128, 1 thread")
    assert table.columns[5] == "p50 ms, batch 1, sequence 128, 1 thread"
    assert [row[1] for row in table.rows] == [each.name for each in LADDER]
    assert table.rows[0][3] == table.rows[0][6] == ""
    assert table.rows[2][2:5] == ("88.8 %", "−1.2 (−2.0 to −0.4)", "97.0 %")
    assert table.rows[2][6] == "2.0x (1.9 to 2.1)" and table.rows[3][7] == "10.0"


def test_a_dots_interval_is_that_of_the_change_from_the_stage_before() -> None:
    first, *_, last = ladder_dots(LADDER)
    assert first.is_baseline and (first.low, first.high) == (0.9, 0.9)
    assert (round(last.low, 4), round(last.high, 4)) == (0.879, 0.892)
    assert last.label == "3 int8_dynamic"


def test_a_dots_interval_ends_where_accuracy_does() -> None:
    up = rung("distill/logits", (0.01, -0.016, 0.043), accuracy=0.99)
    down = rung("quantize/int8_dynamic", (-0.01, -0.04, 0.01), accuracy=0.02)
    dots = ladder_dots((LADDER[0], up, down))[1:]
    assert [(round(dot.low, 3), round(dot.high, 3)) for dot in dots] == [(0.964, 1.0), (0.0, 0.04)]


def test_reports_show_it_where_it_is_there(int8: RunReport) -> None:
    assert "After every stage" not in to_markdown(int8) and 'id="ladder"' not in to_html(int8)
    report = RunReport.model_validate_json(int8.model_copy(update={"ladder": LADDER}).model_dump_json())
    for page in (to_markdown(report), to_html(report)):
        assert "After every stage" in page and "won most speed: 2.0x" in page
        assert page.count("distill/student") >= 3
