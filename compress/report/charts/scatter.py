"""Scatter chart of quality over latency or size, one dot per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from compress.page.format import capital, percent
from compress.report.charts.drawing import (
    BASELINE,
    CANDIDATE,
    INK,
    SOFT,
    Spot,
    panel,
    sheet,
    spot,
    themed,
    to_svg,
)
from compress.report.charts.measured import LOOKS
from compress.safe_text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Dot", "scatter"]


@dataclass(frozen=True)
class Dot:
    """One model in a scatter chart.

    Attributes:
        label: text next to the dot.
        x: horizontal value: milliseconds or MB.
        quality: accuracy in [0, 1], or perplexity; low and high bound its interval.
        words: tooltip; empty: the label.
        link: target of a click; empty for none.
        on_front: whether the dot is on the Pareto front.
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
def scatter(
    dots: Sequence[Dot],
    over: str = "latency p50, ms (left is faster)",
    *,
    perplexity: bool = False,
    quality: str = "accuracy",
) -> Markup:
    """Quality over a cost (lower is better), with the interval of its difference from the baseline.

    The horizontal axis starts at 0, the quality axis does not. A dashed line marks the baseline's quality, a
    stepped line the Pareto front.

    Args:
        over: label of the horizontal axis.
        perplexity: quality is perplexity, plotted on an inverted axis.
        quality: name of any other quality.
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
            facecolors=LOOKS[who]["facecolor"],
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
        f"{'Perplexity' if perplexity else capital(quality)} over {over} of each model",
        [Spot(x.words or x.label, x.link) for x in dots],
    )


_NUMBER = 4  # characters of the longest label that is a number, not a name
_LETTER = 6.4  # assumed pixels per character


def _labels(axes: Axes, dots: Sequence[Dot]) -> None:
    """Label each dot on the side with more room, moved up or down to avoid other labels."""
    places = axes.transData.transform([(x.x, x.quality) for x in dots])
    box = axes.get_window_extent()
    taken: list[tuple[float, float, float]] = []  # start, end, height in pixels
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
