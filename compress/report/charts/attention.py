"""Attention maps: shares in six shades of one hue (`s1` to `s6` in the page's style), and their legend.

A single hue from faint to strong is readable with colour blindness.
Shapes: s = positions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby

from markupsafe import Markup

from compress.safe_text import visible

__all__ = ["attention_legend", "attention_map"]

_STEPS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""Lower bounds of the shades, as shares of attention; below the first nothing is drawn."""


def attention_map(title: str, weights: Sequence[Sequence[float]]) -> Markup:
    """Draw the attention from each position (row) to each position (column), [s, s], as unit squares."""
    runs: dict[int, list[str]] = {}
    for y, row in enumerate(weights):
        for step, start, length in _runs(row):
            runs.setdefault(step, []).append(f"M{start} {y}h{length}")
    size = len(weights)
    head = Markup('<svg class="map" role="img" viewBox="0 -.5 {0} {0}" aria-label="{1}">').format(
        size, visible(title)
    )
    paths = (
        Markup('<path class="s{}" d="{}"/>').format(step, "".join(found))
        for step, found in sorted(runs.items())
    )
    return head + Markup("").join(paths) + Markup("</svg>")


def _runs(row: Sequence[float]) -> Iterator[tuple[int, int, int]]:
    """(step, start, length) of each run of neighbours in the same step; the empty step is skipped."""
    for step, group in groupby(range(len(row)), key=lambda x: bisect_right(_STEPS, row[x])):
        places = list(group)
        if step:
            yield step, places[0], len(places)


def attention_legend() -> Markup:
    """Legend that maps shades to shares."""
    shades = [f"below {100 * _STEPS[0]:.0f} %", *(f"{100 * step:.0f} %" for step in _STEPS)]
    spans = (Markup('<span class="h{}">{}</span>').format(*each) for each in enumerate(shades))
    return Markup('<p class="legend">') + Markup("").join(spans) + Markup("</p>")
