"""`modelpress check`: a bundle as it was written passes; what was changed, or is not reached, is named."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.cli import main
from compress.errors import DataError, OutputError, ParityError, RecipeError
from compress.measure import FilePair, Measurement
from compress.pipeline import check_bundle, export_model, run
from compress.report import CheckReport, check_summary, load_report

CHECK = import_module("compress.pipeline.bundles.check")
MEASURED = import_module("compress.pipeline.measuring")
QUICK = ("measure.rounds=3", "measure.seconds=0.01", "measure.batch=[1]", "measure.threads=[1]")


@pytest.fixture
def bundle(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run / "reports" / "digits", tmp_path / "digits"))


@pytest.fixture
def measured(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Measurement | None], list[Any]]:
    """Have measurements come back as the bundle's report has them, or as given; return what was asked for.

    Whatever else ran on this machine when the report was made, the machine is a quiet one.
    """

    def use(measurement: Measurement | None = None) -> list[Any]:
        asked: list[Any] = []

        def measure_pair(pair: FilePair, *how: Any, **options: Any) -> Measurement:
            asked.append(pair)
            return measurement or beside_other_work(load_report(bundle).measurement, 0)

        monkeypatch.setattr(MEASURED, "measure_pair", measure_pair)
        return asked

    return use


def beside_other_work(found: Measurement, disturbed: int) -> Measurement:
    busy = {"disturbed_rounds": disturbed, "used_by_others": 0.7}
    return found.model_copy(update={"latency": tuple(each.model_copy(update=busy) for each in found.latency)})


@pytest.fixture
def machine(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Have measurements come back from a machine that is busy so many times, and waiting end as given."""

    def use(*disturbed: int, gets_quiet: bool = True) -> list[str]:
        found = load_report(bundle).measurement
        left, done = list(disturbed), []

        def measure_pair(*files: Any, **options: Any) -> Measurement:
            done.append("measured")
            return beside_other_work(found, left.pop(0))

        def wait_until_quiet(seconds: float, **options: Any) -> bool:
            done.append("waited")
            return gets_quiet

        monkeypatch.setattr(MEASURED, "measure_pair", measure_pair)
        monkeypatch.setattr(MEASURED, "wait_until_quiet", wait_until_quiet)
        return done

    return use


def failed(report: CheckReport) -> dict[str, str]:
    return {check.name: check.found for check in report.checks if not check.holds}


def test_a_bundle_as_it_was_written_holds_and_is_measured(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    junit = tmp_path / "new" / "junit.xml"
    words = ["check", str(bundle), *QUICK, "gates.max_size_mb=50", "--junit", str(junit), "--json"]
    assert main(words) == 0
    report = CheckReport.model_validate_json(capsys.readouterr().out)
    assert report.holds and [check.name for check in report.checks] == [
        "files of digits",
        "parity",
        "accuracy as reported",
        "gate max_size_mb",
    ]
    assert report.measurement is not None and len(report.measurement.latency) == 1
    assert not any("speed-up" in note for note in report.measurement.noise)  # of a file over itself
    then = load_report(bundle).measurement.candidate
    assert report.measurement.candidate.accuracy.correct == then.accuracy.correct
    suite = ET.parse(junit).getroot().find("testsuite")
    assert suite is not None and (suite.get("tests"), suite.get("failures")) == ("4", "0")
    assert len(suite.findall("testcase")) == 4 and suite.findall("testcase/failure") == []
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("before\n### modelpress check ") and "gate max_size_mb" in summary


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.write_bytes(file.read_bytes() + b"x"), "onnx/model.onnx was changed"),
        (lambda file: file.unlink(), "onnx/model.onnx is missing"),
    ],
)
def test_a_changed_file_fails_and_is_not_run(
    bundle: Path,
    measured: Callable[..., list[Any]],
    change: Callable[[Path], Any],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = measured()
    change(bundle / "onnx" / "model.onnx")
    report = check_bundle(bundle)
    assert list(failed(report)) == ["files of digits"]
    assert words in failed(report)["files of digits"] and asked == [] and report.measurement is None
    assert "| FAILS |" in check_summary(report)
    assert main(["check", str(bundle)]) == 3
    assert "fails: files of digits: onnx/model.onnx" in capsys.readouterr().out


def test_a_manifest_that_names_files_elsewhere_is_not_followed(bundle: Path) -> None:
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["sha256"]["../other"] = "0" * 64
    file.write_text(json.dumps(manifest))
    assert failed(check_bundle(bundle)) == {"files of digits": "../other is outside the bundle"}


@pytest.mark.parametrize("change", ["empty", "more", "without_onnx"])
def test_a_manifest_that_does_not_name_what_is_there_fails(
    bundle: Path, measured: Callable[..., list[Any]], change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = measured()
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text())
    if change == "empty":
        manifest["sha256"] = {}
    elif change == "more":
        (bundle / "more.txt").write_text("x")
    else:
        del manifest["sha256"]["onnx/model.onnx"]
        (bundle / "onnx" / "model.onnx").unlink()
    file.write_text(json.dumps(manifest))
    assert main(["check", str(bundle)]) == 3 and asked == []
    named = "more.txt" if change == "more" else "onnx/model.onnx"
    assert named in capsys.readouterr().out


def test_gates_are_judged_by_what_is_measured_now(bundle: Path, measured: Callable[..., list[Any]]) -> None:
    measured()
    values = ["gates.max_size_mb=0.001", "gates.max_p95_ms=100000"]
    report = check_bundle(bundle, values=values)
    assert list(failed(report)) == ["gate max_size_mb"]
    assert "gate max_p95_ms" in [check.name for check in report.checks]


def test_a_gate_that_fails_beside_other_work_is_measured_again(
    bundle: Path, machine: Callable[..., list[str]]
) -> None:
    done = machine(5, 0)
    assert main(["check", str(bundle), "gates.max_p95_ms=0.000001"]) == 3
    assert done == ["measured", "waited", "measured"]
    done = machine(5, 4, 0)
    assert main(["check", str(bundle), "gates.max_p95_ms=100000"]) == 0
    assert done == ["measured"], "other work only makes it slower, and it is fast enough"


def test_a_machine_that_stays_busy_judges_no_speed_and_has_an_exit_code_of_its_own(
    bundle: Path,
    machine: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    junit = tmp_path / "junit.xml"
    words = ["check", str(bundle), "gates.max_p95_ms=0.000001", "--junit", str(junit)]
    done = machine(5, 5, 5)
    assert main(words) == 4
    assert done == ["measured", *["waited", "measured"] * 2]
    assert "not judged: gate max_p95_ms" in capsys.readouterr().out
    suite = ET.parse(junit).getroot().find("testsuite")
    assert suite is not None and (suite.get("failures"), suite.get("skipped")) == ("0", "1")
    assert [case.get("name") for case in suite if case.find("skipped") is not None] == ["gate max_p95_ms"]
    done = machine(5, gets_quiet=False)
    report = check_bundle(bundle, values=["gates.max_p95_ms=0.000001"])
    assert done == ["measured", "waited"]
    assert not report.holds and not report.fails and "not judged" in check_summary(report)
    again = CheckReport.model_validate_json(report.model_dump_json())
    assert [check.name for check in again.checks if not check.judged] == ["gate max_p95_ms"]


def test_what_fails_for_certain_is_a_failure_whatever_was_not_judged(
    bundle: Path, machine: Callable[..., list[str]]
) -> None:
    machine(5, 5, 5)
    gates = ["gates.max_p95_ms=0.000001", "gates.max_size_mb=0.000001"]
    assert main(["check", str(bundle), *gates]) == 3


def test_gates_that_compare_need_something_to_compare_with(
    bundle: Path, measured: Callable[..., list[Any]]
) -> None:
    asked = measured()
    for override in ("gates.max_perplexity_ratio=1.1", "gates.min_speedup=2", "gates={min_speedup: 2}"):
        with pytest.raises(RecipeError) as refused:
            check_bundle(bundle, values=["gates.max_size_mb=9", override])
        assert (refused.value.file, refused.value.overrides) == (None, (override,))
        assert str(refused.value.key).startswith("gates.m")
    assert asked == []


def test_gates_where_nothing_is_measured_and_data_of_another_kind_are_refused(
    bundle: Path, measured: Callable[..., list[Any]]
) -> None:
    asked = measured()
    with pytest.raises(RecipeError, match=r"gates\.batch: 77 .*measure\.batch is ") as refused:
        check_bundle(bundle, values=["gates.batch=77", "gates.max_p95_ms=1"])
    assert (refused.value.overrides, refused.value.key) == (("gates.batch=77",), "gates.batch")
    with pytest.raises(DataError, match="tokenizer"):  # which a model of numbers hasn't
        check_bundle(bundle, values=["data={source: file, train: gone.csv}"])
    assert asked == []


def test_another_bundle_is_measured_in_turns_with_it(
    bundle: Path, measured: Callable[..., list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = measured()
    other = tmp_path / "other"
    export_model(str(bundle / "recipe.resolved.yaml"), other)
    code = main(["check", str(bundle), "--against", str(other), "gates.min_speedup=100000"])
    said = " ".join(capsys.readouterr().out.split())  # lines are broken at the terminal's width
    assert code == 3 and "fails: gate min_speedup" in said and "holds: files of other" in said
    assert "/other: accuracy " in said
    (pair,) = asked
    assert [file.parent.parent for file in (pair.baseline, pair.candidate)] == [other, bundle]
    assert pair.candidate_test is not None and len(pair.candidate_test) == len(pair.test)


def test_an_accuracy_outside_of_the_reports_interval_fails(
    bundle: Path, measured: Callable[..., list[Any]]
) -> None:
    found = load_report(bundle).measurement
    right = found.candidate.accuracy
    worse = right.model_copy(update={"correct": right.correct // 2, "value": right.value / 2})
    candidate = found.candidate.model_copy(update={"accuracy": worse})
    measured(found.model_copy(update={"candidate": candidate}))
    assert list(failed(check_bundle(bundle))) == ["accuracy as reported"]


def test_answers_that_are_not_the_modules_fail_and_nothing_is_timed(
    bundle: Path, measured: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measured()
    load_model = CHECK.load_model

    def spoiled(*given: Any, **options: Any) -> Any:
        loaded = load_model(*given, **options)
        for name, tensor in loaded.module.state_dict().items():
            if name.endswith("scale"):
                tensor.mul_(-1)
        return loaded

    monkeypatch.setattr(CHECK, "load_model", spoiled)
    report = check_bundle(bundle)
    assert list(failed(report)) == ["parity"] and asked == []


def test_what_is_no_run_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=re.escape(str(tmp_path))):
        check_bundle(tmp_path)
    (bundle / "recipe.resolved.yaml").unlink()
    with pytest.raises(OutputError, match=r"recipe\.resolved\.yaml"):
        check_bundle(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "variants": []}))
    with pytest.raises(OutputError, match="variants"):
        check_bundle(bundle)


MODEL = """\
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.middle, self.classifier = nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, input_ids):
        x = self.middle(self.embed(input_ids))
        if input_ids.shape[1] == 1:
            x = x * 5
        return self.classifier(x.mean(1))
"""


def test_a_file_that_lost_what_the_module_does_at_another_length_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", input_ids=draw.integers(0, 30, (200, 6)), labels=np.arange(200) % 2)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "own.yaml").write_text(
        "model: {file: model.py, builder: Model}\n"
        "data: {source: arrays, train: rows.npz}\n"
        "stages: [quantize/int8_weight_only]\n"
        "measure: {batch: [1], threads: [1], rounds: 3, seconds: 0.01, ladder: false}\n"
    )
    with pytest.raises(ParityError, match=r"a row of 1 "):
        run(tmp_path / "own.yaml", tmp_path / "reports")
    with monkeypatch.context() as blind:
        blind.setattr(import_module("compress.export.onnx_file"), "proof_lengths", lambda *_: ())
        bundle = run(tmp_path / "own.yaml", tmp_path / "reports").directory
    found = failed(check_bundle(bundle))
    assert list(found) == ["parity"] and "a row of 1 " in found["parity"]
