"""Inline pictures. Widths are percentages and text is in pixels, so that a picture fits any screen unscaled.

The baseline is hollow and the candidate filled, training is solid and validation dashed: colour repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup

from compress.measure.results import Latency, LatencyComparison, ModelMeasurement
from compress.report.drawing import line, moved, picture, round_ticks, text
from compress.report.inspection import Point
from compress.report.schema import EpochRecord, PartSize
from compress.report.words import milliseconds, percent, setting, size

__all__ = ["Dot", "latency_bars", "loss_curve", "metric_curve", "scatter", "silencing_curve", "size_bars"]

_BAR_START = 76  # pixels, room for "candidate"
_WIDEST_BAR = 34.0  # percent of the picture; the rest is for the value behind the bar
_LABEL_SPAN = 46.0  # percent of the picture that a name is taken to cover on the narrowest screen
_NUMBER_SPAN = 10.0  # the same for a number


@dataclass(frozen=True)
class Dot:
    """One model in the scatter picture; accuracies are shares of 1."""

    label: str
    p50_ms: float
    accuracy: float
    low: float
    high: float
    is_baseline: bool = False


def _bar(y: float, who: str, value: float, end: float, full: float, words: str) -> Markup:
    """A bar up to `value` and a whisker up to `end`, where `full` is the widest of the picture."""
    width, whisker = (_WIDEST_BAR * max(x, 0.0) / full if full > 0 else 0.0 for x in (value, end))
    parts = [
        Markup('<rect x="0" y="{:.1f}" width="{:.2f}%" height="14" class="{}"/>').format(y, width, who),
        text(f"{max(width, whisker):.2f}%", y + 11.5, words, "value", dx=7),
    ]
    if whisker > width:
        far = f"{whisker:.2f}%"
        parts += [
            line(f"{width:.2f}%", y + 7, far, y + 7, "whisker"),
            line(far, y + 3, far, y + 11, "whisker"),
        ]
    return text("0", y + 11.5, who, "who") + moved(_BAR_START, parts)


def latency_bars(latency: Sequence[LatencyComparison]) -> Markup:
    """p50 of both at each setting, with a whisker up to p95 and below it where half of the calls lie.

    Each setting has a scale of its own.
    """
    parts: list[Markup] = []
    y = 0.0
    for each in latency:
        parts.append(text("0", y + 14, setting(each), "group"))
        full = max(x.p95_ms for x in (each.baseline, each.candidate))
        full = max(full, each.baseline.p50_ms, each.candidate.p50_ms)
        for place, who, x in ((22, "baseline", each.baseline), (42, "candidate", each.candidate)):
            words = f"{milliseconds(x.p50_ms)}, p95 {milliseconds(x.p95_ms, unit=False)}"
            parts.append(_bar(y + place, who, x.p50_ms, x.p95_ms, full, words))
            parts += _half_of_calls(y + place, x, full)
        y += 74
    return picture(
        "Latency p50 of baseline and candidate at each setting, whisker to p95", max(y - 14, 1), parts
    )


def _half_of_calls(y: float, latency: Latency, full: float) -> list[Markup]:
    """A thick line from p25 to p75 and a thin one from p05, below a bar; none where they are not known."""
    if latency.p05_ms is None or latency.p25_ms is None or latency.p75_ms is None or full <= 0:
        return []
    far = [f"{_WIDEST_BAR * x / full:.2f}%" for x in (latency.p05_ms, latency.p25_ms, latency.p75_ms)]
    lines = [line(far[0], y + 17, far[1], y + 17, "whisker"), line(far[1], y + 17, far[2], y + 17, "half")]
    return [moved(_BAR_START, lines)]


def size_bars(baseline: ModelMeasurement, candidate: ModelMeasurement) -> Markup:
    """File, gzip and memory of both; file and gzip share a scale."""
    files = (baseline.size.file_bytes, candidate.size.file_bytes)
    zipped = (baseline.size.gzip_bytes, candidate.size.gzip_bytes)
    memory = (baseline.peak_memory_bytes, candidate.peak_memory_bytes)
    groups = (
        ("file", files, max(*files, *zipped)),
        ("file in gzip", zipped, max(*files, *zipped)),
        ("peak memory", memory, max(memory)),
    )
    return _both("File size, gzip size and peak memory of baseline and candidate", groups)


def _both(title: str, groups: Sequence[tuple[str, tuple[int, int], int]]) -> Markup:
    """Bars of bytes, of baseline and candidate: by group its name, both values, and what a full bar is."""
    parts: list[Markup] = []
    for i, (name, values, full) in enumerate(groups):
        parts.append(text("0", 74 * i + 14, name, "group"))
        for place, who, value in zip((22, 42), ("baseline", "candidate"), values, strict=True):
            parts.append(_bar(74 * i + place, who, value, 0, full, size(value)))
    return picture(title, 74 * len(groups) - 14, parts)


def part_bars(parts: Sequence[PartSize]) -> Markup:
    """Bytes of the weights by part, of both, on one scale."""
    full = max((max(x.baseline_bytes, x.candidate_bytes) for x in parts), default=0)
    groups = [(x.name, (x.baseline_bytes, x.candidate_bytes), full) for x in parts]
    return _both("Bytes of the weights by part, baseline and candidate", groups)


def loss_curve(curve: Sequence[EpochRecord]) -> Markup:
    """Training and validation loss over epochs."""
    lines = (("train", [x.train_loss for x in curve]), ("valid", [x.validation_loss for x in curve]))
    return _curves("Training and validation loss over epochs", [x.epoch for x in curve], lines, "{:.3g}")


def metric_curve(curve: Sequence[EpochRecord]) -> Markup:
    """Validation metric over epochs, in percent."""
    lines = (("valid", [100 * x.validation_metric for x in curve]),)
    return _curves("Validation metric over epochs, percent", [x.epoch for x in curve], lines, "{:.1f}")


def _curves(
    title: str, epochs: Sequence[int], lines: Iterable[tuple[str, Sequence[float]]], ticks: str
) -> Markup:
    lines = tuple(lines)
    finite = [y for _, ys in lines for y in ys if isfinite(y)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    top, bottom, left = 10.0, 110.0, 44
    reach = max(len(epochs) - 1, 1)

    def at(i: int, y: float) -> tuple[str, float]:
        share = (y - low) / (high - low) if high > low else 0.5
        return f"{2 + 80 * i / reach:.2f}%", bottom - (bottom - top) * share

    parts: list[Markup] = []
    for kind, ys in lines:
        ends = [at(i, y) if isfinite(y) else None for i, y in enumerate(ys)]
        for a, b in zip(ends, ends[1:], strict=False):
            if a and b:
                parts.append(line(a[0], a[1], b[0], b[1], f"curve {kind}"))
        marks = [end for end in ends if end] if len(ends) <= 20 else []
        parts += [
            Markup('<circle cx="{}" cy="{:.1f}" r="3" class="mark {}"/>').format(*x, kind) for x in marks
        ]
    axes = [line("0", bottom + 6, "84%", bottom + 6, "axis"), line("0", top, "0", bottom + 6, "axis")]
    sides = [text("0", bottom + 2, ticks.format(low), "tick", dx=left - 6, anchor="end")]
    if high > low:
        sides.append(text("0", top + 6, ticks.format(high), "tick", dx=left - 6, anchor="end"))
    feet = [text("2%", bottom + 22, f"epoch {epochs[0]}", "tick")] if epochs else []
    if len(epochs) > 1:
        feet.append(text("82%", bottom + 22, str(epochs[-1]), "tick", anchor="middle"))
    return picture(title, bottom + 28, [*sides, moved(left, [*axes, *feet, *parts])])


def scatter(dots: Sequence[Dot]) -> Markup:
    """Accuracy over p50, with the interval of its difference, and a line at the baseline's accuracy.

    Latency starts at 0; accuracy doesn't.
    """
    if not dots:
        return Markup("")
    low, high = min(x.low for x in dots), max(x.high for x in dots)
    room = max((high - low) * 0.08, 0.002)
    low, high = low - room, high + room
    right = max(x.p50_ms for x in dots) * 1.08 or 1.0
    top, bottom, left, width = 26.0, max(300.0, 26 + 22.0 * len(dots)), 52, 82.0

    def across(p50_ms: float) -> float:
        return width * p50_ms / right

    def down(accuracy: float) -> float:
        return bottom - (bottom - top) * (accuracy - low) / (high - low)

    parts = [line("0", bottom, f"{width}%", bottom, "axis"), line("0", top, "0", bottom, "axis")]
    sides = [text("0", 12, "accuracy", "who")]
    for tick in round_ticks(low, high):
        parts.append(line("0", down(tick), f"{width}%", down(tick), "grid"))
        sides.append(text("0", down(tick) + 4, percent(tick), "tick", dx=left - 6, anchor="end"))
    parts += [
        text(f"{across(tick):.2f}%", bottom + 16, f"{tick:g}", "tick", anchor="middle")
        for tick in round_ticks(0, right)
    ]
    parts.append(text(f"{width}%", bottom + 34, "latency p50, ms (left is faster)", "who", anchor="end"))
    parts += [
        line("0", down(x.accuracy), f"{width}%", down(x.accuracy), "reference") for x in dots if x.is_baseline
    ]
    placed = [(x, across(x.p50_ms)) for x in sorted(dots, key=lambda x: -x.accuracy)]
    parts += [part for dot, at in placed for part in _dot(dot, at, down)]
    taken: list[tuple[float, float]] = []
    for dot, at in placed:  # after the dots, so that no line runs over a label
        parts.append(_label(dot.label, at, down(dot.accuracy) + 4, (top, bottom), taken))
    return picture("Accuracy over latency p50 of each model", bottom + 42, [*sides, moved(left, parts)])


def _dot(dot: Dot, x: float, down: Callable[[float], float]) -> list[Markup]:
    at, y = f"{x:.2f}%", down(dot.accuracy)
    parts = []
    if not dot.is_baseline:
        parts = [line(at, down(dot.low), at, down(dot.high), "whisker")]
        ends = (down(dot.low), down(dot.high))
        parts += [line(f"{x - 0.6:.2f}%", end, f"{x + 0.6:.2f}%", end, "whisker") for end in ends]
    kind = "baseline" if dot.is_baseline else "candidate"
    return [*parts, Markup('<circle cx="{}" cy="{:.1f}" r="6" class="{}"/>').format(at, y, kind)]


def _label(
    words: str, x: float, y: float, limits: tuple[float, float], taken: list[tuple[float, float]]
) -> Markup:
    """Beside its dot, on the side with more room, moved up or down to where no other label is."""
    words = words if len(words) <= 20 else words[:19] + "…"
    span = _LABEL_SPAN if len(words) > 3 else _NUMBER_SPAN
    left_of = x > 41
    start = x - span if left_of else x
    tries = [y + 15 * step * sign for step in range(40) for sign in (1, -1)]
    free = (
        at
        for at in tries
        if limits[0] <= at <= limits[1]
        and not any(abs(at - other) < 15 and abs(start - begin) < span for begin, other in taken)
    )
    y = next(free, y)
    taken.append((start, y))
    anchor = "end" if left_of else "start"
    return text(f"{x:.2f}%", y, words, "label", dx=-11 if left_of else 11, anchor=anchor)


def silencing_curve(title: str, points: Sequence[Point], unit: str, chosen: int | None = None) -> Markup:
    """Accuracy over silenced units with 95 % whiskers, and a dashed line at the full model's accuracy.

    Args:
        points: at least two, by `silenced`; the first is the full model.
        unit: what is silenced, in the plural.
        chosen: the number of silenced units that is marked.
    """
    full = points[0].accuracy
    ends = [(full + x.low, full + x.high) for x in points]
    low, high = max(0.0, min(x for x, _ in ends) - 0.01), min(1.0, max(x for _, x in ends) + 0.01)
    top, bottom, left, width, last = 10.0, 130.0, 50, 82.0, points[-1].silenced

    def down(accuracy: float) -> float:
        return bottom - (bottom - top) * (accuracy - low) / (high - low)

    at = [f"{2 + (width - 4) * x.silenced / last:.2f}%" for x in points]
    parts = [line("0", bottom, f"{width}%", bottom, "axis"), line("0", top, "0", bottom, "axis")]
    sides = []
    for tick in round_ticks(low, high, 4):
        parts.append(line("0", down(tick), f"{width}%", down(tick), "grid"))
        sides.append(text("0", down(tick) + 4, f"{100 * tick:g} %", "tick", dx=left - 6, anchor="end"))
    parts.append(line("0", down(full), f"{width}%", down(full), "reference"))
    for x, (least, most), here in zip(points, ends, at, strict=True):
        parts.append(line(here, down(max(low, least)), here, down(min(high, most)), "whisker thin"))
        if x.silenced == chosen:
            parts.append(line(here, top, here, bottom, "reference"))
    for i in range(len(points) - 1):
        y = down(points[i].accuracy), down(points[i + 1].accuracy)
        parts.append(
            Markup('<line x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}" class="curve solid"/>').format(
                at[i], y[0], at[i + 1], y[1]
            )
        )
    for x, here in zip(points, at, strict=True):
        kind = "mark solid chosen" if x.silenced == chosen else "mark solid"
        parts.append(
            Markup('<circle cx="{}" cy="{:.1f}" r="{}" class="{}"/>').format(
                here, down(x.accuracy), 5 if x.silenced == chosen else 3, kind
            )
        )
    parts += [text("2%", bottom + 16, "0", "tick", anchor="middle")]
    parts += [text(f"{width - 2}%", bottom + 16, f"{last:,}", "tick", anchor="middle")]
    parts += [text(f"{width / 2}%", bottom + 16, f"{unit} silenced", "who", anchor="middle")]
    return picture(title, bottom + 22, [*sides, moved(left, parts)])
