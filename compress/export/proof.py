"""Extra rows for comparing a file with its module: lengths that do not occur in the data.

A file traced with rows of one length may be wrong at another: a branch on the length, a sliding window, a
position table. Batches of real rows, padded to the longest, don't reveal this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from compress.data.split import Array, Row, Split
from compress.model.decoder_cache import context_length
from compress.model.limits import LONGEST_PROOF, lengths_of_change
from compress.tasks import NO_LABEL, Task

__all__ = ["all_padding", "longest_row", "proof_lengths", "proof_rows"]

_MASK = "attention_mask"
_LONGEST_CONTEXT = 2048
_MOST_LOGITS = 2**25


def proof_lengths(
    split: Split, task: Task, longest: int | None = None, module: nn.Module | None = None
) -> tuple[int, ...]:
    """Row lengths to compare at, one row at a time: 1, the shortest and longest of the data, and `longest`.

    Args:
        split: the rows of the data.
        longest: maximum row length, `data.max_length` or a decoder's context; None uses the longest row.
        module: adds the lengths just beyond its windows, buckets etc., for a decoder up to its context or
            4096 tokens; None adds none.

    Returns:
        Ascending and distinct; empty if the data fixes the length.
    """
    elastic = split.elastic
    if not elastic or any(isinstance(size, str) for spec in task.inputs for size in spec.shape[1:]):
        return ()
    lengths = [row[elastic[0].name].shape[0] for row in split.rows]
    longest = longest or max(lengths)
    most = longest
    if module is not None and task.keeps_past:
        most = min(context_length(module) or longest, LONGEST_PROOF + 1)  # what changes at 4,096 is seen
    changes = () if module is None else lengths_of_change(module, most)
    return tuple(sorted({1, min(lengths), max(lengths), longest, *changes}))


def longest_row(module: nn.Module, task: Task, max_length: int | None) -> int | None:
    """Maximum row length.

    Args:
        max_length: the recipe's; None if it has none.

    Returns:
        `max_length`; for a decoder its context, but at most 2048 tokens or 2**25 logits, which can be
        compared in seconds. None if unknown.
    """
    context = context_length(module) if task.keeps_past else None
    if context is None:
        return max_length
    bounded = min(context, _LONGEST_CONTEXT, _MOST_LOGITS // task.classes)
    return max(bounded, max_length or 0)


def proof_rows(split: Split, task: Task, lengths: Sequence[int], *, seed: int = 0) -> Split:
    """Make one row of each length, in that order, from the values of real rows, so that every id is valid.

    A random row is extended by further ones until it is long enough, then cut. Inputs with a fixed length are
    those of the first row drawn.

    Args:
        split: rows to take values from; at least one.
        lengths: length of each new row; may repeat.

    Returns:
        A split of `len(lengths)` unpadded rows, named "proof", labelled `NO_LABEL`.
    """
    draw = np.random.default_rng(seed)
    rows = tuple(_row(split, task, length, draw) for length in lengths)
    return Split("proof", rows, np.full(len(rows), NO_LABEL, dtype=np.int64), split.inputs)


def _row(split: Split, task: Task, length: int, draw: np.random.Generator) -> Row:
    picked: list[Row] = []
    dynamic = [spec.name for spec in task.inputs if isinstance(spec.shape[0], str)]
    while not picked or any(_length(picked, name) < length for name in dynamic):
        picked.append(split.rows[int(draw.integers(len(split)))])
    return {
        spec.name: _joined(picked, spec.name)[:length] if spec.name in dynamic else picked[0][spec.name]
        for spec in task.inputs
    }


def _joined(rows: list[Row], name: str) -> Array:
    return np.concatenate([row[name] for row in rows])


def _length(rows: list[Row], name: str) -> int:
    return sum(row[name].shape[0] for row in rows)


def all_padding(split: Split, task: Task, count: int = 1) -> Split:
    """Make all-padding rows, for a task with an attention mask and no past: real ones with mask 0.

    A server that fills batches up to a fixed size sends such rows.

    Returns:
        A split of at most `count` rows; empty if the task has no such input.
    """
    picked = split.rows[:count] if _MASK in task.input_names and not task.keeps_past else ()
    rows = tuple({**row, _MASK: np.zeros_like(row[_MASK])} for row in picked)
    return Split("padding", rows, np.full(len(rows), NO_LABEL, dtype=np.int64), split.inputs)
