"""The verdict of a report, and caveats against trusting or shipping the model."""

from __future__ import annotations

from compress.page import Bullets, Section
from compress.page.format import capital, percent, size
from compress.report.phrases import headline, setting, speedup_words
from compress.report.schema import RunReport
from compress.report.sections.promise import last_promise, promise_words
from compress.report.sections.task import page_of
from compress.tasks import task_of_measurement

__all__ = ["caveats", "section", "verdict"]

_ZEROS_WORTH_SAYING = 0.05
_POINTS_WORTH_SAYING = 2.0


def verdict(report: RunReport) -> str:
    """Size, speed at the headline setting and quality; then a stage's target, if there is one."""
    promise = last_promise(report)
    words = page_of(report).verdict(report)
    return words if promise is None else f"{words} {capital(promise_words(promise))}."


def section(report: RunReport) -> Section | None:
    """Warnings; None if there are none."""
    found = caveats(report)
    return Section("Warnings", (Bullets(found),), "warnings", style="warnings") if found else None


def caveats(report: RunReport) -> tuple[str, ...]:
    """The run's warnings, doubts about the measurement, and caveats that follow from the figures."""
    return (
        *report.warnings,
        *report.measurement.noise,
        *_promise(report),
        *_zeros(report),
        *_wide_interval(report),
        *_slower_settings(report),
        *_other_answers(report),
    )


def _promise(report: RunReport) -> list[str]:
    promise = last_promise(report)
    if promise is None:
        return []
    words = f"{promise_words(promise)}; see Promised against measured."
    if promise.outcome == "unknown" and promise.measured is not None:
        return [f"Whether a promise holds on a quiet machine is not known: {words}"]
    if promise.missed:
        off = abs(promise.off(promise.measured) or 0.0)
        return [f"A promise is missed by {100 * off:.0f} %: {words}"]
    return []


def _zeros(report: RunReport) -> list[str]:
    zeros = _sparsity_left_in_place(report)
    if zeros is None:
        return []
    was, now = report.measurement.baseline.size, report.measurement.candidate.size
    return [
        f"Pruning left {percent(zeros)} zeros in the weights. Zeros in the file bring no speed-up in ONNX "
        "Runtime, which multiplies by them like by any number. The file is "
        f"{size(now.file_bytes)}, {size(now.gzip_bytes)} in gzip (baseline: {size(was.file_bytes)}, "
        f"{size(was.gzip_bytes)} in gzip)."
    ]


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


def _wide_interval(report: RunReport) -> list[str]:
    difference = report.measurement.difference
    if not (difference.low <= 0 <= difference.high and -100 * difference.low >= _POINTS_WORTH_SAYING):
        return []
    return [
        f"{difference.units:,} test {difference.unit}s cannot rule out a loss of up to "
        f"{-100 * difference.low:.1f} points; more test rows narrow the interval."
    ]


def _slower_settings(report: RunReport) -> list[str]:
    """Slower settings, unless the verdict mentions them."""
    first = headline(report)
    if first is None or first.speedup_high < 1:
        return []
    slower = (x for x in report.measurement.latency if x.speedup_high < 1)
    return [f"At {setting(x)}: {speedup_words(x)}." for x in slower]


def _other_answers(report: RunReport) -> list[str]:
    """Predictions that depend on the rest of the batch, or differ from the PyTorch model's."""
    found = []
    measured = report.measurement
    words = task_of_measurement(measured).words
    for who, model in (("baseline", measured.baseline), ("candidate", measured.candidate)):
        accuracy = model.accuracy
        if accuracy.batched_disagreements:
            found.append(
                f"The {who} predicts {accuracy.batched_disagreements:,} of {accuracy.units:,} test "
                f"{accuracy.unit}s differently in {words.batches} of {accuracy.batched_size} than "
                f"{words.alone}."
            )
    for who, parity in (("baseline", report.model.parity), ("candidate", report.parity)):
        if not parity.holds:
            found.append(f"The {who}'s ONNX file does not answer as its PyTorch model does: see Parity.")
    return found
