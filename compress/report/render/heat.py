"""Heat maps: values as seven steps of one hue (`h0` to `h6` in the page's style), attention as a picture.

One hue from faint to strong reads the same to colour-blind eyes; where there is room, the number stands in
the cell.
Shapes: s = positions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from compress.safe_text import visible

__all__ = ["ATTENTION_STEPS", "Cell", "attention_map", "heat_row"]

ATTENTION_STEPS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""Where a share of attention gets the next stronger step; below the first the picture stays empty."""


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map in a table.

    Attributes:
        step: 0 to 6.
        marked: it is outlined and bold.
    """

    text: str
    step: int
    marked: bool = False


def heat_row(values: Sequence[float], largest: float, marked: Sequence[int] = ()) -> tuple[Cell, ...]:
    """Show each value with two decimals, and its share of `largest` as a step."""
    scale = largest if largest > 0 else 1.0
    return tuple(
        Cell(f"{value:.2f}", min(6, max(0, int(7 * value / scale))), index in marked)
        for index, value in enumerate(values)
    )


def attention_map(title: str, weights: Sequence[Sequence[float]]) -> Markup:
    """Draw the attention from each position (row) to each position (column), [s, s], a unit square each."""
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
    """Neighbours of one step at once, the empty step left out: step, start, length."""
    for step, group in groupby(range(len(row)), key=lambda x: bisect_right(ATTENTION_STEPS, row[x])):
        places = list(group)
        if step:
            yield step, places[0], len(places)
