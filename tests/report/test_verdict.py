from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compress.measure.results import AccuracyDifference
from compress.report import RunReport, caveats, load_report, verdict
from compress.report.phrases import accuracy_clauses, speedup_clauses


def _difference(value: float, low: float, high: float) -> AccuracyDifference:
    return AccuracyDifference(
        value=value, low=low, high=high, rows=1_000, units=1_000, gained=7, lost=9, agreement=0.98
    )


def test_accuracy_difference_whose_interval_holds_zero_is_not_measurable() -> None:
    words, figures = accuracy_clauses(_difference(-0.002, -0.011, 0.007))
    assert words == "no measurable difference"
    assert figures == "−0.2 points, 95 % interval −1.1 to +0.7, 1,000 rows"
    assert accuracy_clauses(_difference(0.0, 0.0, 0.004))[0] == words


def test_accuracy_difference_whose_interval_leaves_out_zero_has_a_direction() -> None:
    lower = accuracy_clauses(_difference(-0.013, -0.021, -0.005))
    assert lower == ("1.3 points lower", "95 % interval −2.1 to −0.5, 1,000 rows")
    assert accuracy_clauses(_difference(0.013, 0.005, 0.021))[0] == "1.3 points higher"


def test_verdict_of_a_gain_names_setting_intervals_and_rows(int8: RunReport) -> None:
    assert verdict(int8) == (
        "3.7x smaller and 2.1x faster (95 % interval 2.0 to 2.2) than the fp32 ONNX model at batch 1, "
        "sequence 128, 1 thread, with no measurable change in accuracy "
        "(−0.2 points, 95 % interval −1.1 to +0.7, 1,000 rows)."
    )


def test_verdict_of_a_slower_model_says_slower(int4: RunReport) -> None:
    assert verdict(int4).startswith(
        "6.0x smaller than the fp32 ONNX model, but 0.87x its speed: slower (95 %"
    )
    assert "accuracy is 2.3 points lower" in verdict(int4)
    assert speedup_clauses(int4.measurement.latency[0]) == ("0.87x: slower", "95 % interval 0.85 to 0.90")


def test_unstructured_sparsity_is_never_called_faster_or_smaller(sparse: RunReport) -> None:
    assert verdict(sparse).startswith(
        "Not smaller than the fp32 ONNX model, with no measurable speed-up (1.01x"
    )
    said = " ".join(caveats(sparse))
    assert "Zeros in the file bring no speed-up in ONNX Runtime" in said
    assert "The file is 266 MB, 151 MB in gzip (baseline: 266 MB, 246 MB in gzip)" in said


def test_zeros_that_rounding_makes_are_not_called_sparsity(int4: RunReport, int8: RunReport) -> None:
    assert not any("Zeros" in text for text in caveats(int4) + caveats(int8))


def test_report_without_latency_says_so(int8: RunReport) -> None:
    measurement = int8.measurement.model_copy(update={"latency": ()})
    assert "latency was not measured" in verdict(int8.model_copy(update={"measurement": measurement}))


def test_wide_interval_says_what_it_cannot_rule_out(make_report: Callable[..., RunReport]) -> None:
    assert any(
        "a loss of up to 4.1 points" in x for x in caveats(make_report(difference=(0.0, -0.041, 0.04)))
    )


def test_setting_that_is_slower_is_told_beside_a_faster_headline(int8: RunReport) -> None:
    first, second = int8.measurement.latency
    slow = second.model_copy(update={"speedup": 0.9, "speedup_low": 0.88, "speedup_high": 0.92})
    measurement = int8.measurement.model_copy(update={"latency": (first, slow)})
    said = caveats(int8.model_copy(update={"measurement": measurement}))
    assert "At batch 8, sequence 128, 1 thread: 0.90x: slower (95 % interval 0.88 to 0.92)." in said


def test_parity_that_does_not_hold_is_a_warning(int8: RunReport) -> None:
    broken = int8.parity.model_copy(update={"agreement": 0.9})
    said = caveats(int8.model_copy(update={"parity": broken}))
    assert len(said) == 1 and "candidate" in said[0] and "Parity" in said[0]


def test_warnings_and_noise_are_each_said_once(int8: RunReport, tmp_path: Path) -> None:
    measurement = int8.measurement.model_copy(update={"noise": ("busy",)})
    report = int8.model_copy(update={"measurement": measurement, "warnings": ("mind", "busy")})
    report.save(tmp_path / "report.json")
    again = load_report(tmp_path)  # an older modelpress wrote the noise among the warnings as well
    assert again.warnings == ("mind",) and caveats(again) == ("mind", "busy")
