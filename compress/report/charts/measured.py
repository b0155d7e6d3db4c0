"""Latency box plots, and bars of sizes and widths, for baseline and candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from compress.measure.results import Latency, LatencyComparison, ModelMeasurement
from compress.page.format import size
from compress.report.charts.drawing import (
    BASELINE,
    CANDIDATE,
    CARD,
    INK,
    SOFT,
    panel,
    sheet,
    themed,
    to_svg,
)
from compress.report.phrases import setting
from compress.report.schema import PartSize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LOOKS", "Width", "bar_row", "latency_boxes", "part_bars", "size_bars", "width_bars"]

_ROW = 21.0  # pixels

_WHO = ("baseline", "candidate")
LOOKS: dict[str, dict[str, Any]] = {
    "baseline": {"facecolor": CARD, "edgecolor": BASELINE},
    "candidate": {"facecolor": CANDIDATE},
}


@themed
def latency_boxes(latency: Sequence[LatencyComparison]) -> Markup:
    """Box plots of call times at each setting: quartiles, median, whiskers from p5 to p95.

    Each setting has its own scale, starting at 0.
    """
    height = 112.0
    figure = sheet(400, height * max(len(latency), 1))
    for place, each in enumerate(latency):
        above = height * place
        below = height * (len(latency) - place - 1)
        axes = panel(figure, 76, above + 20, 12, below + 28)
        axes.set_title(setting(each), loc="left", x=-76 / 312, fontsize=12, fontweight="bold", color=INK)
        stats = [_box(x) for x in (each.candidate, each.baseline)]  # from bottom to top
        boxes = axes.bxp(stats, positions=[0, 1], widths=0.5, orientation="horizontal", showfliers=False)
        for lines in boxes.values():
            for line in lines:
                line.set(color=INK, linewidth=1.3)
        boxes["medians"][0].set(color=CARD, linewidth=2)  # visible on the filled box
        for low, who in zip(stats, reversed(_WHO), strict=True):
            y = 0 if who == "candidate" else 1
            fill = {"color": LOOKS[who]["facecolor"], "linewidth": 0, "zorder": 1}
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
    """Quantiles; reports written before quartiles were recorded have only the median and p95."""
    middle = latency.p50_ms
    q1, q3, low = (middle if x is None else x for x in (latency.p25_ms, latency.p75_ms, latency.p05_ms))
    return {"med": middle, "q1": q1, "q3": q3, "whislo": low, "whishi": latency.p95_ms}


def size_bars(baseline: ModelMeasurement, candidate: ModelMeasurement) -> Markup:
    """File size, gzip size and peak memory of both models; file and gzip share a scale."""
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
    """Weight bytes of each part for both models, on one scale."""
    full = max((max(x.baseline_bytes, x.candidate_bytes) for x in parts), default=0)
    groups = [(x.name, (x.baseline_bytes, x.candidate_bytes), full) for x in parts]
    return _both("Bytes of the weights by part, baseline and candidate", groups)


@themed
def _both(title: str, groups: Sequence[tuple[str, tuple[int, int], int]]) -> Markup:
    """Bars of bytes for baseline and candidate; each group is (name, both values, value of a full bar)."""
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
    """One bar in the style of baseline or candidate; its length is a share of the width.

    Args:
        name: label on the left; empty for none.
        words: label after the end of the bar.
    """
    axes.barh(y, share, height=14, linewidth=1.5, **LOOKS[who])
    if name:
        axes.annotate(name, (0, y), (-8, 0), textcoords="offset points", va="center", ha="right", color=SOFT)
    axes.annotate(words, (share, y), (6, 0), textcoords="offset points", va="center")


@dataclass(frozen=True)
class Width:
    """Units of one sub-layer before and after; `words` label the bar."""

    name: str
    before: int
    kept: int
    words: str


@themed
def width_bars(title: str, widths: Sequence[Width]) -> Markup:
    """Units kept out of the original number, one row for each sub-layer of one kind."""
    full = max((max(x.before, x.kept) for x in widths), default=0) or 1
    height = max(_ROW * len(widths), 1)
    figure = sheet(400, height)
    names = [x.name if len(x.name) <= 20 else f"…{x.name[-19:]}" for x in widths]
    axes = panel(figure, max(map(len, names), default=0) * 6.5 + 14, 0, 100, 0)
    for at, (name, each) in enumerate(zip(names, widths, strict=True)):
        y, end = -_ROW * (at + 0.5), max(each.before, each.kept) / full
        bar_row(axes, y, "baseline", each.before / full, name, "")
        if each.kept:
            bar_row(axes, y, "candidate", each.kept / full, "", "")
        axes.annotate(each.words, (end, y), (6, 0), textcoords="offset points", va="center")
    axes.set(xlim=(0, 1), ylim=(-height, 0))
    axes.set_axis_off()
    return to_svg(figure, title)
