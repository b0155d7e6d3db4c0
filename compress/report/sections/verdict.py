"""The verdict of a report, and caveats against trusting or shipping the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from compress.page import Bullets, Line, Section
from compress.page.format import capital, counted, percent, plural, size
from compress.report.phrases import difference_text, headline, setting, speedup_words
from compress.report.schema import RunReport
from compress.report.sections.about import saturation_matters, saturation_summary
from compress.report.sections.floor import not_worse
from compress.report.sections.promise import last_promise, promise_words
from compress.report.sections.task import page_of
from compress.tasks import task_of_measurement

__all__ = ["Caveat", "caveats", "section", "verdict"]

_ZEROS_WORTH_SAYING = 0.05
_LOSS_WORTH_SAYING = 0.02
_LINE = 90  # characters of a warning above which all after its first clause is folded
_SHORTEST = 25  # characters of a clause; a shorter one is a name, such as `data.text: ...`
_CLAUSE = re.compile(r"[:;] |\. (?=[A-Z])")
# Warnings of older reports that are derived here from the figures instead.
_DERIVED = re.compile(
    r"slower than the baseline at \d+ of \d+ settings \("
    r"|prune/magnitude leaves zeros in dense tensors"
    r"|\d+ of \d+ answers change when rows are answered in "
)
_OF_SATURATION = re.compile("pairs of (int8 )?products are added in 16 bits")


@dataclass(frozen=True)
class Caveat:
    """One warning.

    Attributes:
        kind: `run` and `noise` are stored in the report, all others follow from its figures.
        text: the warning in one short sentence.
        detail: figures, reasons and remedies.
    """

    kind: Literal[
        "run", "noise", "promise", "zeros", "interval", "floor", "slower", "batches", "parity", "saturation"
    ]
    text: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".rstrip()


def verdict(report: RunReport) -> str:
    """Size, speed at the headline setting and quality; then a stage's target, if there is one."""
    promise = last_promise(report)
    words = page_of(report).verdict(report)
    return words if promise is None else f"{words} {capital(promise_words(promise))}."


def section(report: RunReport) -> Section | None:
    """Warnings; None if there are none."""
    lines = tuple(Line(each.text, each.detail) for each in caveats(report))
    return Section("Warnings", (Bullets(lines),), "warnings", style="warnings") if lines else None


def caveats(report: RunReport) -> tuple[Caveat, ...]:
    """The run's warnings, doubts about the measurement, and caveats that follow from the figures."""
    stored = [x for x in report.warnings if not _DERIVED.match(x)]
    if report.saturation is not None:
        stored = [x for x in stored if not _OF_SATURATION.search(x)]
    return (
        *(_stored("run", text) for text in stored),
        *(_stored("noise", text) for text in report.measurement.noise),
        *_promise(report),
        *_zeros(report),
        *_wide_interval(report),
        *_floor(report),
        *_slower_settings(report),
        *_other_answers(report),
        *_saturation(report),
    )


def _stored(kind: Literal["run", "noise"], text: str) -> Caveat:
    """A sentence of the report; if it is long, all after its first clause is a detail."""
    first, detail = text, ""
    if len(text) > _LINE and (end := _CLAUSE.search(text, _SHORTEST)):
        first, detail = text[: end.start()], text[end.end() :]
    return Caveat(kind, _sentence(first), _sentence(detail))


def _sentence(text: str) -> str:
    """The text with a capital and a full stop; names such as prune/heads keep their first letter."""
    shown = text if re.search(r"[/._]", text.split(" ", 1)[0]) else capital(text)
    return f"{shown}." if shown and shown[-1] not in ".!?" else shown


def _promise(report: RunReport) -> list[Caveat]:
    promise = last_promise(report)
    if promise is None:
        return []
    detail = f"{capital(promise_words(promise))}; see Target and measurement."
    if promise.outcome == "unknown" and promise.measured is not None:
        return [Caveat("promise", "Whether the target is met on an idle machine is not known.", detail)]
    if promise.missed:
        off = abs(promise.off(promise.measured) or 0.0)
        return [Caveat("promise", f"The target was missed by {100 * off:.0f} %.", detail)]
    return []


def _zeros(report: RunReport) -> list[Caveat]:
    zeros = _sparsity_left_in_place(report)
    if zeros is None:
        return []
    was, now = report.measurement.baseline.size, report.measurement.candidate.size
    detail = (
        "ONNX Runtime multiplies by them like by any other number. The file is "
        f"{size(now.file_bytes)}, {size(now.gzip_bytes)} in gzip (baseline: {size(was.file_bytes)}, "
        f"{size(was.gzip_bytes)} in gzip)."
    )
    return [Caveat("zeros", f"Pruning left {percent(zeros)} zeros, which bring no speed-up.", detail)]


def _sparsity_left_in_place(report: RunReport) -> float | None:
    """Share of zeros that pruning left in the weights, or None if it removed whole structures.

    Quantization rounds some weights to zero, so only zeros added by a prune stage count.
    """
    before = 0.0
    for stage in report.stages:
        zeros = 1 - stage.nonzero_parameters / stage.parameters if stage.parameters else 0.0
        if stage.name.startswith("prune/") and zeros - before >= _ZEROS_WORTH_SAYING:
            return zeros
        before = zeros
    return None


def _wide_interval(report: RunReport) -> list[Caveat]:
    difference = report.measurement.difference
    if not (difference.low <= 0 <= difference.high and -difference.low >= _LOSS_WORTH_SAYING):
        return []
    words = task_of_measurement(report.measurement).words
    loss = f"{words.scale.number(-difference.low)}{words.scale.change_unit}"
    text = (
        f"{counted(difference.units, f'test {difference.unit}')} cannot rule out a loss of up to "
        f"{loss} of {words.score}."
    )
    return [Caveat("interval", text, "More test rows narrow the interval.")]


def _floor(report: RunReport) -> list[Caveat]:
    found, floor = not_worse(report), report.floor
    if found is None or floor is None:
        return []
    scale = task_of_measurement(report.measurement).words.scale
    difference = f"{difference_text(floor.candidate, scale)}{scale.change_unit}"
    return [Caveat("floor", found, f"The difference is {difference}.")]


def _slower_settings(report: RunReport) -> list[Caveat]:
    measured = report.measurement.latency
    slower = [x for x in measured if x.speedup_high < 1]
    if not slower or slower == [headline(report)]:  # the verdict says that
        return []
    text = f"Slower than the baseline at {len(slower)} of {len(measured)} settings."
    detail = "; ".join(f"{setting(x)}: {speedup_words(x)}" for x in slower)
    return [Caveat("slower", text, f"{capital(detail)}.")]


def _other_answers(report: RunReport) -> list[Caveat]:
    """Predictions that depend on the rest of the batch, or differ from the PyTorch model's."""
    found = []
    measured = report.measurement
    words = task_of_measurement(measured).words
    for who, model in (("baseline", measured.baseline), ("candidate", measured.candidate)):
        accuracy = model.accuracy
        if accuracy.batched_disagreements:
            answered = accuracy.units if accuracy.unit == words.unit else accuracy.rows
            text = (
                f"The {who} answers {accuracy.batched_disagreements:,} of {answered:,} test "
                f"{plural(words.unit)} differently in {words.batches} of {accuracy.batched_size}."
            )
            figures = f"{capital(words.score)} is {words.scale.text(accuracy.batched_value)} then"
            detail = f"{figures}, and {words.scale.text(accuracy.value)} {words.alone}."
            found.append(Caveat("batches", text, detail))
    for who, parity in (("baseline", report.model.parity), ("candidate", report.parity)):
        if not parity.holds:
            text = f"The {who}'s ONNX file does not agree with its PyTorch model; see Parity."
            found.append(Caveat("parity", text))
    return found


def _saturation(report: RunReport) -> list[Caveat]:
    """Only where it changes more answers than the recipe's gates allow; otherwise see Environment."""
    found = report.saturation
    if found is None or not saturation_matters(report):
        return []
    detail = "reduce_range: true in the quantize stage prevents it; Environment has the figures."
    return [Caveat("saturation", saturation_summary(found), detail)]
