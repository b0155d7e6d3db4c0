"""Scatter chart of quality over latency or size, one dot per model.

The scale of both axes is set here, so that labels can be placed before anything is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from compress.page.format import PERCENT, Scale, capital
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
from compress.report.charts.labels import Box, Label, placed
from compress.report.charts.measured import LOOKS
from compress.safe_text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Dot", "names_fit", "scatter"]

_WIDTH, _HEIGHT = 440.0, 330.0
_MARGINS = (46.0, 14.0, 12.0, 44.0)  # left, top, right, bottom
_LONGEST = 28  # characters of a label
_MANY = 100  # dots, above which they are small


@dataclass(frozen=True)
class Dot:
    """One model in a scatter chart.

    Attributes:
        label: text next to the dot; empty for none.
        x: horizontal value: milliseconds or MB.
        quality: accuracy in [0, 1], or perplexity; low and high bound its interval.
        number: replaces the labels of all dots if they do not fit.
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
    number: str = ""
    words: str = ""
    link: str = ""
    on_front: bool = False


@dataclass(frozen=True)
class _Scale:
    """Values at the ends of the axes (`bottom` is the larger one if the axis is inverted)."""

    right: float
    bottom: float
    top: float
    width: float = _WIDTH - _MARGINS[0] - _MARGINS[2]
    height: float = _HEIGHT - _MARGINS[1] - _MARGINS[3]

    def at(self, x: float, quality: float) -> tuple[float, float]:
        """Pixels from the bottom left corner."""
        return self.width * x / self.right, self.height * (quality - self.bottom) / (self.top - self.bottom)


def _scale(dots: Sequence[Dot], perplexity: bool) -> _Scale:
    ends = [end for x in dots for end in (x.quality, *(() if x.is_baseline else (x.low, x.high)))]
    pad = 0.08 * (max(ends) - min(ends)) or 0.01 * max(abs(ends[0]), 0.1)
    low, high = min(ends) - pad, max(ends) + pad
    right = max(x.x for x in dots) * 1.08 or 1.0
    return _Scale(right, high, low) if perplexity else _Scale(right, low, high)


def names_fit(dots: Sequence[Dot], *, perplexity: bool = False) -> bool:
    """Whether the labels can be drawn without crossing anything; otherwise the chart shows numbers."""
    texts = [x.label for x in dots]
    return not dots or not any(x.crossed for x in _placed(dots, texts, _scale(dots, perplexity)))


@themed
def scatter(
    dots: Sequence[Dot],
    over: str = "latency p50, ms (left is faster)",
    *,
    perplexity: bool = False,
    quality: str = "accuracy",
    scale: Scale = PERCENT,
    numbered: bool = False,
) -> Markup:
    """Quality over a cost (lower is better), with the interval of its difference from the baseline.

    The horizontal axis starts at 0, the quality axis does not. A dashed line marks the baseline's quality, a
    stepped line the Pareto front.

    Args:
        over: label of the horizontal axis.
        perplexity: quality is perplexity, plotted on an inverted axis.
        quality: name of any other quality.
        scale: how it is written.
        numbered: show numbers even if the labels fit. A number that would cross something is left out.
    """
    if not dots:
        return Markup("")
    ends = _scale(dots, perplexity)
    figure = sheet(_WIDTH, _HEIGHT)
    axes = panel(figure, *_MARGINS)
    axes.set(xlim=(0, ends.right), ylim=(ends.bottom, ends.top))
    for each in dots:
        if each.is_baseline:
            axes.axhline(each.quality, color=BASELINE, linestyle=(0, (5, 4)), linewidth=1)
    _draw_intervals(axes, [x for x in dots if not x.is_baseline])
    front = _front(dots)
    if len(front) > 1:
        axes.step(*zip(*front, strict=True), where="post", color=SOFT, linewidth=1.2)
    _draw_dots(axes, dots)
    axes.set_xlabel(over, loc="right")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}" if perplexity else scale.text(y))
    axes.locator_params(axis="both", nbins=6)
    axes.grid(axis="y")
    names = not numbered and names_fit(dots, perplexity=perplexity)
    texts = [x.label if names else x.number for x in dots]
    _draw_labels(axes, dots, texts, [x for x in _placed(dots, texts, ends) if names or not x.crossed], ends)
    return to_svg(
        figure,
        f"{'Perplexity' if perplexity else capital(quality)} over {over} of each model",
        [Spot(x.words or x.label, x.link) for x in dots],
    )


def _draw_intervals(axes: Axes, dots: Sequence[Dot]) -> None:
    if dots:
        below = [max(x.quality - x.low, 0.0) for x in dots]
        above = [max(x.high - x.quality, 0.0) for x in dots]
        at = [x.x for x in dots], [x.quality for x in dots]
        axes.errorbar(*at, yerr=(below, above), fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)


def _draw_dots(axes: Axes, dots: Sequence[Dot]) -> None:
    for is_baseline, who in ((True, "baseline"), (False, "candidate")):
        chosen = [(place, x) for place, x in enumerate(dots) if x.is_baseline == is_baseline]
        axes.scatter(
            [x.x for _, x in chosen],
            [x.quality for _, x in chosen],
            s=70 if len(dots) <= _MANY else 24,
            linewidths=1.5,
            zorder=3,
            urls=[spot(place) for place, _ in chosen],
            facecolors=LOOKS[who]["facecolor"],
            edgecolors=BASELINE if is_baseline else CANDIDATE,
        )


def _front(dots: Sequence[Dot]) -> list[tuple[float, float]]:
    return sorted((x.x, x.quality) for x in dots if x.on_front)


def _shown(text: str) -> str:
    return visible(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")


def _placed(dots: Sequence[Dot], texts: Sequence[str], scale: _Scale) -> tuple[Label, ...]:
    at = [scale.at(x.x, x.quality) for x in dots]
    return placed(at, [_shown(text) for text in texts], _obstacles(dots, scale), scale.width, scale.height)


def _obstacles(dots: Sequence[Dot], scale: _Scale) -> list[Box]:
    """Dots, intervals with their end marks, the line of the baseline, and the front."""
    radius = 6.0 if len(dots) <= _MANY else 4.0
    found: list[Box] = []
    for each in dots:
        x, y = scale.at(each.x, each.quality)
        found.append((x - radius, y - radius, x + radius, y + radius))
        if each.is_baseline:
            found.append((0.0, y - 1, scale.width, y + 1))
            continue
        low, high = sorted(scale.at(each.x, end)[1] for end in (each.low, each.high))
        found.append((x - 1, low, x + 1, high))
        found += [(x - 4, end - 1, x + 4, end + 1) for end in (low, high)]
    front = [scale.at(*each) for each in _front(dots)]
    for (x, y), (to_x, to_y) in zip(front, front[1:], strict=False):
        found.append((x, y - 1, to_x, y + 1))
        found.append((to_x - 1, min(y, to_y), to_x + 1, max(y, to_y)))
    return found


def _draw_labels(
    axes: Axes, dots: Sequence[Dot], texts: Sequence[str], labels: Sequence[Label], scale: _Scale
) -> None:
    for each in labels:
        x, y = scale.at(dots[each.dot].x, dots[each.dot].quality)
        if each.leader is not None:
            line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 6}
            units = "axes pixels"
            axes.annotate("", (x, y), each.leader[1], arrowprops=line, xycoords=units, textcoords=units)
        axes.annotate(
            _shown(texts[each.dot]),
            (dots[each.dot].x, dots[each.dot].quality),
            (each.at[0] - x, each.at[1] - y),
            textcoords="offset points",
            ha=each.align,
            va="center",
            fontsize=11.5,
        )
