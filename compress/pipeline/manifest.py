"""What the manifest of a run's bundle says beside inputs, outputs and checksums."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from compress.data import PREPROCESSOR_FILE
from compress.deploy.variants import HOLDS_WITH_EXACT_SUMS
from compress.export import sha256_of
from compress.measure import sums_are_exact
from compress.model.decoder_cache import context_length
from compress.pipeline.prepare import Prepared
from compress.report import RunReport
from compress.version import __version__

__all__ = ["manifest_facts"]


def manifest_facts(report: RunReport, prepared: Prepared, baseline: Path) -> dict[str, Any]:
    """Collect them.

    Args:
        report: of the run.
        prepared: the run's recipe and keys.
        baseline: the uncompressed ONNX file that the figures are relative to.
    """
    recipe, measurement = prepared.recipe, report.measurement
    machine, task = measurement.environment, prepared.splits.task
    length = getattr(recipe.data, "max_length", 0)
    processor, context = prepared.splits.processor, context_length(prepared.loaded.module)
    how = "one row at a time, truncated to max_length, no padding"
    if processor is not None:
        how = f"one picture at a time, read as {PREPROCESSOR_FILE} says"
    return {
        "run_key": prepared.run_key,
        "modelpress": __version__,
        "max_length": length or None,
        **({"context_length": context} if task.keeps_past else {}),
        **({} if processor is None else {"image": processor.facts()}),
        "stages": [stage.name for stage in recipe.stages],
        "accuracy": task.manifest_score(measurement, how, length),
        "measured_on": machine.cpu,
        "instruction_sets": list(machine.instruction_sets),
        "figures_hold": {
            "latency": f"this processor and ONNX Runtime {machine.packages.get('onnxruntime', 'unknown')}",
            "accuracy": _where_answers_hold(report),
        },
        "baseline_sha256": sha256_of(baseline),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def _where_answers_hold(report: RunReport) -> str:
    """Short, for a program to compare: int8 sums of large weights differ on x86 without VNNI."""
    if report.saturation is None or not report.saturation.is_possible:
        return "every processor"
    exact = sums_are_exact(report.measurement.environment.instruction_sets)
    return "x86 without VNNI" if exact is False else HOLDS_WITH_EXACT_SUMS
