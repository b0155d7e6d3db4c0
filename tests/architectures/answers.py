"""Does a file answer as a module does: at short and long rows, alone and in batches, padded on both sides?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from compress.data.past import empty_past
from compress.data.split import Array, Batch, Row, Split, collate
from compress.export import proof_rows, relative_limit
from compress.model import logits, to_tensors
from compress.model.evaluating import evaluating
from compress.tasks import Task

__all__ = ["differences"]

_LENGTHS = (1, 2, 17)  # and the maximum
_BATCH = 7
_MASK = "attention_mask"
_ROUNDED = 0.1  # a limit above it is one for activations that are rounded to 8 bits


def differences(module: nn.Module, file: Path, rows: Split, task: Task, longest: int | None) -> list[str]:
    """Where a file's answers differ from a module's by more than a run allows, in words; empty: nowhere.

    Each row of a language model is compared with what the module answers to it alone, because padding must
    not matter to it. Other models are given the same padded batch.
    """
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    limit, wrong = relative_limit(module), []
    with evaluating(module), torch.inference_mode():
        for words, batch, own in _batches(rows, task, longest):
            pairs = _pairs(module, session, batch, own, task)
            error = _distance(pairs, rounded=limit > _ROUNDED)
            if not error <= limit:
                wrong.append(f"{words}: answers differ by {error:.2g} of their spread")
    return wrong


def _batches(rows: Split, task: Task, longest: int | None) -> Iterator[tuple[str, Batch, Array]]:
    """What is compared, its inputs, and which positions are a row's own and not padding, [b, s]."""
    if not rows.elastic:
        for count in (1, _BATCH):
            yield f"{count} rows", *_padded(list(rows.rows[:count]), task)
        return
    most = longest or int(rows.lengths.max())
    lengths = [min(length, most) for length in (*_LENGTHS, most)]
    for length in lengths:
        yield f"a row of {length}", *_padded(_made(rows, task, [length]), task)
    if _MASK not in task.input_names and not task.keeps_past:
        yield f"{_BATCH} rows of {lengths[2]}", *_padded(_made(rows, task, lengths[2:3] * _BATCH), task)
        return
    mixed = _made(rows, task, [*lengths, 3, most, 5])
    yield f"{_BATCH} rows padded on the right", *_padded(mixed, task)
    turned: list[Row] = [{name: array[::-1] for name, array in row.items()} for row in mixed]
    batch, own = _padded(turned, task)
    left = {name: np.ascontiguousarray(array[:, ::-1]) for name, array in batch.items()}
    yield f"{_BATCH} rows padded on the left", left, own[:, ::-1]


def _made(rows: Split, task: Task, lengths: list[int]) -> list[Row]:
    return list(proof_rows(rows, task, lengths).rows)


def _padded(rows: list[Row], task: Task) -> tuple[Batch, Array]:
    batch = collate(rows, task.inputs)
    lengths = np.array([len(row[task.input_names[0]]) for row in rows])
    own = np.arange(lengths.max()) < lengths[:, None]
    if task.keeps_past:
        batch[_MASK] = own.astype(np.int64)
    return batch, own


def _pairs(
    module: nn.Module, session: onnxruntime.InferenceSession, batch: Batch, own: Array, task: Task
) -> list[tuple[Array, Array]]:
    """Answers of file and module to each row."""
    names = {value.name for value in session.get_inputs()}
    feed = {name: array for name, array in batch.items() if name in names}
    (found,) = session.run([task.output], {**feed, **empty_past(session.get_inputs(), len(own))})
    if not task.keeps_past:
        wanted = logits(module, to_tensors(batch, task.input_names)).float().numpy()
        return list(zip(found, wanted, strict=True))
    rows = [torch.from_numpy(ids[mask][None]) for ids, mask in zip(batch["input_ids"], own, strict=True)]
    alone = [logits(module, {"input_ids": row})[0].float().numpy() for row in rows]
    return [(each[mask], row) for each, mask, row in zip(found, own, alone, strict=True)]


def _distance(pairs: list[tuple[Array, Array]], *, rounded: bool) -> float:
    """RMS difference of a row's answers, as a share of the spread: the largest, or the median if rounded."""
    every = np.concatenate([wanted.reshape(-1) for _, wanted in pairs])
    spread = max(float(every.std()), 0.05 * float(np.abs(every).max()), 1e-6)
    errors = [float(np.sqrt(np.square(found - wanted).mean())) / spread for found, wanted in pairs]
    return float(np.median(errors) if rounded else np.max(errors))
