"""Numbers to words, once for every renderer, so that no page claims more than another.

A difference whose 95 % interval holds 0, or a ratio whose interval holds 1, is never called a gain or a loss.
Sizes are in MB of 1,000,000 bytes; accuracy differences in percentage points.
"""

from __future__ import annotations

from math import isfinite, log10

from compress.measure.results import AccuracyDifference, Language, LatencyComparison
from compress.report.schema import RunReport, StageRecord
from compress.report.sections.promise import Promise, last_promise
from compress.tasks import task_of_measurement

__all__ = [
    "MB_NOTE",
    "RUN_NOISE",
    "accuracy_words",
    "caveats",
    "decode_setting",
    "difference_text",
    "duration",
    "headline",
    "interval_text",
    "milliseconds",
    "percent",
    "perplexity_words",
    "points",
    "promise_words",
    "promised_amount",
    "ratio_of",
    "ratio_text",
    "setting",
    "size",
    "size_words",
    "sparsity_left_in_place",
    "speedup_words",
    "stages_in_short",
    "verdict",
]

MB_NOTE = "1\u00a0MB is 1,000,000 bytes."
_ZEROS_WORTH_SAYING = 0.05
_POINTS_WORTH_SAYING = 2.0
# Memory and load time come without an interval; from run to run they move by a few percent.
RUN_NOISE = 0.05


def _significant(value: float, unit: str) -> str:
    """Three significant digits, never in scientific notation; whole numbers from 100 on."""
    if not isfinite(value):
        return "not known"
    decimals = 3 if value == 0 else 2 - int(log10(abs(value)) // 1)
    return f"{value:,.{min(max(decimals, 0), 3)}f}".replace("-", "−") + unit


def size(size_bytes: float, unit: bool = True) -> str:
    """Megabytes of 1,000,000 bytes: `12.3 MB`."""
    return _significant(size_bytes / 1e6, " MB" if unit else "")


def milliseconds(value_ms: float, unit: bool = True) -> str:
    """Three significant digits: `12.3 ms`."""
    return _significant(value_ms, " ms" if unit else "")


def percent(share: float) -> str:
    """A share of 1 as percent: `91.2 %`."""
    return f"{share * 100:.1f} %"


def duration(seconds: float) -> str:
    """Seconds as `3.2 s`, `4 min 12 s` or `1 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def setting(latency: LatencyComparison) -> str:
    """Where a latency was taken: `batch 1, sequence 128, 1 thread`."""
    return str(latency.setting)


def headline(report: RunReport) -> LatencyComparison | None:
    """The latency that a verdict speaks of: the first, with the smallest batch and the fewest threads."""
    return report.measurement.latency[0] if report.measurement.latency else None


def _apart(low: float, high: float, border: float, decimals: int) -> int:
    """Decimals at which an interval that leaves out `border` is not shown as touching it."""
    if low <= border <= high:
        return decimals
    return next((d for d in range(decimals, 5) if border not in (round(low, d), round(high, d))), 5)


def _signed(value: float, decimals: int) -> str:
    shown = f"{value:+.{decimals}f}".replace("-", "−")
    return shown[1:] if round(value, decimals) == 0 else shown


def points(value: float, low: float, high: float) -> tuple[str, str]:
    """A difference of shares in percentage points, and its interval: `−0.2`, `−1.1 to +0.7`."""
    value, low, high = 100 * value, 100 * low, 100 * high
    decimals = _apart(low, high, 0.0, 1)
    return _signed(value, decimals), f"{_signed(low, decimals)} to {_signed(high, decimals)}"


def difference_text(difference: AccuracyDifference) -> str:
    """Percentage points and their interval, for a table: `−0.2 (−1.1 to +0.7)`."""
    value, interval = points(difference.value, difference.low, difference.high)
    return f"{value} ({interval})"


def accuracy_words(difference: AccuracyDifference, noun: str = "difference") -> str:
    """Say what became of accuracy; nothing is called a loss or gain while the interval holds 0."""
    value, interval = points(difference.value, difference.low, difference.high)
    tail = f"95 % interval {interval}, {difference.units:,} {difference.unit}s"
    if difference.low <= 0 <= difference.high:
        return f"no measurable {noun} ({value} points, {tail})"
    return f"{value.lstrip('+−')} points {'higher' if difference.value > 0 else 'lower'} ({tail})"


def _ratio_decimals(value: float) -> int:
    return 2 if value < 1.995 else 1 if value < 100 else 0


def ratio_text(value: float, low: float | None = None, high: float | None = None) -> str:
    """A ratio: `2.1x`; given its interval, with the decimals that the interval needs."""
    decimals = _ratio_decimals(value)
    if low is not None and high is not None:
        decimals = _apart(low, high, 1.0, decimals)
    return f"{value:.{decimals}f}x" if isfinite(value) else "not known"


def interval_text(value: float, low: float, high: float) -> str:
    """The interval of a ratio, with as many decimals as the ratio itself: `2.0 to 2.2`."""
    decimals = _apart(low, high, 1.0, _ratio_decimals(value))
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


def speedup_words(latency: LatencyComparison, slower_than: str = "") -> str:
    """Say what became of speed; nothing is called faster or slower while the interval holds 1."""
    value, low, high = latency.speedup, latency.speedup_low, latency.speedup_high
    shown, interval = ratio_text(value, low, high), interval_text(value, low, high)
    if low <= 1 <= high:
        return f"no measurable speed-up ({shown}, 95 % interval {interval})"
    words = f"{shown} faster" if value > 1 else f"{shown}{slower_than}: slower"
    return f"{words} (95 % interval {interval})"


def ratio_of(baseline: float, candidate: float) -> float | None:
    """Baseline / candidate, or none where one of them is not positive."""
    return baseline / candidate if baseline > 0 and candidate > 0 else None


def size_words(
    baseline: float, candidate: float, less: str = "smaller", more: str = "larger", noise: float = 0.005
) -> str:
    """Say what became of a figure that wants to be small: `3.7x smaller`, `1.20x larger` or `not smaller`.

    Args:
        baseline: the figure before.
        candidate: the figure after.
        less: the word for a smaller figure.
        more: the word for a larger one.
        noise: a relative change up to this is not called a change.
    """
    ratio = ratio_of(baseline, candidate)
    if ratio is None:
        return "not known"
    if max(ratio, 1 / ratio) <= 1 + noise:
        return f"not {less}"
    return f"{ratio_text(ratio)} {less}" if ratio > 1 else f"{ratio_text(1 / ratio)} {more}"


def stages_in_short(stages: tuple[StageRecord, ...]) -> str:
    """The stages' names in their order, without their families: `heads + int8`."""
    return " + ".join(stage.name.rsplit("/", 1)[-1] for stage in stages) or "none"


def sparsity_left_in_place(report: RunReport) -> float | None:
    """Share of zeros that pruning left in the weights, or none where it took out whole structures.

    Quantization rounds some weights to zero by itself, so only the zeros that a prune stage added tell.
    """
    before = 0.0
    for stage in report.stages:
        zeros = 1 - stage.nonzero_parameters / stage.parameters if stage.parameters else 0.0
        if stage.name.startswith("prune/") and zeros - before >= _ZEROS_WORTH_SAYING:
            return zeros
        before = zeros
    return None


def promised_amount(kind: str, value: float) -> str:
    """A figure in a budget's unit: `3.0x`, `2.97x`, `8.10 ms`, `20.0 MB` or `33.0 %`."""
    if kind == "speedup":
        text = f"{value:.2f}"
        return f"{text[:-1] if text.endswith('0') else text}x"
    if kind == "latency_ms":
        return milliseconds(value)
    return size(value * 1e6) if kind == "size_mb" else percent(value)


def promise_words(promise: Promise) -> str:
    """Promised beside measured: `promised 3.0x, measured 2.97x at batch 1, 128 tokens, 2 threads`."""
    asked = promised_amount(promise.kind, promise.asked)
    where = f" at {promise.where}" if promise.where else ""
    if promise.measured is None or promise.measured.value is None:
        return f"promised {asked}{where}, not measured there"
    beside = " beside other work" if promise.measured.disturbed else ""
    return (
        f"promised {asked}, measured {promised_amount(promise.kind, promise.measured.value)}{where}{beside}"
    )


def verdict(report: RunReport) -> str:
    """Say size, speed at the headline setting and accuracy; then what a stage promised, if one did."""
    promise = last_promise(report)
    words = _verdict(report)
    return words if promise is None else f"{words} P{promise_words(promise)[1:]}."


def perplexity_words(language: Language) -> str:
    """Say what became of perplexity; nothing is called worse or better while the interval holds 1."""
    ratio = language.perplexity_ratio
    was, now = language.baseline.perplexity, language.candidate.perplexity
    tail = f"{was:.2f} to {now:.2f}, {ratio.value:.3f}x, 95 % interval {ratio.low:.3f} to {ratio.high:.3f}"
    if ratio.low <= 1 <= ratio.high:
        return f"no measurable change in perplexity ({tail})"
    percents = f"{100 * abs(ratio.value - 1):.1f} %"
    return f"perplexity is {percents} {'higher' if ratio.value > 1 else 'lower'} ({tail})"


def decode_setting(latency: LatencyComparison) -> str:
    """Where writing was timed: `batch 1, token 256, 1 thread`; the 255 before it are kept."""
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    return f"batch {latency.batch}, token {latency.sequence}, {threads}"


def _language_verdict(report: RunReport, language: Language) -> str:
    measured, read, write = report.measurement, headline(report), language.decode[0]
    small = size_words(measured.baseline.size.file_bytes, measured.candidate.size.file_bytes)
    words = (
        f"{small[0].upper()}{small[1:]} than the fp32 ONNX model; writing a token: {speedup_words(write)} "
    )
    words += f"at {decode_setting(write)}"
    if read is not None:
        words += f"; reading {read.sequence} tokens: {speedup_words(read)}"
    return f"{words}; {perplexity_words(language)}."


def _verdict(report: RunReport) -> str:
    if report.measurement.language is not None:
        return _language_verdict(report, report.measurement.language)
    measured, latency = report.measurement, headline(report)
    before, after = measured.baseline.size.file_bytes, measured.candidate.size.file_bytes
    small = size_words(before, after)
    accuracy = accuracy_words(measured.difference, "change in accuracy")
    same = measured.difference.low <= 0 <= measured.difference.high
    end = f", with {accuracy}." if same else f"; accuracy is {accuracy}."
    shrunk = small.endswith("x smaller")
    small = small[0].upper() + small[1:]
    if latency is None:
        return f"{small} than the fp32 ONNX model; latency was not measured{end}"
    if latency.speedup_low > 1:
        joint = "and" if shrunk else "but"
        return f"{small} {joint} {speedup_words(latency)} than the fp32 ONNX model at {setting(latency)}{end}"
    joint = "with" if latency.speedup_high >= 1 else "but" if shrunk else "and"
    speed = speedup_words(latency, " its speed")
    tail = end.replace(", with ", "; ") if joint == "with" else end
    return f"{small} than the fp32 ONNX model, {joint} {speed} at {setting(latency)}{tail}"


def caveats(report: RunReport) -> tuple[str, ...]:
    """What the figures themselves say against trusting or shipping this, after the run's own warnings."""
    measured, difference = report.measurement, report.measurement.difference
    said = [*report.warnings, *measured.noise]
    promise = last_promise(report)
    if promise is not None and promise.outcome == "unknown" and promise.measured is not None:
        said.append(
            f"Whether a promise holds on a quiet machine is not known: {promise_words(promise)}; "
            "see Promised against measured."
        )
    elif promise is not None and promise.missed:
        off = abs(promise.off(promise.measured) or 0.0)
        said.append(
            f"A promise is missed by {100 * off:.0f} %: {promise_words(promise)}; see Promised against "
            "measured."
        )
    zeros = sparsity_left_in_place(report)
    if zeros is not None:
        was, now = measured.baseline.size, measured.candidate.size
        said.append(
            f"Pruning left {percent(zeros)} zeros in the weights. Zeros in the file bring no speed-up in "
            "ONNX Runtime, which multiplies by them like by any number. The file is "
            f"{size(now.file_bytes)}, {size(now.gzip_bytes)} in gzip (baseline: {size(was.file_bytes)}, "
            f"{size(was.gzip_bytes)} in gzip)."
        )
    if difference.low <= 0 <= difference.high and -100 * difference.low >= _POINTS_WORTH_SAYING:
        said.append(
            f"{difference.units:,} test {difference.unit}s cannot rule out a loss of up to "
            f"{-100 * difference.low:.1f} points; more test rows narrow the interval."
        )
    first = headline(report)
    if first is not None and first.speedup_high >= 1:
        said += [f"At {setting(x)}: {speedup_words(x)}." for x in measured.latency if x.speedup_high < 1]
    for who, model in (("baseline", measured.baseline), ("candidate", measured.candidate)):
        accuracy = model.accuracy
        if accuracy.batched_disagreements:
            said.append(
                f"The {who} answers {accuracy.batched_disagreements:,} of {accuracy.units:,} test "
                f"{accuracy.unit}s otherwise in {task_of_measurement(measured).words.batches} of "
                f"{accuracy.batched_size} than one row at a time."
            )
    for who, parity in (("baseline", report.model.parity), ("candidate", report.parity)):
        if not parity.holds:
            said.append(
                f"The {who}'s ONNX file does not answer as the PyTorch model it came from: see Parity."
            )
    return tuple(dict.fromkeys(said))
