"""Results and cost of each stage: training, facts, settings, and charts of what it kept or tried."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from compress.facts import Sensitivity
from compress.page import Chart, Heat, Pairs, Part, Row, Section, Table, Text, heat_cells, parts_of
from compress.page.format import PERCENT, Scale, duration, percent, size, size_words
from compress.report.charts.curves import loss_curve, metric_curve
from compress.report.plain_facts import facts_of, settings_of
from compress.report.schema import EpochRecord, RunReport, StageRecord
from compress.report.sections.cut import kept_chart
from compress.tasks import task_of_measurement

__all__ = ["section", "sensitivity_map", "stages_table"]

_LOSS = "Loss. Solid line, hollow marks: training; dashed line, filled marks: validation."
_SENSITIVITY = (
    "{what}, in thousandths of a nat, mean over {rows:,} validation rows; a stronger shade is a larger "
    "divergence. Outlined: the chosen scheme; a group without an outline stays float."
)
_HOW = {
    False: "Each group of layers quantized alone: divergence from the float model's outputs",
    True: "Each group's part in the divergence of the whole quantized model from the float model's outputs",
}


def section(report: RunReport) -> Section:
    """The original and each stage: validation metric, parameters and cost, then each stage in detail."""
    model, metric = report.model, report.model.validation_metric
    details = []
    scale = task_of_measurement(report.measurement).words.scale
    if model.training:
        summary = Text(f"Trained in {model.precision}.") if model.precision else None
        details.append(
            Section("0. Training of the original model", parts_of(summary, _training(model.training, scale)))
        )
    for number, stage in enumerate(report.stages, start=1):
        details.append(Section(f"{number}. {stage.name}", parts_of(_stage(stage, metric, scale))))
        metric = stage.validation_metric
    original = Text(f"Original model: {model.source}")
    return Section("Stages", (original, stages_table(report), *details), "stages")


def stages_table(report: RunReport) -> Table:
    """The original and each stage: validation metric, parameters, cost."""
    model, scale = report.model, task_of_measurement(report.measurement).words.scale
    rows = [("0", "original", scale.text(model.validation_metric), f"{model.parameters:,}", "", "", "", "")]
    for number, stage in enumerate(report.stages, start=1):
        zeros = 1 - stage.nonzero_parameters / stage.parameters if stage.parameters else 0.0
        rows.append(
            (
                str(number),
                stage.name,
                scale.text(stage.validation_metric),
                f"{stage.parameters:,}",
                size_words(model.parameters, stage.parameters, "fewer", "more"),
                percent(zeros),
                duration(stage.seconds) + (" (reused)" if stage.reused else ""),
                size(stage.peak_memory_bytes),
            )
        )
    columns = ("", "stage", "validation metric", "parameters", "change", "zeros", "time", "peak memory")
    return Table(columns, tuple(rows), "rlrrrrrr")


def _stage(stage: StageRecord, metric_before: float, scale: Scale) -> list[Part]:
    known = stage.known
    pairs, tables = facts_of(known.plain)
    reused = "; reused from an earlier run, whose time and memory these are" if stage.reused else ""
    parts: list[Part] = [
        Text(
            f"Validation metric {scale.text(metric_before)} → {scale.text(stage.validation_metric)}; "
            f"{duration(stage.seconds)}, peak memory {size(stage.peak_memory_bytes)}{reused}."
        )
    ]
    parts += [kept_chart(kept.what, kept.sites) for kept in known.kept]
    if (found := known.sensitivity) is not None:
        parts += [sensitivity_map(found)]
        parts += [Text(_SENSITIVITY.format(what=_HOW[found.estimated], rows=found.rows), "note")]
    parts += [Pairs(tuple(pairs))] if pairs else []
    parts += tables
    parts += _training(stage.curve, scale) if stage.curve else []
    settings = tuple(settings_of(stage.settings))
    return [*parts, Pairs(settings, folded="Settings")] if settings else parts


def sensitivity_map(found: Sensitivity) -> Heat:
    """Cost of each scheme in each group of layers, with the chosen one marked."""
    largest = max((value for row in found.groups.values() for value in row), default=0.0)
    rows = []
    for name, row in found.groups.items():
        chosen = found.chosen[name]
        marked = [found.schemes.index(chosen)] if chosen in found.schemes else []
        rows.append((name, heat_cells([1000 * value for value in row], 1000 * largest, marked)))
    return Heat("Sensitivity map", "layers", found.schemes, tuple(rows))


def _training(curve: Sequence[EpochRecord], scale: Scale) -> list[Part]:
    rows = tuple(
        (str(x.epoch), f"{x.train_loss:.4f}", f"{x.validation_loss:.4f}", scale.text(x.validation_metric))
        for x in curve
    )
    columns = ("epoch", "training loss", "validation loss", "validation metric")
    charts = (
        Chart(partial(loss_curve, curve), _LOSS),
        Chart(
            partial(metric_curve, curve, scale),
            f"Validation metric{', percent' if scale == PERCENT else ''}.",
        ),
    )
    return [Row(charts), Table(columns, rows, "rrrr", "training", folded="Values of the curves")]
