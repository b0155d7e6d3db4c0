"""Gates: the worse end of an interval decides, and the words say what was wanted and what there is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from compress.measure.answers import pack_classes
from compress.measure.results import Answers, Measurement
from compress.recipe.gates import GatesConfig
from compress.report import RunReport, commonest_words, gate_sentence, judged, to_html, to_markdown
from compress.report.sections.gates import ABOVE_COMMONEST

MakeReport = Callable[..., RunReport]


def gate(report: RunReport, **gates: float) -> tuple[bool, str]:
    (found,) = judged(GatesConfig(**gates), report.measurement)
    return found.holds, gate_sentence(found)


def test_without_gates_nothing_is_judged(int8: RunReport) -> None:
    assert judged(GatesConfig(), int8.measurement) == ()
    assert judged(GatesConfig(batch=1), int8.measurement) == ()


def test_an_accuracy_drop_is_judged_by_the_worse_end_of_its_interval(int8: RunReport) -> None:
    # 0.2 points lower, 95 % interval 1.1 lower to 0.7 higher
    assert gate(int8, max_accuracy_drop=0.012)[0]
    holds, words = gate(int8, max_accuracy_drop=0.01)
    assert not holds
    assert words == (
        "accuracy drop: at most 1.00 points wanted, 0.20 points measured, no more than 1.10 points by its "
        "95 % interval; it may well hold, but is not proven: more test rows would narrow the interval"
    )
    holds, words = gate(int8, max_accuracy_drop=0.001)
    assert not holds and "not proven" not in words


def test_a_gain_in_accuracy_is_a_negative_drop(make_report: MakeReport) -> None:
    report = make_report(difference=(0.012, 0.004, 0.02))
    assert gate(report, max_accuracy_drop=0) == (
        True,
        "accuracy drop: at most 0.00 points wanted, −1.20 points measured, no more than −0.40 points by its "
        "95 % interval",
    )


def test_a_speedup_is_judged_by_the_lower_end_and_at_the_first_setting(make_report: MakeReport) -> None:
    report = make_report(speedup=(2.1, 2.0, 2.2))
    assert gate(report, min_speedup=2.0)[0]
    holds, words = gate(report, min_speedup=2.05)
    assert not holds
    assert words.startswith(
        "speed-up: at least 2.05x wanted, 2.1x measured, no less than 2.0x by its 95 % interval (batch 1, "
        "sequence 128, 1 thread)"
    )
    assert words.endswith("more rounds or a quieter machine would narrow the interval")


def test_another_setting_can_be_named(int8: RunReport) -> None:
    first, second = int8.measurement.latency
    limit = (first.candidate.p95_ms + second.candidate.p95_ms) / 2
    assert gate(int8, max_p95_ms=limit)[0]
    holds, words = gate(int8, max_p95_ms=limit, batch=8)
    assert not holds and "(batch 8, sequence 128, 1 thread)" in words
    holds, words = gate(int8, min_speedup=1, threads=64)
    assert not holds and words.endswith("not measured at the setting that the gates name")


def test_size_and_agreement_have_no_interval(int8: RunReport) -> None:
    assert gate(int8, max_size_mb=72.0) == (True, "file size: at most 72.0 MB wanted, 72.0 MB measured")
    assert not gate(int8, max_size_mb=71.9)[0]
    assert gate(int8, min_agreement=0.98) == (
        True,
        "answers as the baseline's: at least 98.0 % wanted, 98.0 % measured",
    )
    assert not gate(int8, min_agreement=0.981)[0]


def _rare(report: RunReport, found: int) -> RunReport:
    """16 of 1,000 rows are of label 1, of which the candidate finds some; all others it answers right."""
    labels = (np.arange(1_000) < 16).astype(np.int64)
    candidate = (np.arange(1_000) < found).astype(np.int64)
    answers = Answers(
        labels=pack_classes(labels), baseline=pack_classes(labels), candidate=pack_classes(candidate)
    )
    accuracy = report.measurement.candidate.accuracy.model_copy(update={"value": (984 + found) / 1_000})
    model = report.measurement.candidate.model_copy(update={"accuracy": accuracy})
    measurement = report.measurement.model_copy(update={"answers": answers, "candidate": model})
    return report.model_copy(update={"measurement": measurement})


def test_a_candidate_that_always_names_the_commonest_label_fails_a_gate_on_accuracy(int8: RunReport) -> None:
    for gates in ({"max_accuracy_drop": 0.03}, {"min_agreement": 0.9}):
        asked, added = judged(GatesConfig(**gates), _rare(int8, 0).measurement)
        assert asked.holds and not added.holds
        assert (added.name, added.limit, added.value) == (ABOVE_COMMONEST, 0.984, 0.984)
        assert "not measurably better" in gate_sentence(added)
    # McNemar: of rows gained alone, sqrt(rows) must be above 1.96, so 4 are enough and 3 are not.
    assert judged(GatesConfig(max_accuracy_drop=0.03), _rare(int8, 4).measurement)[1].holds
    assert not judged(GatesConfig(max_accuracy_drop=0.03), _rare(int8, 3).measurement)[1].holds
    assert [x.name for x in judged(GatesConfig(max_size_mb=80), _rare(int8, 0).measurement)] == [
        "max_size_mb"
    ]
    words = commonest_words(_rare(int8, 0).measurement, "candidate")
    assert words is not None and commonest_words(_rare(int8, 0).measurement, "baseline") is None


def busy(report: RunReport, **changed: float) -> RunReport:
    disturbed = {"disturbed_rounds": 20, "used_by_others": 0.8, **changed}
    latency = tuple(each.model_copy(update=disturbed) for each in report.measurement.latency)
    return report.model_copy(
        update={"measurement": report.measurement.model_copy(update={"latency": latency})}
    )


def test_a_speedup_is_not_judged_on_a_busy_machine_whichever_way_it_came_out(int8: RunReport) -> None:
    for limit in (1.5, 4.0):
        (found,) = judged(GatesConfig(min_speedup=limit), busy(int8).measurement)
        assert not found.holds and not found.fails
        assert "80%" in found.not_judged and found.not_judged in gate_sentence(found)
    (found,) = judged(GatesConfig(min_speedup=64, threads=64), busy(int8).measurement)
    assert found.fails, "what is not measured there at all is no question of load"


def test_a_latency_within_its_limit_holds_on_a_busy_machine_too(int8: RunReport) -> None:
    p95_ms = int8.measurement.latency[0].candidate.p95_ms
    (within,) = judged(GatesConfig(max_p95_ms=p95_ms), busy(int8).measurement)
    assert within.holds and within.not_judged == ""
    (beyond,) = judged(GatesConfig(max_p95_ms=p95_ms * 0.99), busy(int8).measurement)
    assert not beyond.holds and not beyond.fails and beyond.not_judged
    (stopped,) = judged(GatesConfig(max_p95_ms=0.1), busy(int8, throttled_rounds=20).measurement)
    assert "CPU quota" in stopped.not_judged


def test_what_load_does_not_change_is_judged_on_a_busy_machine(int8: RunReport) -> None:
    gates = GatesConfig(max_accuracy_drop=0.001, max_size_mb=72.0, min_agreement=0.98)
    assert judged(gates, busy(int8).measurement) == judged(gates, int8.measurement)


@pytest.mark.parametrize(
    "wrong",
    [{"max_accuracy_drop": -0.1}, {"min_agreement": 98}, {"min_speedup": 0}, {"max_size": 3}, {"batch": 0}],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        GatesConfig(**wrong)


def test_reports_show_gates_where_there_are_some(int8: RunReport) -> None:
    assert "Gates" not in to_markdown(int8) and 'id="gates"' not in to_html(int8)
    records = judged(GatesConfig(min_speedup=3, max_size_mb=80), int8.measurement)
    report = RunReport.model_validate_json(int8.model_copy(update={"gates": records}).model_dump_json())
    for page in (to_markdown(report), to_html(report)):
        assert "at least 3.0x wanted" in page and "at most 80.0 MB wanted" in page
        assert "fails" in page and "holds" in page
    records = judged(GatesConfig(min_speedup=3), busy(int8).measurement)
    report = int8.model_copy(update={"gates": records})
    for page in (to_markdown(report), to_html(report)):
        assert "not judged" in page and "fails" not in page


def test_a_measurement_of_an_unknown_task_is_refused(int8: RunReport) -> None:
    plain = int8.measurement.model_dump()
    assert Measurement.model_validate({**plain, "task": "classification"}).task == "classification"
    with pytest.raises(ValueError, match="'regression'"):
        Measurement.model_validate({**plain, "task": "regression"})
