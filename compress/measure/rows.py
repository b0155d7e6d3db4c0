"""Batches to time: real rows, each brought to exactly one length, so that no call computes padding.

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


def resolve_sequence(split: Split, sequence: int | None) -> int:
    """Choose how long the timed rows are. A picture has no length: it counts as 1.

    None means the rows' own length where it is one, else their 95th percentile rounded up to a multiple of 8,
    but no longer than the longest row: what a server sees on nearly all its requests, and never more
    positions than the model was made for.

    Raises:
        MeasureError: if the split is empty, or the data fixes the length and another one is asked for.
    """
    if len(split) == 0:
        raise MeasureError(f"the {split.name} split has no rows to measure on")
    elastic = split.elastic
    lengths = _lengths((elastic or split.inputs)[0], split)
    if not elastic and sequence not in (None, lengths[0]):
        if _is_picture(split.inputs[0]):
            raise MeasureError(
                f"measure.sequence: {sequence} is not possible: input '{split.inputs[0].name}' is a picture; "
                "leave measure.sequence out"
            )
        raise MeasureError(
            f"measure.sequence: {sequence} is not possible: input '{split.inputs[0].name}' is {lengths[0]} "
            f"long in every row; leave measure.sequence out"
        )
    if sequence is not None:
        return sequence
    usual = math.ceil(float(np.quantile(lengths, _LENGTH_QUANTILE)) / _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
    return int(min(usual, max(lengths)))


def steady_batch(split: Split, batch: int, sequence: int) -> Batch:
    """Take the first `batch` rows (from the start again if they are fewer), each exactly `sequence` long.

    A longer row is cut, a shorter one repeated; the attention mask is all ones, so every token is work. An
    input whose length the data fixes stays as it is.
    """
    rows = [split.rows[index % len(split)] for index in range(batch)]
    out: Batch = {}
    elastic = split.elastic
    for spec in split.inputs:
        arrays = [row[spec.name] for row in rows]
        if spec in elastic:
            arrays = [_repeated(array, sequence) for array in arrays]
        stacked = np.stack(arrays).astype(spec.dtype)  # [b, s, ...]
        out[spec.name] = np.ones_like(stacked) if spec.name == _MASK else stacked
    return out


def _repeated(array: Array, sequence: int) -> Array:
    """Repeat or cut [s, ...] to [sequence, ...]."""
    return array[np.arange(sequence) % array.shape[0]]  # type: ignore[no-any-return]


def _lengths(spec: InputSpec, split: Split) -> list[int]:
    return [1 if _is_picture(spec) else row[spec.name].shape[0] for row in split.rows]


def _is_picture(spec: InputSpec) -> bool:
    """Say whether a row is channels, height and width."""
    return len(spec.shape) == 3 and all(isinstance(size, int) for size in spec.shape)
