"""Accuracy of an ONNX file, and the paired difference of two on the same rows.

Clopper and Pearson 1934, Biometrika 26, 404-413, for one accuracy; Tango 1998, Statistics in Medicine 17,
891-908, for the difference of two; Student's t over rows where a row has several answers.
Shapes: n = rows, b = batch, c = classes, s = positions of a language model's row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.split import Array, Batch, Split
from compress.errors import MeasureError
from compress.measure.results import Accuracy, AccuracyDifference
from compress.measure.runtimes.session import Session, answer
from compress.task import LABELS_KEY

__all__ = [
    "BATCHED_SIZE",
    "accuracy",
    "accuracy_difference",
    "batched_size",
    "commonest_gain",
    "mean_interval",
    "paired_interval",
    "predict",
    "proportion_interval",
]

BATCHED_SIZE = 32
_MOST_LOGITS = 1 << 26  # of one batch, which are in memory at once
_LEVEL = 0.95
_Z95 = 1.959963984540054
_BISECTIONS = 60  # halves an interval of length 2 to below the spacing of doubles

Classes = NDArray[np.int64]


def predict(
    session: Session,
    split: Split,
    batch_size: int,
    *,
    on_rows: Callable[[int], None] | None = None,
    on_logits: Callable[[Array, Batch], None] | None = None,
) -> Classes:
    """Answer every row of a split, in order.

    Args:
        session: an open ONNX file.
        split: the rows; a batch is padded to its own longest row.
        batch_size: rows a call; 1 pads nothing.
        on_rows: told how many rows are answered so far, after each call.
        on_logits: given the logits and the batch of each call.

    Returns:
        Class indices [n], or [n s] of a language model.

    Raises:
        MeasureError: if the split is empty, or an answer is NaN.
    """
    if len(split) == 0:
        raise MeasureError(f"the {split.name} split has no rows to measure on")
    predicted = np.empty(split.answers.size, dtype=np.int64)
    done = rows = 0
    for batch in split.batches(batch_size):
        logits = answer(session, batch)  # [b, c]
        if np.isnan(logits).any():
            row = rows + int(np.isnan(logits).any(axis=1).argmax()) * len(batch[LABELS_KEY]) // len(logits)
            raise MeasureError(f"the ONNX file answers NaN on row {row} of the {split.name} split")
        predicted[done : done + len(logits)] = logits.argmax(axis=1)
        done, rows = done + len(logits), rows + len(batch[LABELS_KEY])
        if on_logits is not None:
            on_logits(logits, batch)
        if on_rows is not None:
            on_rows(rows)
    return predicted


def batched_size(session: Session, split: Split) -> int:
    """Rows of a batch: 32, or as many as a language model's logits leave room for, but two at the least."""
    width = session.get_outputs()[0].shape[-1]
    each = split.labels[:1].size * (width if isinstance(width, int) else 1)
    return max(2, min(BATCHED_SIZE, _MOST_LOGITS // max(each, 1)))


def accuracy(
    single: Classes,
    batched: Classes,
    labels: Classes,
    *,
    batched_size: int = BATCHED_SIZE,
    positions: int = 1,
) -> Accuracy:
    """Sum up the answers given one row at a time, and those given in padded batches.

    Args:
        single: predicted classes at batch 1 [n].
        batched: predicted classes in batches of `batched_size` [n].
        labels: true classes [n].
        batched_size: rows a batch of `batched`.
        positions: answers that each row has, one after the other: s of a language model, whose n is n s.
    """
    units = len(labels)
    correct = int((single == labels).sum())
    low, high = proportion_interval(correct, units)
    if positions > 1:
        low, high = _wider((low, high), mean_interval(_by_row(single == labels, positions)), least=0.0)
    return Accuracy(
        value=correct / units,
        low=low,
        high=high,
        rows=units // positions,
        units=units,
        correct=correct,
        batched_value=int((batched == labels).sum()) / units,
        batched_size=batched_size,
        batched_disagreements=int((single != batched).sum()),
        unit="token" if positions > 1 else "row",
    )


def accuracy_difference(
    baseline: Classes, candidate: Classes, labels: Classes, *, positions: int = 1
) -> AccuracyDifference:
    """Compare two models' predicted classes [n] on rows with labels [n]; positions as in `accuracy`."""
    units = len(labels)
    gained = int(((candidate == labels) & (baseline != labels)).sum())
    lost = int(((baseline == labels) & (candidate != labels)).sum())
    low, high = paired_interval(gained, lost, units)
    if positions > 1:
        change = (candidate == labels).astype(np.float64) - (baseline == labels)
        low, high = _wider((low, high), mean_interval(_by_row(change, positions)), least=-1.0)
    return AccuracyDifference(
        value=(gained - lost) / units,
        low=low,
        high=high,
        rows=units // positions,
        units=units,
        gained=gained,
        lost=lost,
        agreement=int((baseline == candidate).sum()) / units,
        unit="token" if positions > 1 else "row",
    )


def commonest_gain(
    right: NDArray[np.bool_], labels: Classes, *, positions: int = 1
) -> tuple[float, AccuracyDifference]:
    """Compare a model with always naming the commonest label, row by row.

    Args:
        right: which answers are right [n].
        labels: true classes [n].
        positions: as in `accuracy`.

    Returns:
        The share of the commonest label, and the accuracy beyond it: measurable where its `low` is above 0.
    """
    classes, counts = np.unique(labels, return_counts=True)
    constant = labels == classes[counts.argmax()]
    # As two models of the question "is it right?", whose true answer is always yes.
    gain = accuracy_difference(
        constant.astype(np.int64), right.astype(np.int64), np.ones_like(labels), positions=positions
    )
    return float(constant.mean()), gain


def mean_interval(values: NDArray[np.float64], *, level: float = _LEVEL) -> tuple[float, float]:
    """Student's t interval of the mean of independent values [n]; one value alone bounds nothing.

    The normal quantile in its place would cover 88 % of five values, not 95 %.
    """
    if len(values) < 2:
        return -math.inf, math.inf
    from scipy.special import stdtrit  # only where it is needed: generate does without scipy

    mean = float(values.mean())
    quantile = float(stdtrit(len(values) - 1, (1 + level) / 2))
    half = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def _by_row(answers: NDArray[Any], positions: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = answers.reshape(-1, positions).mean(axis=1, dtype=np.float64)
    return found


def _wider(first: tuple[float, float], second: tuple[float, float], *, least: float) -> tuple[float, float]:
    """The lower of both ends and the higher, within `least` and 1."""
    return max(min(first[0], second[0]), least), min(max(first[1], second[1]), 1.0)


def proportion_interval(correct: int, rows: int, *, level: float = _LEVEL) -> tuple[float, float]:
    """Exact interval of one proportion (Clopper and Pearson 1934): it never covers less than it claims.

    Wilson's covers 90.5 to 92 % of 100 rows at a true share of 0.99 and above, where good models are.
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if correct == 0 else float(betaincinv(correct, rows - correct + 1, tail))
    high = 1.0 if correct == rows else float(betaincinv(correct + 1, rows - correct, 1 - tail))
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
