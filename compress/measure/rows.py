"""Batches to time: real rows, each brought to exactly one length, so that no call computes padding.

Shapes: b = batch, s = sequence.
"""

from __future__ import annotations

import math

import numpy as np

from compress.data.split import Array, Batch, Split
from compress.errors import MeasureError
from compress.task import InputSpec

__all__ = ["resolve_sequence", "steady_batch"]

_MASK = "attention_mask"
_LENGTH_QUANTILE = 0.95
_LENGTH_MULTIPLE = 8


def resolve_sequence(split: Split, sequence: int | None) -> int:
    """Choose how long the timed rows are.

    None means the rows' own length where it is one, else their 95th percentile rounded up to a multiple of 8,
    but no longer than the longest row: what a server sees on nearly all its requests, and never more
    positions than the model was made for.

    Raises:
        MeasureError: if the data fixes the length and another one is asked for.
    """
    if len(split) == 0:
        raise MeasureError(f"the {split.name} split has no rows to measure on")
    lengths = [row[split.inputs[0].name].shape[0] for row in split.rows]
    fixed = [spec.name for spec in split.inputs if _is_fixed(spec, lengths)]
    if fixed and sequence not in (None, lengths[0]):
        raise MeasureError(
            f"measure.sequence: {sequence} is not possible: input '{fixed[0]}' is {lengths[0]} long in every "
            f"row; leave measure.sequence out"
        )
    if sequence is not None:
        return sequence
    usual = math.ceil(float(np.quantile(lengths, _LENGTH_QUANTILE)) / _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
    return int(min(usual, max(lengths)))


def steady_batch(split: Split, batch: int, sequence: int) -> Batch:
    """Take the first `batch` rows (from the start again if they are fewer), each exactly `sequence` long.

    A longer row is cut, a shorter one repeated; the attention mask is all ones, so every token is work.
    """
    rows = [split.rows[index % len(split)] for index in range(batch)]
    out: Batch = {}
    for spec in split.inputs:
        if spec.name == _MASK:
            out[spec.name] = np.ones((batch, sequence), dtype=spec.dtype)
        else:
            out[spec.name] = np.stack([_repeated(row[spec.name], sequence) for row in rows]).astype(
                spec.dtype
            )
    return out


def _repeated(array: Array, sequence: int) -> Array:
    """Repeat or cut [s, ...] to [sequence, ...]."""
    return array[np.arange(sequence) % array.shape[0]]  # type: ignore[no-any-return]


def _is_fixed(spec: InputSpec, lengths: list[int]) -> bool:
    """Say whether rows have one length by nature: by the input's shape, or as patches of equal things."""
    if not isinstance(spec.shape[0], str):
        return True
    return spec.dtype == "float32" and min(lengths) == max(lengths)
