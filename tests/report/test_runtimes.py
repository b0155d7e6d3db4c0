"""The section "Other runtimes": nothing is called fastest that an interval does not bear out."""

from __future__ import annotations

import pytest

from compress.measure.results import RuntimeFile, Runtimes, RuntimeTiming
from compress.report import fastest_sentence, load_report, to_html, to_markdown, write_reports
from compress.report.sections.runtimes import runtime_sentences, runtime_table
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


def test_the_fastest_runtime_is_named_with_its_ratio_to_onnxruntime():
    said = fastest_sentence(_found())
    assert said == (
        "For this bundle on this machine OpenVINO is the fastest at every setting, 2.0x "
        "(95 % interval 2.0 to 2.0) as fast as ONNX Runtime."
    )


def test_onnxruntime_is_named_where_it_is_faster():
    assert "ONNX Runtime is the fastest at every setting, 2.0x" in fastest_sentence(_found((8.0, 8.4, 8.0)))


def test_no_runtime_is_the_fastest_while_the_interval_holds_one():
    assert "no runtime is measurably the fastest at every setting" in fastest_sentence(
        _found((3.9, 4.3, 4.0))
    )


def test_settings_with_other_winners_are_told_apart():
    one, other = _found(), _found((8.0, 8.4, 8.0))
    moved = tuple(x.model_copy(update={"batch": 8}) for x in other.timings)
    said = fastest_sentence(Runtimes(files=one.files, timings=(*one.timings, *moved)))
    assert "OpenVINO is the fastest at batch 1, sequence 32, 1 thread, 2.0x" in said
    assert "ONNX Runtime is the fastest at batch 8, sequence 32, 1 thread, 2.0x" in said


def test_a_file_that_a_runtime_refuses_is_told_with_its_reason():
    said = runtime_sentences(_found(refused="Conversion is failed for: QuantizeLinear-21"), WORDS)
    assert said[0].startswith("No other runtime can run this bundle")
    assert any(
        x == "OpenVINO 2026.4 does not run the candidate: Conversion is failed for: QuantizeLinear-21."
        for x in said
    )


def test_an_uncompressed_model_that_is_faster_elsewhere_is_not_kept_quiet():
    said = runtime_sentences(_found(baseline=(1.0, 1.0, 1.0)), WORDS)
    assert any(
        x.startswith("The uncompressed model is faster than this bundle in any runtime at") for x in said
    )
    assert not any(x.startswith("The uncompressed") for x in runtime_sentences(_found(), WORDS))


def test_precision_agreement_and_types_are_said():
    said = " ".join(runtime_sentences(_found(), WORDS))
    assert "runs the candidate, computing floats in bf16 and making 12 in u8, 2 in bf16" in said
    assert "on 99.9 % of the test rows, and is right on 83.0 %" in said


def test_the_table_holds_every_file_in_every_runtime_against_one_baseline():
    table = runtime_table(_found())
    assert [row[3:7] for row in table.rows] == [
        ("ONNX Runtime", "baseline", "12.0", "1"),
        ("ONNX Runtime", "candidate", "4.00", "3.0x"),
        ("OpenVINO", "baseline", "3.00", "4.0x"),
        ("OpenVINO", "candidate", "2.00", "6.0x"),
    ]
    assert all(len(row) == len(table.columns) == len(table.align) for row in table.rows)


@pytest.mark.parametrize("render", [to_markdown, to_html])
def test_the_section_stands_where_other_runtimes_were_asked_and_nowhere_else(int4, render):
    report = int4
    assert "Other runtimes" not in render(report)
    measured = report.measurement.model_copy(update={"runtimes": _found()})
    page = render(report.model_copy(update={"measurement": measured}))
    assert "Other runtimes" in page
    assert "OpenVINO is the fastest at every setting" in page


def test_a_report_with_other_runtimes_reads_back_as_it_was(int4, tmp_path):
    report = int4
    measured = report.measurement.model_copy(update={"runtimes": _found(refused="no")})
    report = report.model_copy(update={"measurement": measured})
    write_reports(report, tmp_path)
    assert load_report(tmp_path) == report
