"""Claims of a report: gains and losses only if their interval proves them, and each warning once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compress.facts import Saturation
from compress.measure.results import AccuracyDifference, Floor
from compress.page import Bullets, Line
from compress.recipe.gates import GatesConfig
from compress.report import Caveat, RunReport, caveats, judged, load_report, report_sections, verdict
from compress.report.phrases import accuracy_clauses, setting, speedup_clauses
from compress.report.sections.figures import latency_table

MakeReport = Callable[..., RunReport]
CHANGED = Saturation(
    layers=38,
    pairs=1_000,
    pairs_at_risk=3,
    outputs=200,
    outputs_at_risk=50,
    rows=64,
    sums=10_000,
    sums_cut=123,
    answers_changed=1,
)


def _difference(value: float, low: float, high: float) -> AccuracyDifference:
    return AccuracyDifference(
        value=value, low=low, high=high, rows=1_000, units=1_000, gained=7, lost=9, agreement=0.98
    )


def _kinds(report: RunReport) -> list[str]:
    return [each.kind for each in caveats(report)]


def _the(kind: str, report: RunReport) -> Caveat:
    (found,) = (each for each in caveats(report) if each.kind == kind)
    return found


def test_rows_without_a_sequence_have_none_in_sentences_and_tables(int8: RunReport) -> None:
    timed = tuple(x.model_copy(update={"sequence": None}) for x in int8.measurement.latency)
    images = int8.model_copy(update={"measurement": int8.measurement.model_copy(update={"latency": timed})})
    assert "sequence" in setting(int8.measurement.latency[0]) and "sequence" not in setting(timed[0])
    assert str(timed[0].setting) == setting(timed[0])
    one, other = latency_table(int8), latency_table(images)
    assert other.columns == tuple(each for each in one.columns if each != "sequence")
    assert [len(row) for row in other.rows] == [len(row) - 1 for row in one.rows]
    assert len(other.align) == len(other.columns)


def test_a_difference_is_claimed_only_if_its_interval_excludes_zero() -> None:
    inside = accuracy_clauses(_difference(-0.002, -0.011, 0.007))
    assert inside[0] == accuracy_clauses(_difference(0.0, 0.0, 0.004))[0]
    assert not any(digit in inside[0] for digit in "0123456789")
    for figure in ("−0.2", "−1.1", "+0.7", "1,000"):
        assert figure in inside[1]
    lower = accuracy_clauses(_difference(-0.013, -0.021, -0.005))
    higher = accuracy_clauses(_difference(0.013, 0.005, 0.021))
    assert "1.3" in lower[0] and "lower" in lower[0] and "1.3" in higher[0] and "higher" in higher[0]


def test_a_speedup_is_claimed_only_if_its_interval_excludes_one(
    int8: RunReport, int4: RunReport, sparse: RunReport
) -> None:
    faster, slower, same = (speedup_clauses(x.measurement.latency[0])[0] for x in (int8, int4, sparse))
    assert "2.1x faster" in faster
    assert "0.87x" in slower and "faster" not in slower
    assert not any(digit in same for digit in "0123456789")
    assert "faster" not in verdict(sparse) and "faster" not in verdict(int4)


def test_a_verdict_names_setting_intervals_and_rows(int8: RunReport) -> None:
    for figure in ("3.7x", "2.1x", "2.0 to 2.2", "batch 1, sequence 128, 1 thread", "−1.1 to +0.7", "1,000"):
        assert figure in verdict(int8)
    measurement = int8.measurement.model_copy(update={"latency": ()})
    assert "faster" not in verdict(int8.model_copy(update={"measurement": measurement}))


def test_zeros_left_by_pruning_are_a_warning_and_those_of_rounding_are_not(
    sparse: RunReport, int4: RunReport, int8: RunReport
) -> None:
    for figure in ("266 MB", "151 MB", "246 MB"):
        assert figure in _the("zeros", sparse).detail
    assert "zeros" not in _kinds(int4) + _kinds(int8)


def test_a_wide_interval_is_a_warning(make_report: MakeReport, int8: RunReport) -> None:
    assert "4.1 points" in _the("interval", make_report(difference=(0.0, -0.041, 0.04))).text
    assert "interval" not in _kinds(int8)


def test_slower_settings_are_a_warning_unless_the_verdict_has_the_only_one(int8: RunReport) -> None:
    first, second = int8.measurement.latency

    def measured(*slow: int) -> RunReport:
        update = {"speedup": 0.9, "speedup_low": 0.88, "speedup_high": 0.92}
        latency = tuple(
            x.model_copy(update=update if i in slow else {}) for i, x in enumerate((first, second))
        )
        return int8.model_copy(
            update={"measurement": int8.measurement.model_copy(update={"latency": latency})}
        )

    found = _the("slower", measured(1))
    assert "1 of 2" in found.text and "0.88 to 0.92" in found.detail and "batch 8" in found.detail.lower()
    assert "2 of 2" in _the("slower", measured(0, 1)).text
    assert "slower" not in _kinds(measured(0)) + _kinds(measured())


def test_parity_that_does_not_hold_is_a_warning(int8: RunReport) -> None:
    broken = int8.parity.model_copy(update={"agreement": 0.9})
    (found,) = caveats(int8.model_copy(update={"parity": broken}))
    assert found.kind == "parity" and "candidate" in found.text


def test_answers_that_change_in_batches_are_a_warning(int8: RunReport) -> None:
    accuracy = int8.measurement.candidate.accuracy.model_copy(
        update={"batched_disagreements": 12, "batched_value": 0.905}
    )
    candidate = int8.measurement.candidate.model_copy(update={"accuracy": accuracy})
    report = int8.model_copy(
        update={"measurement": int8.measurement.model_copy(update={"candidate": candidate})}
    )
    assert "12 of 1,000" in _the("batches", report).text and "90.5 %" in _the("batches", report).detail


@pytest.mark.parametrize(
    ("changed", "gates", "warned"),
    [
        (0, {}, False),
        (1, {}, True),  # 1.6 % of the rows; parity allows 1 %
        (1, {"max_accuracy_drop": 0.02}, False),
        (1, {"max_accuracy_drop": 0.02, "min_agreement": 0.99}, True),
        (2, {"max_accuracy_drop": 0.02}, True),
        (1, {"max_size_mb": 100}, True),
    ],
)
def test_overflow_elsewhere_is_a_warning_if_it_changes_more_than_the_gates_allow(
    int8: RunReport, changed: int, gates: dict[str, float], warned: bool
) -> None:
    report = int8.model_copy(
        update={
            "saturation": CHANGED.model_copy(update={"answers_changed": changed}),
            "gates": judged(GatesConfig(**gates), int8.measurement),
        }
    )
    assert ("saturation" in _kinds(report)) is warned
    if warned:
        assert f"{changed} of 64" in _the("saturation", report).text


def test_what_older_reports_stored_and_newer_ones_derive_is_shown_once(sparse: RunReport) -> None:
    """In the words of the versions that stored them."""
    old = (
        "slower than the baseline at 1 of 4 settings (down to 0.89x at batch 1, 1 threads)",
        "prune/magnitude leaves zeros in dense tensors: ONNX Runtime gains no speed from them",
        "3 of 1000 answers change when rows are answered in padded batches of 8 (accuracy is then 0.9100)",
    )
    overflow = (
        "Accuracy was measured where sums of int8 products are exact, as here; on x86 processors without "
        "VNNI (AVX2 only, or early AVX512) pairs of products are added in 16 bits, which large weights "
        "overflow: …"
    )
    report = sparse.model_copy(update={"warnings": (*old, overflow, "mind")})
    stored = [each.text for each in caveats(report) if each.kind == "run"]
    assert len(stored) == 2 and stored[1] == "Mind."  # from before the counts were stored: kept
    counted = report.model_copy(update={"saturation": CHANGED})
    assert [each.text for each in caveats(counted) if each.kind == "run"] == ["Mind."]
    assert _kinds(counted).count("zeros") == 1


def test_warnings_and_noise_are_each_shown_once(int8: RunReport, tmp_path: Path) -> None:
    measurement = int8.measurement.model_copy(update={"noise": ("busy",)})
    report = int8.model_copy(update={"measurement": measurement, "warnings": ("mind", "busy")})
    report.save(tmp_path / "report.json")
    again = load_report(tmp_path)  # an older modelpress stored the noise among the warnings as well
    assert again.warnings == ("mind",)
    assert [(x.kind, x.text) for x in caveats(again)] == [("run", "Mind."), ("noise", "Busy.")]


def test_a_long_warning_is_one_line_with_details_and_nothing_of_it_is_lost(int8: RunReport) -> None:
    long = "timings were noisy, so the speed-up is only known loosely: " + "4.50x to 6.35x at batch 1; " * 9
    short = "model.hf: has two heads: only one is used"
    report = int8.model_copy(update={"warnings": (long, short)})
    first, second = caveats(report)
    assert len(first.text) < 90 and first.detail.count("4.50x to 6.35x") == 9
    assert (second.text, second.detail) == (f"{short}.", "")  # a name keeps its first letter
    (section,) = (x for x in report_sections(report) if x.key == "warnings")
    assert section.parts == (Bullets((Line(first.text, first.detail), Line(second.text))),)


def test_a_long_warning_is_not_split_after_a_name_or_an_abbreviation(int8: RunReport) -> None:
    long = f"data.text: of the texts, e.g. the first, {'many ' * 20}were cut. Raise max_length"
    (found,) = caveats(int8.model_copy(update={"warnings": (long,)}))
    assert found.text.endswith("were cut.") and found.detail == "Raise max_length."


def test_the_key_figures_come_before_the_warnings(int8: RunReport) -> None:
    report = int8.model_copy(update={"warnings": ("mind",)})
    assert [x.key for x in report_sections(report)][:2] == ["glance", "warnings"]


@pytest.mark.parametrize(
    ("gain", "said"), [((0.05, 0.02, 0.08), 0), ((0.01, -0.02, 0.04), 1), ((-0.05, -0.08, -0.02), 1)]
)
def test_a_model_that_a_linear_one_equals_or_beats_is_said_to_be_so(
    int8: RunReport, gain: tuple[float, float, float], said: int
) -> None:
    floor = Floor(
        model="ridge regression",
        rows=900,
        words=2_000,
        compared=True,
        strength=3.0,
        score=int8.measurement.baseline.accuracy,
        baseline=_difference(*gain),
        candidate=_difference(*gain),
        fit_seconds=1.0,
        row_ms=0.1,
    )
    found = [each.text for each in caveats(int8.model_copy(update={"floor": floor})) if each.kind == "floor"]
    assert len(found) == said and all("ridge regression" in text for text in found)
    assert ["lower" in text for text in found] == [gain[2] < 0] * said
