"""Accuracy of an ONNX file, and the paired difference of two on the same rows.

Wilson 1927 for one accuracy; Tango 1998, Statistics in Medicine 17, 891-908, for the difference of two.
Shapes: n = rows, b = batch, c = classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from compress.data.split import Split
from compress.errors import MeasureError
from compress.measure.results import Accuracy, AccuracyDifference
from compress.measure.session import Session, answer

__all__ = ["BATCHED_SIZE", "accuracy", "accuracy_difference", "paired_interval", "predict", "wilson_interval"]

BATCHED_SIZE = 32
_Z95 = 1.959963984540054
_BISECTIONS = 60  # halves an interval of length 2 to below the spacing of doubles

Classes = NDArray[np.int64]


def predict(
    session: Session, split: Split, batch_size: int, *, on_rows: Callable[[int], None] | None = None
) -> Classes:
    """Answer every row of a split, in order.

    Args:
        session: an open ONNX file.
        split: the rows; a batch is padded to its own longest row.
        batch_size: rows a call; 1 pads nothing.
        on_rows: told how many rows are answered so far, after each call.

    Returns:
        Class indices [n].

    Raises:
        MeasureError: if the split is empty, or an answer is NaN.
    """
    if len(split) == 0:
        raise MeasureError(f"the {split.name} split has no rows to measure on")
    predicted = np.empty(len(split), dtype=np.int64)
    done = 0
    for batch in split.batches(batch_size):
        logits = answer(session, batch)  # [b, c]
        if np.isnan(logits).any():
            row = done + int(np.isnan(logits).any(axis=1).argmax())
            raise MeasureError(f"the ONNX file answers NaN on row {row} of the {split.name} split")
        predicted[done : done + len(logits)] = logits.argmax(axis=1)
        done += len(logits)
        if on_rows is not None:
            on_rows(done)
    return predicted


def accuracy(
    single: Classes, batched: Classes, labels: Classes, *, batched_size: int = BATCHED_SIZE
) -> Accuracy:
    """Sum up the answers given one row at a time, and those given in padded batches.

    Args:
        single: predicted classes at batch 1 [n].
        batched: predicted classes in batches of `batched_size` [n].
        labels: true classes [n].
        batched_size: rows a batch of `batched`.
    """
    rows = len(labels)
    correct = int((single == labels).sum())
    low, high = wilson_interval(correct, rows)
    return Accuracy(
        value=correct / rows,
        low=low,
        high=high,
        rows=rows,
        correct=correct,
        batched_value=int((batched == labels).sum()) / rows,
        batched_size=batched_size,
        batched_disagreements=int((single != batched).sum()),
    )


def accuracy_difference(baseline: Classes, candidate: Classes, labels: Classes) -> AccuracyDifference:
    """Compare two models' predicted classes [n] on the same rows with labels [n]."""
    rows = len(labels)
    gained = int(((candidate == labels) & (baseline != labels)).sum())
    lost = int(((baseline == labels) & (candidate != labels)).sum())
    low, high = paired_interval(gained, lost, rows)
    return AccuracyDifference(
        value=(gained - lost) / rows,
        low=low,
        high=high,
        rows=rows,
        gained=gained,
        lost=lost,
        agreement=int((baseline == candidate).sum()) / rows,
    )


def wilson_interval(correct: int, rows: int, *, z: float = _Z95) -> tuple[float, float]:
    """Score interval of one proportion; unlike Wald's it has a width at 0 and at 1."""
    share = correct / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    # At share 0 and 1 the exact bound is 0 and 1, which rounding may miss by one unit in the last place.
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == rows else centre + half
    return low, high


def paired_interval(gained: int, lost: int, rows: int, *, z: float = _Z95) -> tuple[float, float]:
    """Score interval of the paired difference (gained - lost) / rows (Tango 1998).

    It keeps its coverage where few rows or none differ: with no discordant row it is +-z^2 / (rows + z^2). A
    Wald interval has width 0 there, and would call eight equal answers proof.

    Args:
        gained: rows that only the second is right on.
        lost: rows that only the first is right on.
        rows: all rows, concordant ones too.
        z: normal quantile; the default gives 95 %.
    """
    estimate = (gained - lost) / rows
    low = _solve(gained, lost, rows, z, inside=estimate, outside=-1.0)
    high = _solve(gained, lost, rows, z, inside=estimate, outside=1.0)
    return low, high


def _solve(gained: int, lost: int, rows: int, z: float, *, inside: float, outside: float) -> float:
    """Bisect for the difference whose |score| is z; the score falls steadily and is 0 at the estimate."""
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        if abs(_score(gained, lost, rows, middle)) <= z:
            inside = middle
        else:
            outside = middle
    return inside


def _score(gained: int, lost: int, rows: int, difference: float) -> float:
    """Tango's score statistic; at difference 0 it is McNemar's (gained - lost) / sqrt(gained + lost)."""
    b, c, n, d = gained, lost, rows, difference
    # q: maximum likelihood estimate of P(lost) when the difference is d
    A = 2 * n
    B = -b - c + (2 * n - b + c) * d
    C = -c * d * (1 - d)
    q = (math.sqrt(max(B * B - 4 * A * C, 0.0)) - B) / (2 * A)
    variance = n * (2 * q + d * (1 - d))
    distance = b - c - n * d
    if variance <= 0.0:  # the edges -1 and 1, and 0 with no discordant row
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)
