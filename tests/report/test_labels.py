"""Labels of charts: none crosses a line, a dot or another label, and each is near its dot."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from compress.report.charts.labels import Box, placed
from compress.report.charts.scatter import Dot, names_fit, scatter

WIDTH, HEIGHT = 380.0, 270.0


def _cross(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text_box(at: tuple[float, float], align: str, text: str) -> Box:
    """Of letters 6.5 pixels wide and 12 high."""
    wide = 6.5 * len(text)
    left = at[0] - {"left": 0.0, "center": wide / 2, "right": wide}[align]
    return (left, at[1] - 6, left + wide, at[1] + 6)


@pytest.mark.parametrize("seed", range(20))
def test_labels_cross_nothing_and_stay_inside(seed: int) -> None:
    draw = random.Random(seed)
    dots = [(draw.uniform(10, WIDTH - 10), draw.uniform(10, HEIGHT - 10)) for _ in range(8)]
    obstacles: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in dots]
    obstacles += [(x - 1, y - 40, x + 1, y + 40) for x, y in dots]  # intervals
    texts = [f"run-{i}" for i in range(8)]
    labels = placed(dots, texts, obstacles, WIDTH, HEIGHT)
    assert sorted(x.dot for x in labels) == list(range(8)) and not any(x.crossed for x in labels)
    boxes = [_text_box(x.at, x.align, texts[x.dot]) for x in labels]
    assert not any(_cross(a, b) for a, b in combinations(boxes, 2))
    assert not any(_cross(box, each) for box in boxes for each in obstacles)
    assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= WIDTH and b[3] <= HEIGHT for b in boxes)


def test_a_label_far_from_its_dot_has_a_line_to_it() -> None:
    wall: Box = (90.0, 90.0, 130.0, 130.0)
    (label,) = placed([(110.0, 110.0)], ["far"], [wall], WIDTH, HEIGHT)
    assert label.leader is not None and label.leader[0] == (110.0, 110.0) and not label.crossed
    (near,) = placed([(110.0, 110.0)], ["near"], [(104.0, 104.0, 116.0, 116.0)], WIDTH, HEIGHT)
    assert near.leader is None


def test_an_empty_text_has_no_label_and_one_without_room_says_what_it_crosses() -> None:
    assert placed([(10.0, 10.0)], [""], [], WIDTH, HEIGHT) == ()
    (label,) = placed([(10.0, 10.0)], ["x"], [(0.0, 0.0, WIDTH, HEIGHT)], WIDTH, HEIGHT)
    assert label.crossed > 0
    (label,) = placed([(10.0, 10.0)], ["wider than the chart" * 9], [], WIDTH, HEIGHT)
    assert label.crossed > 0


def test_names_without_room_give_way_to_numbers() -> None:
    def dot(i: int, x: float) -> Dot:
        return Dot(f"a-name-of-a-run-{i}", x, 0.9, 0.8, 1.0, number=f"#{i}")

    few, crowded = [dot(1, 1.0), dot(2, 5.0)], [dot(i, 1.0 + 0.2 * i) for i in range(12)]
    assert names_fit(few) and not names_fit(crowded) and names_fit([])
    assert ">a-name-of-a-run-1</text>" in scatter(few) and ">#1</text>" not in scatter(few)
    assert ">#1</text>" in scatter(crowded) and ">a-name-of-a-run-1</text>" not in scatter(crowded)
    assert ">#1</text>" in scatter(few, numbered=True)
