"""Combine the ONNX files of several finished runs of one model in one directory.

They must share inputs, labels and tokenizer, and be measured on the same rows and machine; only then can a
loader choose among them by the manifest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import OutputError
from compress.export import (
    HUB_FILES,
    MANIFEST_VERSION,
    ONNX_PATH,
    read_manifest,
    seal_,
    sha256_of,
)
from compress.measure.results import LatencyComparison
from compress.measure.size import model_files
from compress.pipeline.output import may_replace
from compress.report import RunReport, load_report, to_variants_card
from compress.system.disk import new_directory, remove_leftovers
from compress.system.files import read_json
from compress.tasks import task_of_measurement
from compress.timing import Setting
from compress.version import __version__

__all__ = ["bundle_variants"]

_BASELINE = "baseline"
# The Hub's suffixes, which transformers.js knows as the dtypes q8, q4, fp16 and q4f16.
_FLOAT16 = "quantize/float16"
_SUFFIXES = {
    _FLOAT16: "_fp16",
    "quantize/int8_dynamic": "_quantized",
    "quantize/int8_static": "_quantized",
    "quantize/int8_weight_only": "_quantized",
    "quantize/int4_weight_only": "_q4",
}
_SHARED = ("task", "inputs", "outputs", "max_length")


@dataclass(frozen=True)
class _Member:
    """A bundle to combine; `report` is None for the uncompressed model, from `modelpress export`."""

    directory: Path
    manifest: dict[str, Any]
    report: RunReport | None

    @property
    def onnx(self) -> Path:
        return self.directory / ONNX_PATH

    @property
    def name(self) -> str:
        return _BASELINE if self.report is None else self.report.name

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(self.manifest.get("stages", ()))


def bundle_variants(
    runs: Sequence[str | Path], output: str | Path, *, overwrite: bool = False
) -> list[dict[str, Any]]:
    """Write a directory of variants.

    Args:
        runs: directories of runs; one may be the uncompressed model written by `modelpress export`, which
            gets the figures of the runs' baseline.
        output: target directory.
        overwrite: replace an existing bundle.

    Returns:
        The manifest's entry of each variant, in the order of `runs`.

    Raises:
        OutputError: a directory is not a run, runs are not compatible (the message says how they differ), or
            `output` cannot be written.
    """
    found = [_read(Path(run)) for run in runs]
    _belong_together(found)
    settings = _common_settings(found)
    files = _file_names(found)
    output = Path(output)
    remove_leftovers(output.absolute().parent)
    with new_directory(output, replace=may_replace(output, overwrite)) as directory:
        (directory / ONNX_PATH.parent).mkdir()
        for run, file in zip(found, files, strict=True):
            shutil.copyfile(run.onnx, directory / file)
        entries = [_entry(run, file, found, settings) for run, file in zip(found, files, strict=True)]
        first = next(run for run in found if run.report is not None)  # its labels are the data's
        _describe_(directory, output.name, first, entries)
    return entries


def _describe_(directory: Path, name: str, first: _Member, entries: list[dict[str, Any]]) -> None:
    """Write the files that all variants share, the README and the manifest."""
    for file in HUB_FILES:
        if (first.directory / file).is_file():
            shutil.copyfile(first.directory / file, directory / file)
    _drop_decision_(directory / "config.json", _of(first).measurement.candidate.decision)
    inputs = [each["name"] for each in first.manifest["inputs"]]
    card = to_variants_card(name, entries, _of(first), inputs)
    (directory / "README.md").write_text(card, encoding="utf-8")
    shared = {key: first.manifest.get(key) for key in ("labels", *_SHARED)}
    facts = {"modelpress": __version__, "variants": entries}
    seal_(directory, {"manifest_version": MANIFEST_VERSION, **shared, **facts})


def _drop_decision_(config: Path, decision: Mapping[str, float]) -> None:
    """Remove settings that each variant has its own value of, which is in the manifest."""
    if decision and config.is_file():
        entries = {key: value for key, value in read_json(config).items() if key not in decision}
        config.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(directory: Path) -> _Member:
    manifest = read_manifest(directory)
    if "variants" in manifest:
        raise OutputError(f"{directory} contains variants; give the runs that they came from")
    path = directory / ONNX_PATH
    if not path.is_file() or sha256_of(path) != manifest["sha256"].get(ONNX_PATH.as_posix()):
        raise OutputError(f"{path} is missing or was changed (its SHA-256 is not that in manifest.json)")
    if len(model_files(path)) > 1:
        raise OutputError(f"{path} stores its weights in a second file; only single files can be variants")
    has_report = (directory / "report.json").is_file()
    if has_report and "figures_hold" not in manifest:
        raise OutputError(
            f"{directory} was written by an older modelpress, which did not record where its figures hold; "
            "run its recipe again with --overwrite"
        )
    return _Member(directory, manifest, load_report(directory) if has_report else None)


def _reports(runs: Sequence[_Member]) -> list[RunReport]:
    return [run.report for run in runs if run.report is not None]


def _belong_together(runs: Sequence[_Member]) -> None:
    """Check that the runs share model, task, tokenizer, test rows and machine."""
    if len(runs) < 2:
        raise OutputError(f"variants need at least two runs; got {len(runs)}")
    measured = [run for run in runs if run.report is not None]
    if not measured or len(runs) - len(measured) > 1:
        raise OutputError(
            "at least one directory must be a run with a report.json, and at most one may be without (the "
            "uncompressed model, written by modelpress export)"
        )
    # A bundle of a model without label names has synthetic ones; see `_is_the_baseline`.
    _same(measured, "labels", lambda run: run.manifest.get("labels"))
    for key in _SHARED:
        _same(runs, key, lambda run, key=key: run.manifest.get(key))  # type: ignore[misc]
    cut = next((run for run in runs if "prune/vocabulary" in run.stages), None)
    why = f"; prune/vocabulary in {cut.directory} changes token ids" if cut else ""
    _same(runs, "tokenizer.json", lambda run: run.manifest["sha256"].get("tokenizer.json"), why)
    _same(measured, "test rows", lambda run: _of(run).data.test_fingerprint)
    _same(measured, "baseline's answers", lambda run: _of(run).measurement.baseline.accuracy)
    hint = "; latencies of two machines are not comparable, so measure all of them on one"
    _same(measured, "machine or ONNX Runtime", lambda run: _of(run).measurement.environment.fingerprint, hint)
    names = [run.name for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OutputError(f"two of the runs are named {twice}; give each recipe another name:")
    _is_the_baseline(runs, measured)


def _of(run: _Member) -> RunReport:
    assert run.report is not None
    return run.report


def _is_the_baseline(runs: Sequence[_Member], measured: Sequence[_Member]) -> None:
    """Check that a bundle without a report is the file that the runs' baseline figures were measured on."""
    for run in runs:
        if run.report is not None:
            continue
        own = run.manifest["sha256"][ONNX_PATH.as_posix()]
        other = next((x for x in measured if x.manifest.get("baseline_sha256") != own), None)
        if other is not None:
            raise OutputError(
                f"{run.directory} has no report, and its ONNX file is not the baseline that "
                f"{other.directory} was measured against; export the same model with the same opset, or "
                "leave it out"
            )


def _same(runs: Sequence[_Member], what: str, value: Callable[[_Member], object], why: str = "") -> None:
    first = runs[0]
    for run in runs[1:]:
        if value(run) != value(first):
            raise OutputError(
                f"{first.directory} and {run.directory} cannot be variants of one model: their {what} differ"
                f"{why}"
            )


def _common_settings(runs: Sequence[_Member]) -> list[Setting]:
    """Settings at which all runs were timed, in the order of the first run."""
    timed = [[x.setting for x in report.measurement.latency] for report in _reports(runs)]
    keys = [{setting.key for setting in other} for other in timed]
    common = [setting for setting in timed[0] if all(setting.key in other for other in keys)]
    if not common:
        raise OutputError(
            "the runs were timed at no common setting of batch, sequence and threads; give all recipes the "
            "same measure: and run them again"
        )
    return common


def _file_names(runs: Sequence[_Member]) -> list[str]:
    """File names with the Hub's suffixes; the run's name if a suffix is taken or does not exist."""
    names: list[str] = []
    for run in runs:
        file = f"onnx/model{_suffix(run)}.onnx"
        names.append(file if file not in names else f"onnx/model_{run.name}.onnx")
    return names


def _suffix(run: _Member) -> str:
    schemes = [stage for stage in run.stages if stage.startswith("quantize/")]
    integers = [stage for stage in schemes if stage != _FLOAT16]
    if not schemes:
        return ""
    if len(integers) < len(schemes) and _half_type(run) != "float16":  # the Hub has no name for bfloat16
        return f"_{run.name}"
    suffix = _SUFFIXES.get((integers or schemes)[-1], f"_{run.name}")
    return f"{suffix}f16" if suffix == "_q4" and _FLOAT16 in schemes else suffix


def _half_type(run: _Member) -> str:
    stages = () if run.report is None else run.report.stages
    return next((str(each.settings.get("dtype")) for each in stages if each.name == _FLOAT16), "float16")


def _entry(run: _Member, file: str, runs: Sequence[_Member], settings: Sequence[Setting]) -> dict[str, Any]:
    """The manifest's entry of one variant."""
    report = run.report or _reports(runs)[0]
    measured = report.measurement
    is_baseline = run.report is None
    accuracy = measured.baseline.accuracy if is_baseline else measured.candidate.accuracy
    by_setting = {each.setting.key: each for each in measured.latency}
    return {
        "name": run.name,
        "file": file,
        "stages": list(run.stages),
        "size_bytes": run.onnx.stat().st_size,
        "sha256": run.manifest["sha256"][ONNX_PATH.as_posix()],
        "accuracy": {
            "value": accuracy.value,
            "low": accuracy.low,
            "high": accuracy.high,
            "rows": accuracy.rows,
            "difference": 0.0 if is_baseline else measured.difference.value,
        },
        **task_of_measurement(measured).variant_facts(measured, is_baseline),
        "latency": [_latency(by_setting[setting.key], is_baseline) for setting in settings],
        "figures_hold": {
            "latency": measured.environment.cpu,
            "accuracy": "every processor" if is_baseline else run.manifest["figures_hold"]["accuracy"],
        },
    }


def _latency(found: LatencyComparison, is_baseline: bool) -> dict[str, Any]:
    speedup = (1.0, 1.0, 1.0) if is_baseline else (found.speedup, found.speedup_low, found.speedup_high)
    return {
        **found.setting.model_dump(),
        "baseline_p50_ms": found.baseline.p50_ms,  # from the same rounds: times drift, ratios hold
        "p50_ms": (found.baseline if is_baseline else found.candidate).p50_ms,
        **dict(zip(("speedup", "speedup_low", "speedup_high"), speedup, strict=True)),
    }
