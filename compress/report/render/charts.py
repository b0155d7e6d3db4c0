"""The charts of reports. Each has its numbers in a table of the page.

The baseline is hollow and the candidate filled, training is solid and validation dashed: colour repeats it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from compress.measure.results import Latency, LatencyComparison, ModelMeasurement
from compress.report.inspection.data import Point
from compress.report.render.drawing import (
    BASELINE,
    CANDIDATE,
    CARD,
    INK,
    SOFT,
    Spot,
    panel,
    sheet,
    spot,
    themed,
    to_svg,
)
from compress.report.schema import EpochRecord, PartSize
from compress.report.words import percent, setting, size
from compress.safe_text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Dot",
    "bar_row",
    "latency_boxes",
    "loss_curve",
    "metric_curve",
    "part_bars",
    "scatter",
    "silencing_curve",
    "size_bars",
]

_WHO = ("baseline", "candidate")
_LOOKS: dict[str, dict[str, Any]] = {
    "baseline": {"facecolor": CARD, "edgecolor": BASELINE},
    "candidate": {"facecolor": CANDIDATE},
}
_MOST_MARKS = 20  # of a curve; more would hide it


@dataclass(frozen=True)
class Dot:
    """One model in a scatter picture.

    Attributes:
        label: stands beside it.
        x: what the picture is over: milliseconds, or MB.
        quality: accuracy, a share of 1, or perplexity; low and high are the ends of its interval.
        words: said where the pointer is; empty: the label.
        link: where a click leads; empty: nowhere.
        on_front: the line of the front runs through it.
    """

    label: str
    x: float
    quality: float
    low: float
    high: float
    is_baseline: bool = False
    words: str = ""
    link: str = ""
    on_front: bool = False


@themed
def latency_boxes(latency: Sequence[LatencyComparison]) -> Markup:
    """How long calls took at each setting: half of them in the box, the median in it, whiskers p5 to p95.

    Each setting has a scale of its own, from 0.
    """
    height = 112.0
    figure = sheet(400, height * max(len(latency), 1))
    for place, each in enumerate(latency):
        above = height * place
        below = height * (len(latency) - place - 1)
        axes = panel(figure, 76, above + 20, 12, below + 28)
        axes.set_title(setting(each), loc="left", x=-76 / 312, fontsize=12, fontweight="bold", color=INK)
        stats = [_box(x) for x in (each.candidate, each.baseline)]  # from below
        boxes = axes.bxp(stats, positions=[0, 1], widths=0.5, orientation="horizontal", showfliers=False)
        for lines in boxes.values():
            for line in lines:
                line.set(color=INK, linewidth=1.3)
        boxes["medians"][0].set(color=CARD, linewidth=2)  # on the filled one
        for low, who in zip(stats, reversed(_WHO), strict=True):
            y = 0 if who == "candidate" else 1
            fill = {"color": _LOOKS[who]["facecolor"], "linewidth": 0, "zorder": 1}
            axes.barh(y, low["q3"] - low["q1"], left=low["q1"], height=0.5, **fill)
        axes.set_yticks([0, 1], reversed(_WHO))
        axes.set_xlim(0, max(x["whishi"] for x in stats) * 1.04 or 1.0)
        axes.set_ylim(-0.5, 1.6)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g} ms")
        axes.locator_params(axis="x", nbins=4)
    return to_svg(figure, "How long calls of baseline and candidate took at each setting")


def _box(latency: Latency) -> dict[str, float]:
    """Quantiles; reports from before quartiles were kept have the median and p95 alone."""
    middle = latency.p50_ms
    q1, q3, low = (middle if x is None else x for x in (latency.p25_ms, latency.p75_ms, latency.p05_ms))
    return {"med": middle, "q1": q1, "q3": q3, "whislo": low, "whishi": latency.p95_ms}


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


def part_bars(parts: Sequence[PartSize]) -> Markup:
    """Bytes of the weights by part, of both, on one scale."""
    full = max((max(x.baseline_bytes, x.candidate_bytes) for x in parts), default=0)
    groups = [(x.name, (x.baseline_bytes, x.candidate_bytes), full) for x in parts]
    return _both("Bytes of the weights by part, baseline and candidate", groups)


@themed
def _both(title: str, groups: Sequence[tuple[str, tuple[int, int], int]]) -> Markup:
    """Bars of bytes, of baseline and candidate: by group its name, both values, and what a full bar is."""
    height = 66.0
    figure = sheet(400, height * max(len(groups), 1))
    axes = panel(figure, 76, 0, 70, 4)
    for place, (name, values, full) in enumerate(groups):
        top = -height * place
        axes.annotate(name, (0, top), (-76, -8), textcoords="offset points", va="center", weight="bold")
        for step, (who, value) in enumerate(zip(_WHO, values, strict=True)):
            y = top - 26 - 20 * step
            bar_row(axes, y, who, value / full if full else 0.0, who, size(value))
    axes.set(xlim=(0, 1), ylim=(-height * max(len(groups), 1) + 4, 0))
    axes.set_axis_off()
    return to_svg(figure, title)


def bar_row(axes: Axes, y: float, who: str, share: float, name: str, words: str) -> None:
    """One bar of a share of the width, in the look of baseline or candidate.

    Args:
        name: stands on its left; empty: nothing.
        words: stand behind it.
    """
    axes.barh(y, share, height=14, linewidth=1.5, **_LOOKS[who])
    if name:
        axes.annotate(name, (0, y), (-8, 0), textcoords="offset points", va="center", ha="right", color=SOFT)
    axes.annotate(words, (share, y), (6, 0), textcoords="offset points", va="center")


def loss_curve(curve: Sequence[EpochRecord]) -> Markup:
    """Training and validation loss over epochs."""
    lines = (("train", [x.train_loss for x in curve]), ("valid", [x.validation_loss for x in curve]))
    return _curves("Training and validation loss over epochs", [x.epoch for x in curve], lines, "{:.3g}")


def metric_curve(curve: Sequence[EpochRecord]) -> Markup:
    """Validation metric over epochs, in percent."""
    lines = (("valid", [100 * x.validation_metric for x in curve]),)
    return _curves("Validation metric over epochs, percent", [x.epoch for x in curve], lines, "{:.3g}")


_CURVES: dict[str, dict[str, Any]] = {
    "train": {"color": BASELINE, "linestyle": "-", "markerfacecolor": CARD},
    "valid": {"color": CANDIDATE, "linestyle": "--", "markerfacecolor": CANDIDATE},
}


@themed
def _curves(
    title: str, epochs: Sequence[int], lines: Iterable[tuple[str, Sequence[float]]], ticks: str
) -> Markup:
    figure = sheet(300, 160)
    axes = panel(figure, 44, 8, 12, 36)
    for kind, ys in lines:
        marker = "o" if len(epochs) <= _MOST_MARKS else None
        whole = [y if isfinite(y) else nan for y in ys]
        axes.plot(epochs, whole, marker=marker, markersize=5, **_CURVES[kind])
    axes.set_xlabel("epoch")
    axes.yaxis.set_major_formatter(lambda y, _: ticks.format(y))
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y")
    return to_svg(figure, title)


@themed
def scatter(
    dots: Sequence[Dot], over: str = "latency p50, ms (left is faster)", *, perplexity: bool = False
) -> Markup:
    """Quality over something that should be small, with the interval of its difference from the baseline.

    The horizontal axis starts at 0, that of quality doesn't; a dashed line is at the baseline's, and a
    stepped one runs along the front.

    Args:
        over: what the horizontal axis is.
        perplexity: quality is perplexity, and its axis points down; else accuracy.
    """
    if not dots:
        return Markup("")
    height = max(330.0, 110 + 22.0 * sum(len(x.label) > _NUMBER for x in dots))
    figure = sheet(440, height)
    axes = panel(figure, 46, 14, 12, 44)
    for each in dots:
        if each.is_baseline:
            axes.axhline(each.quality, color=BASELINE, linestyle=(0, (5, 4)), linewidth=1)
    candidates = [x for x in dots if not x.is_baseline]
    if candidates:
        below = [max(x.quality - x.low, 0.0) for x in candidates]
        above = [max(x.high - x.quality, 0.0) for x in candidates]
        at = [x.x for x in candidates], [x.quality for x in candidates]
        axes.errorbar(*at, yerr=(below, above), fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    front = sorted((x.x, x.quality) for x in dots if x.on_front)
    if len(front) > 1:
        axes.step(*zip(*front, strict=True), where="post", color=SOFT, linewidth=1.2)
    for is_baseline, who in ((True, "baseline"), (False, "candidate")):
        chosen = [(place, x) for place, x in enumerate(dots) if x.is_baseline == is_baseline]
        axes.scatter(
            [x.x for _, x in chosen],
            [x.quality for _, x in chosen],
            s=70 if len(dots) <= 100 else 24,
            linewidths=1.5,
            zorder=3,
            urls=[spot(place) for place, _ in chosen],
            facecolors=_LOOKS[who]["facecolor"],
            edgecolors=BASELINE if is_baseline else CANDIDATE,
        )
    axes.set_xlim(0, max(x.x for x in dots) * 1.08 or 1.0)
    axes.margins(y=0.08)
    axes.set_xlabel(over, loc="right")
    if perplexity:
        axes.invert_yaxis()
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}" if perplexity else percent(y))
    axes.locator_params(axis="both", nbins=6)
    axes.grid(axis="y")
    _labels(axes, dots)
    return to_svg(
        figure,
        f"{'Perplexity' if perplexity else 'Accuracy'} over {over} of each model",
        [Spot(x.words or x.label, x.link) for x in dots],
    )


_NUMBER = 4  # letters of a label that is no name
_LETTER = 6.4  # pixels that one is taken to need


def _labels(axes: Axes, dots: Sequence[Dot]) -> None:
    """Each beside its dot, on the side with more room, moved up or down to where no other label is."""
    places = axes.transData.transform([(x.x, x.quality) for x in dots])
    box = axes.get_window_extent()
    taken: list[tuple[float, float, float]] = []  # from, to, height; pixels
    named = [each for each in zip(dots, places, strict=True) if each[0].label]
    for dot, (x, y) in sorted(named, key=lambda each: -each[1][1]):
        words = visible(dot.label if len(dot.label) <= 28 else dot.label[:27] + "…")
        width = _LETTER * len(words) + 14
        on_left = x - box.x0 > width and x > (box.x0 + box.x1) / 2
        begin, end = (x - width, x) if on_left else (x, x + width)
        tries = [y + 15 * step * sign for step in range(40) for sign in (1, -1)]
        free = (
            at
            for at in tries
            if box.y0 + 6 <= at <= box.y1 - 6
            and not any(abs(at - other) < 15 and begin < to and start < end for start, to, other in taken)
        )
        at = next(free, y)
        taken.append((begin, end, at))
        axes.annotate(
            words,
            (dot.x, dot.quality),
            (-10 if on_left else 10, at - y),
            textcoords="offset points",
            ha="right" if on_left else "left",
            va="center",
            fontsize=11.5,
        )


@themed
def silencing_curve(title: str, points: Sequence[Point], unit: str, chosen: int | None = None) -> Markup:
    """Accuracy over silenced units with 95 % whiskers, and a dashed line at the full model's accuracy.

    Args:
        points: at least two, by `silenced`; the first is the full model.
        unit: what is silenced, in the plural.
        chosen: the number of silenced units that is marked.
    """
    figure = sheet(340, 180)
    axes = panel(figure, 46, 8, 12, 38)
    full = points[0].accuracy
    at, ys = [x.silenced for x in points], [x.accuracy for x in points]
    ends = [(max(full + x.low, 0.0), min(full + x.high, 1.0)) for x in points]
    axes.axhline(full, color=BASELINE, linestyle=(0, (5, 4)), linewidth=1)
    axes.vlines(at, *zip(*ends, strict=True), color=SOFT, linewidth=1)
    axes.plot(at, ys, color=CANDIDATE, marker="o", markersize=5, markerfacecolor=CARD)
    for x, y in zip(at, ys, strict=True):
        if x == chosen:
            axes.axvline(x, color=BASELINE, linestyle=(0, (5, 4)), linewidth=1)
            axes.plot([x], [y], color=CANDIDATE, marker="o", markersize=9)
    axes.set_xlabel(f"{unit} silenced")
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y")
    return to_svg(figure, title)
