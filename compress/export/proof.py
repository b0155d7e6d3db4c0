"""Rows beyond the data, on which a file is compared with its module too: lengths that no row of the data has.

A file that is traced with rows of one length may be wrong at another: a branch on the length, a sliding
window, a position table. Batches of real rows, padded to the longest of them, don't show it.
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
    """Lengths to compare at, one row at a time: 1, those of the shortest and longest row, and `longest`.

    Args:
        split: the rows of the data.
        longest: how long a row may be at most, `data.max_length` or a decoder's context; None: the longest
            row.
        module: whose windows, buckets and the like are also seen at the lengths just beyond them, of a
            decoder up to its context or 4096 tokens; None: of no module.

    Returns:
        Ascending and distinct; empty where the data fixes the length.
    """
    elastic = split.elastic
    if not elastic or any(isinstance(size, str) for spec in task.inputs for size in spec.shape[1:]):
        return ()
    lengths = [row[elastic[0].name].shape[0] for row in split.rows]
    longest = longest or max(lengths)
    most = longest
    if module is not None and task.keeps_past:
        most = min(context_length(module) or longest, LONGEST_PROOF)
    changes = () if module is None else lengths_of_change(module, most)
    return tuple(sorted({1, min(lengths), max(lengths), longest, *changes}))


def longest_row(module: nn.Module, task: Task, max_length: int | None) -> int | None:
    """How long a row may be.

    Args:
        max_length: the recipe's; None: it has none.

    Returns:
        `max_length`; of a decoder its context, but no more than 2048 tokens or 2**25 logits, which is
        what can be compared in seconds. None: nothing says it.
    """
    context = context_length(module) if task.keeps_past else None
    if context is None:
        return max_length
    bounded = min(context, _LONGEST_CONTEXT, _MOST_LOGITS // task.classes)
    return max(bounded, max_length or 0)


def proof_rows(split: Split, task: Task, lengths: Sequence[int], *, seed: int = 0) -> Split:
    """Make one row of each length, in that order, of the values of real rows, so that every id is valid.

    A row is drawn, further ones are put behind it until it is long enough, and the end is cut off. Inputs
    whose length the data fixes are those of the row that was drawn first.

    Args:
        split: rows to take values from; at least one.
        lengths: how long each new row is; a length may occur more than once.

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
    """Make rows that are all padding, of a task with an attention mask and no past: real ones, masked by 0.

    A server that fills batches up to one size sends such rows.

    Returns:
        A split of at most `count` rows; of none where the task has no such input.
    """
    picked = split.rows[:count] if _MASK in task.input_names and not task.keeps_past else ()
    rows = tuple({**row, _MASK: np.zeros_like(row[_MASK])} for row in picked)
    return Split("padding", rows, np.full(len(rows), NO_LABEL, dtype=np.int64), split.inputs)
