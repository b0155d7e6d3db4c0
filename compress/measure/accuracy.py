"""Predictions of an ONNX file, one row at a time and in batches, and their score.

Shapes: n = rows, b = batch, u = judged units.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compress.data.split import Array, Split
from compress.errors import MeasureError
from compress.measure.results import Accuracy
from compress.measure.runtimes.session import Session, answer
from compress.tasks import LABELS_KEY, Task
from compress.tasks.spec import Tally

__all__ = ["BATCHED_SIZE", "accuracy", "batched_size", "predict"]

BATCHED_SIZE = 32


def predict(
    session: Session,
    split: Split,
    batch_size: int,
    task: Task,
    *,
    on_rows: Callable[[int], None] | None = None,
    tally: Tally | None = None,
) -> Array:
    """Predict every row of a split, in order.

    Args:
        session: an open ONNX file.
        split: the rows; a batch is padded to its longest row.
        batch_size: rows per call; 1 means no padding.
        task: interprets the file's outputs.
        on_rows: called after each batch with the number of rows done so far.
        tally: updated with the logits and labels of each batch.

    Returns:
        The prediction for each unit, [u], in row order.

    Raises:
        MeasureError: if the split is empty, an output is NaN, or its shape does not fit the task.
    """
    if len(split) == 0:
        raise MeasureError(f"the {split.name} split has no rows to measure on")
    found: list[Array] = []
    rows = 0
    for batch in split.batches(batch_size):
        logits, labels = answer(session, batch, task.output), batch[LABELS_KEY]
        missing = np.isnan(logits).reshape(len(logits), -1).any(axis=1)
        if missing.any():
            raise MeasureError(
                f"the ONNX file returns NaN for row {rows + int(missing.argmax())} of the {split.name} split"
            )
        wrong = task.misfit(logits.shape, len(labels), next(iter(batch.values())).shape[1])
        if wrong is not None:
            raise MeasureError(f"the ONNX file answers {wrong}")
        found.append(task.named(task.judged(logits, labels)))
        rows += len(labels)
        if tally is not None:
            tally.add(logits, labels)
        if on_rows is not None:
            on_rows(rows)
    return np.concatenate(found)


def batched_size(split: Split, task: Task) -> int:
    """Batch size: 32, or fewer if each row's logits are large, but at least 2."""
    return max(2, task.rows_at_once(split.labels[:1].size, BATCHED_SIZE))


def accuracy(
    single: Array, batched: Array, split: Split, task: Task, *, batched_size: int = BATCHED_SIZE
) -> Accuracy:
    """Score the predictions made one row at a time and those made in padded batches.

    Args:
        single: predictions at batch 1, [u].
        batched: predictions in batches of `batched_size`, [u].
        split: the rows.
    """
    truth = split.truth(task)
    return Accuracy(
        **task.score(single, truth).model_dump(),
        correct=task.correct(single, truth),
        batched_value=task.value(batched, truth),
        batched_size=batched_size,
        batched_disagreements=int((~task.same(single, batched)).sum()),
    )
