"""The end of a run: export, check and measure the result; write report, bundle and manifest."""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path
from typing import Any

from torch import nn

from compress.data import Splits
from compress.deploy.variants import HOLDS_WITH_EXACT_SUMS
from compress.export import described, sha256_of, write_bundle_, write_manifest_
from compress.measure import FilePair, installed_runtimes, sums_are_exact
from compress.model.counts import weight_counts
from compress.model.decoder_cache import context_length
from compress.model.parts import PARTS, bytes_by_part
from compress.model.saturation import saturation_risk
from compress.pipeline.caveats import warnings_of
from compress.pipeline.exported import Exported, exported
from compress.pipeline.measuring import floor_of, ladder_of, measured
from compress.pipeline.prepare import Run
from compress.pipeline.stages import Base, Work, epochs_of, metric_of
from compress.recipe import Recipe
from compress.report import (
    DataFacts,
    ModelFacts,
    PartSize,
    RunReport,
    judged,
    last_promise,
    to_model_card,
    write_reports,
)
from compress.version import __version__

__all__ = ["published"]

_SATURATION_ROWS = 64  # evaluated one at a time, twice


def published(run: Run, base: Base, work: Work, directory: Path, began: float) -> RunReport:
    """Export, check and measure the result, and write everything into a directory.

    Args:
        began: start of the work, from `time.perf_counter`.
    """
    run.progress.say("exporting to ONNX and comparing the outputs with PyTorch's")
    candidate = exported(run.recipe, work.module, work.splits, run.scratch / "candidate")
    report = _report(run, base, work, candidate)
    promise = last_promise(report)
    outcome = {} if promise is None else {"promise": promise.outcome}
    report = report.model_copy(update={**outcome, "seconds": time.perf_counter() - began})
    _write(run, base, work, candidate, report, directory)
    return report


def _report(run: Run, base: Base, work: Work, candidate: Exported) -> RunReport:
    """Measure, and collect all facts; `seconds` is still 0."""
    recipe, splits = run.recipe, run.splits
    pair = FilePair(
        base.onnx.path, candidate.path, splits.test, splits.task, work.splits.test, work.splits.task
    )
    runtimes = recipe.measure.runtimes or installed_runtimes()
    measurement = measured(recipe, pair, runtimes=runtimes, progress=run.progress)
    names = [stage.name for stage in recipe.stages]
    steps = work.with_step(candidate.path, len(names), names).steps
    few = work.splits.validation.take(_SATURATION_ROWS, seed=recipe.seed)
    saturation = saturation_risk(work.module, few, work.splits.task)
    doubts = warnings_of(recipe, splits, measurement, work.records)
    floor, no_floor = floor_of(run, measurement)
    return RunReport(
        name=recipe.run_name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        modelpress_version=__version__,
        command=_command(recipe),
        recipe=recipe.resolved(relative_to=Path.cwd()),
        data=_data_facts(splits),
        model=_model_facts(run, base),
        stages=work.records,
        parity=candidate.parity,
        measurement=measurement,
        warnings=(*run.notes, *_cut_vocabulary_notes(run, work), *no_floor, *doubts),
        saturation=saturation,
        parts=_parts(base.module, work.module),
        floor=floor,
        ladder=ladder_of(run, steps, measurement),
        gates=judged(recipe.gates, measurement),
        seconds=0.0,
    )


def _model_facts(run: Run, base: Base) -> ModelFacts:
    return ModelFacts(
        source=run.loaded.source,
        parameters=weight_counts(base.module)[0],
        validation_metric=metric_of(base.module, run.splits),
        training=epochs_of(base.training.get("curve", [])),
        precision=base.training.get("precision", ""),
        parity=base.onnx.parity,
    )


def _cut_vocabulary_notes(run: Run, work: Work) -> tuple[str, ...]:
    if work.splits.test is run.splits.test:
        return ()
    return work.splits.reader.doubts(work.splits.test, "the smaller tokenizer of the candidate")


def _parts(base: nn.Module, module: nn.Module) -> tuple[PartSize, ...]:
    before, after = bytes_by_part(base), bytes_by_part(module)
    return tuple(
        PartSize(name=name, baseline_bytes=before[name], candidate_bytes=after[name]) for name in PARTS
    )


def _data_facts(splits: Splits) -> DataFacts:
    return DataFacts(
        source=splits.source,
        train_rows=len(splits.train),
        validation_rows=len(splits.validation),
        test_rows=len(splits.test),
        labels=splits.task.labels,
        notes=splits.notes,
        test_fingerprint=splits.test.fingerprint(labels=not splits.task.labels_from_model),
    )


def _command(recipe: Recipe) -> str:
    where = recipe.path
    if where is None:
        return "modelpress run recipe.resolved.yaml"
    shown = where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else Path(where.name)
    return " ".join(["modelpress", "run", shown.as_posix(), *recipe.overrides])


def _write(run: Run, base: Base, work: Work, candidate: Exported, report: RunReport, directory: Path) -> None:
    recipe, splits = run.recipe, work.splits
    write_bundle_(
        directory,
        work.module,
        candidate.path,
        splits.task,
        reader=splits.reader,
        max_length=recipe.data.longest,
    )
    (directory / "recipe.resolved.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    names = splits.task.input_names
    write_reports(report, directory, names)
    (directory / "README.md").write_text(to_model_card(report, inputs=names), encoding="utf-8")
    facts = _manifest_facts(run, report, base.onnx) | described(work.module, splits.task)
    write_manifest_(directory, splits.task, facts)


def _manifest_facts(run: Run, report: RunReport, baseline: Exported) -> dict[str, Any]:
    """Entries of the manifest besides inputs, outputs and checksums."""
    measurement = report.measurement
    machine, task = measurement.environment, run.splits.task
    length, context = run.recipe.data.longest, context_length(run.loaded.module)
    return {
        "run_key": run.keys.run,
        "modelpress": __version__,
        "max_length": length,
        **({"context_length": context} if task.keeps_past else {}),
        **run.splits.reader.facts(),
        "stages": [stage.name for stage in run.recipe.stages],
        "accuracy": task.manifest_score(measurement, run.splits.reader.how, length or 0),
        "measured_on": machine.cpu,
        "instruction_sets": list(machine.instruction_sets),
        "figures_hold": {
            "latency": f"this processor and ONNX Runtime {machine.packages.get('onnxruntime', 'unknown')}",
            "accuracy": _where_answers_hold(report),
        },
        "baseline_sha256": sha256_of(baseline.path),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def _where_answers_hold(report: RunReport) -> str:
    """Short, for programs to compare: int8 sums of large weights differ on x86 without VNNI."""
    if report.saturation is None or not report.saturation.is_possible:
        return "every processor"
    exact = sums_are_exact(report.measurement.environment.instruction_sets)
    return "x86 without VNNI" if exact is False else HOLDS_WITH_EXACT_SUMS
