"""Gates: the worse end of an interval decides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from compress.measure.answers import pack_answers
from compress.measure.results import Answers, Measurement
from compress.page import Table
from compress.recipe.gates import GatesConfig
from compress.report import GateRecord, RunReport, commonest_words, gate_sentence, judged, report_sections
from compress.report.sections.gates import ABOVE_COMMONEST
from compress.tasks.metrics.by_class import ByClass
from compress.tasks.multi_label import MultiLabel

MakeReport = Callable[..., RunReport]


def gate(report: RunReport, **gates: float) -> GateRecord:
    (found,) = judged(GatesConfig(**gates), report.measurement)
    return found


def test_without_gates_nothing_is_judged(int8: RunReport) -> None:
    assert judged(GatesConfig(), int8.measurement) == ()
    assert judged(GatesConfig(batch=1), int8.measurement) == ()


def test_an_accuracy_drop_is_judged_by_the_worse_end_of_its_interval(int8: RunReport) -> None:
    # 0.2 points lower, 95 % interval 1.1 lower to 0.7 higher
    assert gate(int8, max_accuracy_drop=0.012).holds
    found = gate(int8, max_accuracy_drop=0.01)
    assert (found.limit, found.value, found.bound) == (0.01, 0.002, 0.011)
    assert not found.holds and found.is_unproven
    beyond = gate(int8, max_accuracy_drop=0.001)
    assert beyond.fails and not beyond.is_unproven


def test_both_names_of_the_drop_are_one_limit(int8: RunReport) -> None:
    first, second = gate(int8, max_accuracy_drop=0.01), gate(int8, max_metric_drop=0.01)
    assert first.model_copy(update={"name": "max_metric_drop"}) == second
    _, added = judged(GatesConfig(max_metric_drop=0.03), _rare(int8, 0).measurement)
    assert added.name == ABOVE_COMMONEST and not added.holds
    with pytest.raises(ValidationError, match="max_metric_drop"):
        GatesConfig(max_accuracy_drop=0.01, max_metric_drop=0.01)
    assert GatesConfig(max_metric_drop=0.01, min_macro_f1=0.5).needs_baseline == ["max_metric_drop"]


def test_a_gain_in_accuracy_is_a_negative_drop(make_report: MakeReport) -> None:
    found = gate(make_report(difference=(0.012, 0.004, 0.02)), max_accuracy_drop=0)
    assert (found.holds, found.value, found.bound) == (True, -0.012, -0.004)


def test_a_drop_and_a_gain_are_told_apart_in_words_not_by_a_sign(make_report: MakeReport) -> None:
    for value, word in (
        (0.0188, "a gain of 1.88 points"),
        (-0.0188, "a drop of 1.88 points"),
        (0.0, "no change"),
    ):
        found = gate_sentence(gate(make_report(difference=(value, -0.03, 0.03)), max_accuracy_drop=0.02))
        assert word in found and "a drop of 3.00 points at worst" in found
        assert not {"−", "+"} & set(found)


def test_a_speedup_is_judged_by_the_lower_end_and_at_the_first_setting(make_report: MakeReport) -> None:
    report = make_report(speedup=(2.1, 2.0, 2.2))
    assert gate(report, min_speedup=2.0).holds
    found = gate(report, min_speedup=2.05)
    assert not found.holds and found.is_unproven and not gate(report, min_speedup=2.2).is_unproven
    assert (found.value, found.bound, found.where) == (2.1, 2.0, "batch 1, sequence 128, 1 thread")


def test_another_setting_can_be_named(int8: RunReport) -> None:
    first, second = int8.measurement.latency
    limit = (first.candidate.p95_ms + second.candidate.p95_ms) / 2
    assert gate(int8, max_p95_ms=limit).holds
    found = gate(int8, max_p95_ms=limit, batch=8)
    assert not found.holds and found.where == "batch 8, sequence 128, 1 thread"
    missing = gate(int8, min_speedup=1, threads=64)
    assert not missing.holds and missing.value is None and not missing.is_unproven


def test_size_and_agreement_have_no_interval(int8: RunReport) -> None:
    size, share = gate(int8, max_size_mb=72.0), gate(int8, min_agreement=0.98)
    assert (size.holds, size.value, size.bound) == (True, 72.0, None)
    assert (share.holds, share.value, share.bound) == (True, 0.98, None)
    assert not gate(int8, max_size_mb=71.9).holds and not gate(int8, min_agreement=0.981).holds


def test_the_sentence_has_limit_value_bound_and_setting(make_report: MakeReport) -> None:
    report = make_report(speedup=(2.1, 2.0, 2.2))
    words = gate_sentence(gate(report, min_speedup=2.05))
    for figure in ("2.05x", "2.1x", "2.0x", "batch 1, sequence 128, 1 thread"):
        assert figure in words
    proven, unproven = (gate_sentence(gate(report, min_speedup=x)) for x in (2.0, 2.05))
    assert "proven" in unproven and "proven" not in proven


def test_sentences_name_the_tasks_metric(int8: RunReport) -> None:
    words = MultiLabel.words
    asked, added = judged(GatesConfig(max_accuracy_drop=0.03), _rare(int8, 0).measurement)
    for found in (asked, added):
        assert words.score in gate_sentence(found, words)
        assert "accuracy" not in gate_sentence(found, words) and "accuracy" in gate_sentence(found)


def _rare(report: RunReport, found: int) -> RunReport:
    """16 of 1,000 rows are of label 1, of which the candidate finds some; all others it answers right."""
    labels = (np.arange(1_000) < 16).astype(np.int64)
    candidate = (np.arange(1_000) < found).astype(np.int64)
    answers = Answers(
        labels=pack_answers(labels), baseline=pack_answers(labels), candidate=pack_answers(candidate)
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
    [
        {"max_accuracy_drop": -0.1},
        {"min_agreement": 98},
        {"min_speedup": 0},
        {"min_macro_f1": 90},
        {"max_size": 3},
        {"batch": 0},
    ],
)
def test_invalid_limits_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        GatesConfig(**wrong)


def test_reports_show_gates_where_there_are_some(int8: RunReport) -> None:
    def results(report: RunReport) -> dict[str, str]:
        (section,) = (x for x in report_sections(report) if x.key == "gates")
        (table,) = (x for x in section.parts if isinstance(x, Table))
        return {str(words).partition(":")[0]: str(result) for result, words in table.rows}

    assert "gates" not in {x.key for x in report_sections(int8)}
    records = judged(GatesConfig(min_speedup=3, max_size_mb=80), int8.measurement)
    report = RunReport.model_validate_json(int8.model_copy(update={"gates": records}).model_dump_json())
    assert results(report) == {"speed-up": "fails", "file size": "holds"}
    records = judged(GatesConfig(min_speedup=3), busy(int8).measurement)
    assert results(int8.model_copy(update={"gates": records})) == {"speed-up": "not judged"}


def test_a_measurement_of_an_unknown_task_is_refused(int8: RunReport) -> None:
    plain = int8.measurement.model_dump()
    assert Measurement.model_validate({**plain, "task": "classification"}).task == "classification"
    with pytest.raises(ValueError, match="'ranking-of-nothing'"):
        Measurement.model_validate({**plain, "task": "ranking-of-nothing"})


def _answering(report: RunReport, truth: np.ndarray, candidate: np.ndarray) -> RunReport:
    labels, found = pack_answers(truth), pack_answers(candidate)
    measurement = report.measurement.model_copy(
        update={"answers": Answers(labels=labels, baseline=labels, candidate=found)}
    )
    return report.model_copy(update={"measurement": measurement})


def test_the_gate_on_macro_f1_is_judged_by_the_lower_end(make_report: MakeReport) -> None:
    truth = np.arange(300) % 3
    after = np.where(np.arange(300) % 7 == 0, (truth + 1) % 3, truth)
    value, low, _ = ByClass.of_one(3, truth, after).macro_f1()
    report = _answering(make_report(), truth, after)
    (gate,) = judged(GatesConfig(min_macro_f1=low), report.measurement)
    assert (gate.holds, gate.value, gate.bound) == (True, value, low)
    (gate,) = judged(GatesConfig(min_macro_f1=(low + value) / 2), report.measurement)
    assert not gate.holds and gate.is_unproven
    old = report.measurement.model_copy(update={"answers": None})
    (gate,) = judged(GatesConfig(min_macro_f1=0.1), old)
    assert gate.value is None and not gate.holds


def test_the_majority_fails_it_at_an_accuracy_of_998_in_1000(make_report: MakeReport) -> None:
    truth = np.repeat([0, 1], [998, 2])
    report = _answering(make_report(), truth, np.zeros_like(truth))
    (gate,) = judged(GatesConfig(min_macro_f1=0.6), report.measurement)
    assert gate.fails and gate.value == pytest.approx(0.4995, abs=1e-4)
