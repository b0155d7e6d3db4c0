"""The report as tables of text: what Markdown and HTML both show, cell for cell."""

from __future__ import annotations

from dataclasses import dataclass

from compress.measure.results import Accuracy
from compress.report.schema import EpochRecord, ModelFacts, RunReport, StageRecord
from compress.report.sections.gates import gate_sentence
from compress.report.sections.saturation import saturation_sentence
from compress.report.words import (
    RUN_NOISE,
    difference_text,
    duration,
    headline,
    interval_text,
    milliseconds,
    percent,
    ratio_of,
    ratio_text,
    setting,
    size,
    size_words,
    speedup_words,
)
from compress.tasks import task_of_measurement

__all__ = [
    "Table",
    "curve_table",
    "data_table",
    "environment_table",
    "figures_table",
    "gates_table",
    "latency_table",
    "operators_table",
    "parity_table",
    "parts_table",
    "stage_summary",
    "stages_table",
    "training_summary",
]


@dataclass(frozen=True)
class Table:
    """Text in rows.

    Attributes:
        align: one letter a column: l(eft) or r(ight).
        sorts: its rows are of one kind, so that a reader may order them.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    title: str = ""
    sorts: bool = True


def _accuracy(accuracy: Accuracy) -> str:
    return f"{percent(accuracy.value)} ({100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})"


def figures_table(report: RunReport) -> Table:
    """Accuracy, headline latency, size, memory and load time: baseline, candidate, change."""
    measured = report.measurement
    before, after, difference = measured.baseline, measured.candidate, measured.difference
    same = difference.low <= 0 <= difference.high
    words = task_of_measurement(measured).words
    rows = [
        (
            f"{words.metric}, {after.accuracy.units:,} test {difference.unit}s (95 % interval)",
            _accuracy(before.accuracy),
            _accuracy(after.accuracy),
            f"{difference_text(difference)} points" + (": no measurable difference" if same else ""),
        ),
        (
            f"accuracy in {words.batches} of {after.accuracy.batched_size}",
            percent(before.accuracy.batched_value),
            percent(after.accuracy.batched_value),
            f"{before.accuracy.batched_disagreements:,} and {after.accuracy.batched_disagreements:,} "
            f"{difference.unit}s answered otherwise than {words.alone}",
        ),
        (
            f"same {words.answer} as the baseline",
            "",
            percent(difference.agreement),
            f"{difference.gained:,} {difference.unit}s that only the candidate gets right, "
            f"{difference.lost:,} that only the baseline does",
        ),
    ]
    latency = headline(report)
    if latency is not None:
        rows.append(
            (
                f"latency p50, {setting(latency)}",
                milliseconds(latency.baseline.p50_ms),
                milliseconds(latency.candidate.p50_ms),
                speedup_words(latency),
            )
        )
    rows += [
        _bytes_row("file size", before.size.file_bytes, after.size.file_bytes),
        _bytes_row("file size, gzip", before.size.gzip_bytes, after.size.gzip_bytes),
        (
            "peak memory",
            size(before.peak_memory_bytes),
            size(after.peak_memory_bytes),
            size_words(before.peak_memory_bytes, after.peak_memory_bytes, "less", "more", RUN_NOISE),
        ),
        (
            "time to load",
            milliseconds(before.load_ms),
            milliseconds(after.load_ms),
            size_words(before.load_ms, after.load_ms, "shorter", "longer", RUN_NOISE),
        ),
    ]
    return Table(("figure", "baseline", "candidate", "change"), tuple(rows), "lrrl", sorts=False)


def _bytes_row(name: str, before: int, after: int) -> tuple[str, str, str, str]:
    return name, size(before), size(after), size_words(before, after)


def latency_table(report: RunReport) -> Table:
    """Every setting: p50 and p95 of both, speed-up with its interval, rows a second."""
    rows = tuple(
        (
            str(x.batch),
            str(x.sequence),
            str(x.threads),
            milliseconds(x.baseline.p50_ms, unit=False),
            milliseconds(x.baseline.p95_ms, unit=False),
            milliseconds(x.candidate.p50_ms, unit=False),
            milliseconds(x.candidate.p95_ms, unit=False),
            ratio_text(x.speedup, x.speedup_low, x.speedup_high),
            interval_text(x.speedup, x.speedup_low, x.speedup_high),
            _speed_in_a_word(x.speedup_low, x.speedup_high),
            f"{x.candidate.throughput_per_s:,.0f}",
        )
        for x in report.measurement.latency
    )
    columns = ("batch", "sequence", "threads", "baseline p50 ms", "p95 ms", "candidate p50 ms", "p95 ms")
    more = ("speed-up", "95 % interval", "in words", "candidate rows/s")
    return Table(columns + more, rows, "rrrrrrrrrlr")


def _speed_in_a_word(low: float, high: float) -> str:
    return "faster" if low > 1 else "slower" if high < 1 else "no measurable speed-up"


def operators_table(report: RunReport) -> Table:
    """How many nodes of each kind ONNX Runtime runs, most frequent first."""
    before, after = report.measurement.baseline.operators, report.measurement.candidate.operators
    names = sorted(before.keys() | after.keys(), key=lambda x: (-max(before.get(x, 0), after.get(x, 0)), x))
    rows = tuple((name, f"{before.get(name, 0):,}", f"{after.get(name, 0):,}") for name in names)
    return Table(("operator", "baseline", "candidate"), rows, "lrr")


def parity_table(report: RunReport) -> Table:
    """Each ONNX file against the PyTorch model that it came from."""
    rows = tuple(
        (
            who,
            f"{p.rows:,}",
            f"{100 * p.agreement:.2f} % (at least {100 * p.min_agreement:.2f})",
            f"{100 * p.metric_difference:+.2f} (at most {100 * p.max_metric_difference:.2f})".replace(
                "-", "−"
            ),
            f"{p.max_abs_error:.2g}",
            "–" if p.relative_error is None else f"{p.relative_error:.2g} (at most {p.max_relative_error:g})",
            "holds" if p.holds else "does not hold",
        )
        for who, p in (("baseline", report.model.parity), ("candidate", report.parity))
    )
    same = f"same {task_of_measurement(report.measurement).words.answer}"
    columns = (
        "file",
        "rows",
        same,
        "metric difference, points",
        "largest logit error",
        "difference of outputs over their spread",
        "parity",
    )
    return Table(columns, rows, "lrrrrrl")


def data_table(report: RunReport) -> Table:
    """Where the rows come from, and how many."""
    data = report.data
    labels = ", ".join(data.labels[:20]) + (
        f" and {len(data.labels) - 20:,} more" if data.labels[20:] else ""
    )
    rows = [
        ("source", data.source),
        (
            "rows: train, validation, test",
            f"{data.train_rows:,}, {data.validation_rows:,}, {data.test_rows:,}",
        ),
        *([(f"labels ({len(data.labels):,})", labels)] if data.labels else []),
        ("fingerprint of the test rows", data.test_fingerprint),
        *(("note", note) for note in data.notes),
    ]
    return Table(("data", ""), tuple(rows), "ll")


def environment_table(report: RunReport) -> Table:
    """The machine and the versions that the figures hold for."""
    machine = report.measurement.environment
    rows = [
        ("processor", machine.cpu),
        ("cores", str(machine.cores)),
        ("instruction sets", ", ".join(machine.instruction_sets) or "not known"),
        *_where_int8_holds(report),
        ("memory", size(machine.memory_bytes)),
        ("system", machine.system),
        ("Python", machine.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items()))),
        ("session options", ", ".join(f"{key}={value}" for key, value in machine.session_options.items())),
        ("fingerprint", machine.fingerprint),
    ]
    return Table(("environment", ""), tuple(rows), "ll")


def _where_int8_holds(report: RunReport) -> list[tuple[str, str]]:
    """Said here where nothing is at risk; where something is, it stands among the warnings."""
    found = report.saturation
    if found is None or found.is_possible:
        return []
    return [("other processors", saturation_sentence(found, report.measurement.environment.instruction_sets))]


def stages_table(report: RunReport) -> Table:
    """The original and each stage: validation metric, parameters, cost."""
    model = report.model
    rows = [("0", "original", percent(model.validation_metric), f"{model.parameters:,}", "", "", "", "")]
    for number, stage in enumerate(report.stages, start=1):
        fewer = ratio_of(model.parameters, stage.parameters)
        zeros = 1 - stage.nonzero_parameters / stage.parameters if stage.parameters else 0.0
        rows.append(
            (
                str(number),
                stage.name,
                percent(stage.validation_metric),
                f"{stage.parameters:,}",
                "" if fewer is None else ratio_text(fewer),
                percent(zeros),
                duration(stage.seconds) + (" (reused)" if stage.reused else ""),
                size(stage.peak_memory_bytes),
            )
        )
    columns = ("", "stage", "validation metric", "parameters", "fewer by", "zeros", "time", "peak memory")
    return Table(columns, tuple(rows), "rlrrrrrr")


def stage_summary(stage: StageRecord, metric_before: float) -> str:
    """One line: what a stage made of the validation metric, and what it cost."""
    reused = "; reused from an earlier run, whose cost this is" if stage.reused else ""
    return (
        f"Validation metric {percent(metric_before)} → {percent(stage.validation_metric)}; "
        f"{duration(stage.seconds)}, peak memory {size(stage.peak_memory_bytes)}{reused}."
    )


def training_summary(model: ModelFacts) -> str:
    """One line on how the original was trained; empty in reports that don't know."""
    return f"Trained in {model.precision}." if model.precision else ""


def curve_table(curve: tuple[EpochRecord, ...]) -> Table:
    """Losses and metric, an epoch a row."""
    rows = tuple(
        (str(x.epoch), f"{x.train_loss:.4f}", f"{x.validation_loss:.4f}", percent(x.validation_metric))
        for x in curve
    )
    return Table(("epoch", "training loss", "validation loss", "validation metric"), rows, "rrrr", "Training")


def gates_table(report: RunReport) -> Table:
    """Each gate: whether it holds, what was wanted and what was measured."""
    rows = tuple(
        ("holds" if gate.holds else "fails" if gate.fails else "not judged", gate_sentence(gate))
        for gate in report.gates
    )
    return Table(("gate", "wanted and measured"), rows, "ll")


def parts_table(report: RunReport) -> Table:
    """Bytes of the weights by part, before and after."""
    rows = tuple(
        (
            part.name,
            size(part.baseline_bytes),
            size(part.candidate_bytes),
            size_words(part.baseline_bytes, part.candidate_bytes) if part.baseline_bytes else "",
        )
        for part in report.parts
    )
    return Table(("weights of", "baseline", "candidate", "change"), rows, "lrrr")
