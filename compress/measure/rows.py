"""Batches for timing: real rows, each brought to exactly one length, so that no call computes padding.

Shapes: b = batch, s = sequence.
"""

from __future__ import annotations

import math

import numpy as np

from compress.data.split import Array, Batch, Split
from compress.errors import MeasureError
from compress.tasks import InputSpec

__all__ = ["resolve_sequence", "steady_batch"]

_MASK = "attention_mask"
_LENGTH_QUANTILE = 0.95
_LENGTH_MULTIPLE = 8


def resolve_sequence(split: Split, sequence: int | None) -> int | None:
    """Choose the length of the timed rows; None for rows of a fixed shape, such as images, which have none.

    A sequence of None means the rows' own length if they share one, else their 95th percentile rounded up to
    a multiple of 8, but at most the longest row: this covers nearly all requests of a server, and never
    exceeds the model's positions.

    Raises:
        MeasureError: if the split is empty, or the data fixes a different length.
    """
    if len(split) == 0:
        raise MeasureError(f"the {split.name} split has no rows to measure on")
    elastic = split.elastic
    first = (elastic or split.inputs)[0]
    lengths = [1 if _is_image(first) else row[first.name].shape[0] for row in split.rows]
    if not elastic and sequence not in (None, lengths[0]):
        if _is_image(split.inputs[0]):
            raise MeasureError(
                f"measure.sequence: {sequence} is not possible: input '{split.inputs[0].name}' is an image; "
                "omit measure.sequence"
            )
        raise MeasureError(
            f"measure.sequence: {sequence} is not possible: input '{split.inputs[0].name}' has length "
            f"{lengths[0]} in every row; omit measure.sequence"
        )
    if isinstance(first.shape[0], int):
        return None
    if sequence is not None:
        return sequence
    usual = math.ceil(float(np.quantile(lengths, _LENGTH_QUANTILE)) / _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
    return int(min(usual, max(lengths)))


def steady_batch(split: Split, batch: int, sequence: int | None) -> Batch:
    """Take the first `batch` rows (repeating them if there are fewer), each exactly `sequence` long.

    Longer rows are cut, shorter ones repeated. The attention mask is all ones, so every token is computed.
    Inputs with a fixed length are unchanged; a sequence of None says that all are.
    """
    rows = [split.rows[index % len(split)] for index in range(batch)]
    out: Batch = {}
    elastic = split.elastic
    for spec in split.inputs:
        arrays = [row[spec.name] for row in rows]
        if sequence is not None and spec in elastic:
            arrays = [_repeated(array, sequence) for array in arrays]
        stacked = np.stack(arrays).astype(spec.dtype)  # [b, s, ...]
        out[spec.name] = np.ones_like(stacked) if spec.name == _MASK else stacked
    return out


def _repeated(array: Array, sequence: int) -> Array:
    """Repeat or cut [s, ...] to [sequence, ...]."""
    return array[np.arange(sequence) % array.shape[0]]  # type: ignore[no-any-return]


def _is_image(spec: InputSpec) -> bool:
    """Whether a row is an image (channels, height and width)."""
    return len(spec.shape) == 3 and all(isinstance(size, int) for size in spec.shape)
