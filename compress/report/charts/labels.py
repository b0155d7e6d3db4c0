"""Positions of the labels of a scatter chart, so that none crosses a line, a dot or another label.

All coordinates are pixels from the bottom left corner of the axes; boxes are (left, bottom, right, top).
Shapes: n = boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import cos, hypot, pi, sin
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Label", "placed"]

Box = tuple[float, float, float, float]

_LETTER, _HEIGHT, _PAD = 7.0, 14.0, 4.0  # of a label's text
_DISTANCES = (8.0, 12.0, 18.0, 26.0, 36.0, 48.0, 62.0, 78.0, 96.0, 120.0)
_ANGLES = tuple(2 * pi * step / 16 for step in (0, 8, 1, 15, 7, 9, 2, 14, 6, 10, 3, 13, 5, 11, 4, 12))
_ALIGN: dict[int, Literal["left", "right", "center"]] = {1: "left", -1: "right", 0: "center"}
_LED = 14.0  # distance from which a line leads from the dot to its label
_ORDERS: tuple[Callable[[tuple[float, float]], float], ...] = (
    lambda at: -at[1],
    lambda at: at[1],
    lambda at: -at[0],
    lambda at: at[0],
)


@dataclass(frozen=True)
class Label:
    """A placed label.

    Attributes:
        dot: index of its dot.
        at: the middle of the text's left end, of its right end or of its centre, depending on `align`.
        leader: ends of the line from the dot to the text; None if they are close.
        crossed: number of boxes that it overlaps.
    """

    dot: int
    at: tuple[float, float]
    align: Literal["left", "right", "center"]
    leader: tuple[tuple[float, float], tuple[float, float]] | None
    crossed: int


def placed(
    dots: Sequence[tuple[float, float]],
    texts: Sequence[str],
    obstacles: Sequence[Box],
    width: float,
    height: float,
) -> tuple[Label, ...]:
    """Place each text (empty: none) near its dot; several orders are tried, and the best one is returned."""
    best: tuple[Label, ...] = ()
    for order in _ORDERS:
        found = _placed(dots, texts, obstacles, (width, height), order)
        if not best or sum(x.crossed for x in found) < sum(x.crossed for x in best):
            best = found
        if not any(x.crossed for x in best):
            break
    return best


def _placed(
    dots: Sequence[tuple[float, float]],
    texts: Sequence[str],
    obstacles: Sequence[Box],
    size: tuple[float, float],
    order: Callable[[tuple[float, float]], float],
) -> tuple[Label, ...]:
    taken = list(obstacles)
    labels: list[Label] = []
    drawn: list[Box] = []  # labels and lines so far, which other lines must not cross
    for place in sorted((i for i, text in enumerate(texts) if text), key=lambda i: order(dots[i])):
        others = [(x - 5, y - 5, x + 5, y + 5) for i, (x, y) in enumerate(dots) if i != place]
        best, box = _best(place, dots[place], texts[place], _array(taken), _array([*drawn, *others]), size)
        labels.append(best)
        new = [box, *([] if best.leader is None else _steps(*best.leader))]
        taken += new
        drawn += new
    return tuple(labels)


def _array(boxes: Sequence[Box]) -> NDArray[Any]:
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _best(
    place: int,
    dot: tuple[float, float],
    text: str,
    taken: NDArray[Any],
    of_lines: NDArray[Any],
    size: tuple[float, float],
) -> tuple[Label, Box]:
    """The nearest position that crosses the fewest boxes, and its box.

    Args:
        taken: what the text must not cross, [n, 4].
        of_lines: what the line to the text must not cross, [n, 4].
    """
    wide = _LETTER * len(text) + 2 * _PAD
    best: tuple[Label, Box] | None = None
    for distance in _DISTANCES:
        for angle in _ANGLES:
            x, y = dot[0] + distance * cos(angle), dot[1] + distance * sin(angle)
            sideways = (abs(cos(angle)) > 0.3) * (1 if cos(angle) > 0 else -1)
            upwards = (abs(sin(angle)) > 0.9) * (1 if sin(angle) > 0 else -1)
            middle = (x + sideways * wide / 2, y + upwards * _HEIGHT / 2)
            box = _around(middle, wide)
            if box[0] < 2 or box[1] < 2 or box[2] > size[0] or box[3] > size[1]:
                continue
            leader = (dot, (x, y)) if distance > _LED else None
            crossed = _overlaps(box, taken)
            if leader is not None:
                crossed += sum(_overlaps(step, of_lines) for step in _steps(*leader))
            if best is None or crossed < best[0].crossed:
                best = Label(place, (x + _PAD * sideways, middle[1]), _ALIGN[sideways], leader, crossed), box
            if not crossed:
                return best
    if best is None:  # wider than the axes
        at = (size[0] / 2, dot[1])
        best = Label(place, at, "center", None, 1), _around(at, size[0])
    return best


def _around(middle: tuple[float, float], wide: float) -> Box:
    x, y = middle
    return (x - wide / 2, y - _HEIGHT / 2, x + wide / 2, y + _HEIGHT / 2)


def _overlaps(box: Box, boxes: NDArray[Any]) -> int:
    left, bottom, right, top = boxes.T
    return int(((left < box[2]) & (right > box[0]) & (bottom < box[3]) & (top > box[1])).sum())


def _steps(start: tuple[float, float], end: tuple[float, float]) -> Iterator[Box]:
    """Small boxes along a line, without its first part, which is on the dot."""
    length = hypot(end[0] - start[0], end[1] - start[1])
    for step in range(8, int(length), 3):
        x, y = (a + (b - a) * step / length for a, b in zip(start, end, strict=True))
        yield (x - 1.5, y - 1.5, x + 1.5, y + 1.5)
