"""The section "Other runtimes": the fastest runtime is named only if an interval proves it."""

from __future__ import annotations

from compress.measure.runtimes.results import RuntimeFile, Runtimes, RuntimeTiming
from compress.page import Text
from compress.report import fastest_sentence, load_report, report_sections, write_reports
from compress.report.sections.runtimes import (
    baseline_wins,
    fastest_runtimes,
    runtime_sentences,
    runtime_table,
)
from compress.tasks import Classification

WORDS = Classification.words


def _timing(runtime, file, rounds_ms, batch=1):
    return RuntimeTiming(
        runtime=runtime, file=file, batch=batch, sequence=32, threads=1, rounds_ms=tuple(rounds_ms)
    )


def _found(openvino=(2.0, 2.1, 2.0), baseline=(3.0, 3.0, 3.1), refused=""):
    """ONNX Runtime takes 12 ms for the baseline and 4 for the candidate."""
    files = [RuntimeFile(runtime="openvino", version="2026.4", file="baseline", precision="bf16",
                         products={"bf16": 14}, agreement=0.999, accuracy=0.83)]  # fmt: skip
    timings = [
        _timing("onnxruntime", "baseline", (12.0, 12.0, 12.4)),
        _timing("onnxruntime", "candidate", (4.0, 4.2, 4.0)),
        _timing("openvino", "baseline", baseline),
    ]
    if refused:
        files.append(RuntimeFile(runtime="openvino", version="2026.4", file="candidate", refused=refused))
    else:
        files.append(files[0].model_copy(update={"file": "candidate", "products": {"u8": 12, "bf16": 2}}))
        timings.append(_timing("openvino", "candidate", openvino))
    return Runtimes(files=tuple(files), timings=tuple(timings))


def _wins(found):
    return [(str(win.setting), win.runtime, round(win.ratio.value, 2)) for win in fastest_runtimes(found)]


def test_the_fastest_runtime_is_found_with_its_ratio_to_onnxruntime():
    assert _wins(_found()) == [("batch 1, sequence 32, 1 thread", "openvino", 2.0)]
    assert "OpenVINO" in fastest_sentence(_found()) and "2.0x" in fastest_sentence(_found())


def test_onnxruntime_is_the_fastest_where_it_is_faster():
    assert _wins(_found((8.0, 8.4, 8.0))) == [("batch 1, sequence 32, 1 thread", "onnxruntime", 2.0)]


def test_no_runtime_is_the_fastest_while_the_interval_contains_one():
    ((_, runtime, _),) = _wins(_found((3.9, 4.3, 4.0)))
    assert runtime == ""


def test_each_setting_has_its_own_fastest_runtime():
    one, other = _found(), _found((8.0, 8.4, 8.0))
    moved = tuple(x.model_copy(update={"batch": 8}) for x in other.timings)
    found = Runtimes(files=one.files, timings=(*one.timings, *moved))
    assert _wins(found) == [
        ("batch 1, sequence 32, 1 thread", "openvino", 2.0),
        ("batch 8, sequence 32, 1 thread", "onnxruntime", 2.0),
    ]
    for words in ("batch 1, sequence 32, 1 thread", "batch 8, sequence 32, 1 thread"):
        assert words in fastest_sentence(found)


def test_a_runtime_that_cannot_run_the_bundle_is_not_ranked_and_its_reason_is_shown():
    found = _found(refused="Conversion is failed for: QuantizeLinear-21")
    assert fastest_runtimes(found) == []
    assert any("Conversion is failed for: QuantizeLinear-21" in x for x in runtime_sentences(found, WORDS))


def test_an_uncompressed_model_that_is_faster_elsewhere_is_found():
    (win,) = baseline_wins(_found(baseline=(1.0, 1.0, 1.0)))
    assert (str(win.setting), win.runtime, round(win.ratio.value, 2)) == (
        "batch 1, sequence 32, 1 thread",
        "openvino",
        2.0,
    )
    assert baseline_wins(_found()) == []
    said = [len(runtime_sentences(x, WORDS)) for x in (_found(baseline=(1.0, 1.0, 1.0)), _found())]
    assert said[0] == said[1] + 1


def test_precision_agreement_and_types_are_shown():
    said = " ".join(runtime_sentences(_found(), WORDS))
    for figure in ("bf16", "12 in u8, 2 in bf16", "99.9 %", "83.0 %"):
        assert figure in said


def test_the_table_holds_every_file_in_every_runtime_against_one_baseline():
    table = runtime_table(_found())
    assert [row[3:7] for row in table.rows] == [
        ("ONNX Runtime", "baseline", "12.0", "1"),
        ("ONNX Runtime", "candidate", "4.00", "3.0x"),
        ("OpenVINO", "baseline", "3.00", "4.0x"),
        ("OpenVINO", "candidate", "2.00", "6.0x"),
    ]
    assert all(len(row) == len(table.columns) == len(table.align) for row in table.rows)


def test_the_section_exists_only_with_other_runtimes(int4):
    assert "runtimes" not in {x.key for x in report_sections(int4)}
    measured = int4.measurement.model_copy(update={"runtimes": _found()})
    (found,) = (
        x for x in report_sections(int4.model_copy(update={"measurement": measured})) if x.key == "runtimes"
    )
    assert found.parts[:2] == (Text(fastest_sentence(_found()), "strong"), runtime_table(_found()))


def test_a_report_with_other_runtimes_reads_back_as_it_was(int4, tmp_path):
    report = int4
    measured = report.measurement.model_copy(update={"runtimes": _found(refused="no")})
    report = report.model_copy(update={"measurement": measured})
    write_reports(report, tmp_path)
    assert load_report(tmp_path) == report
