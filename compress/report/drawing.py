"""What inline pictures are made of: lines, words, round ticks. Widths are percentages, heights pixels."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor, log10

from markupsafe import Markup

__all__ = ["line", "moved", "picture", "round_ticks", "text"]


def picture(title: str, height: float, parts: Iterable[Markup]) -> Markup:
    """One picture, `height` pixels high and as wide as there is room; a screen reader says the title."""
    head = Markup('<svg role="img" width="100%" height="{0:.0f}" aria-label="{1}"><title>{1}</title>')
    return head.format(height, title) + Markup("").join(parts) + Markup("</svg>")


def text(x: str, y: float, words: str, kind: str = "", dx: float = 0, anchor: str = "start") -> Markup:
    """Words; `x` in percent, `y` and `dx` in pixels, `kind` a class of the page's style."""
    return Markup('<text x="{}" y="{:.1f}" dx="{:g}" text-anchor="{}" class="{}">{}</text>').format(
        x, y, dx, anchor, kind, words
    )


def line(x1: str, y1: float, x2: str, y2: float, kind: str) -> Markup:
    """A line; `x1` and `x2` in percent, `y1` and `y2` in pixels."""
    return Markup('<line x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def moved(x: float, parts: Iterable[Markup]) -> Markup:
    """Pixels that percentages then count on top of."""
    return Markup('<g transform="translate({:g} 0)">').format(x) + Markup("").join(parts) + Markup("</g>")


def round_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within [low, high], at most about `most`."""
    span = max(high - low, 1e-9)
    unit = 10 ** floor(log10(span / most))
    step = next(unit * x for x in (1, 2, 5, 10) if span / (unit * x) <= most)
    first = -floor(-low / step)
    return [step * i for i in range(first, floor(high / step + 1e-9) + 1)]
