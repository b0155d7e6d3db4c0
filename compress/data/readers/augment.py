"""Text augmentation: modified copies of rows, to be labelled by a teacher.

In each copy, some tokens are replaced by others, sampled by their frequency in the rows (like the word
replacement of Jiao et al. 2020, arXiv 1909.10351, sec. 3.2, but without a language model), and in half of the
copies a span is replaced by one from another row (CutMix, Yun et al. 2019, arXiv 1905.04899, for texts); of
a pair, in one of its texts by a span of the same text of another pair. Special tokens and lengths are
unchanged. Copies have no label, because their meaning is unknown.
Shapes: s = tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.data.split import Row, Split

if TYPE_CHECKING:
    from compress.data.readers.tokenize import TextEncoder

__all__ = ["augmented"]

_REPLACED = 0.2  # share of the tokens
_MIXED = 0.5  # share of the rows
_IDS = "input_ids"


def augmented(split: Split, encoder: TextEncoder, *, seed: int) -> Split:
    """Return one modified copy of each row, without a label.

    Args:
        encoder: encoder of the rows; its special tokens are not changed.
    """
    tokens = encoder.tokenizer.get_added_tokens_decoder()
    special = np.array(sorted(index for index, token in tokens.items() if token.special), dtype=np.int64)
    between = encoder.between_texts()
    texts = [_texts(row[_IDS], special, between) for row in split.rows]
    words = (row[_IDS][np.concatenate(own)] for row, own in zip(split.rows, texts, strict=True))
    every = np.concatenate(list(words))
    if not len(every):
        return Split.without_labels("augmented", split.rows, split.inputs)
    draw = np.random.default_rng(seed)
    rows = []
    for row, own in zip(split.rows, texts, strict=True):
        other = int(draw.integers(len(split)))
        which = int(draw.integers(len(own))) if len(own) > 1 else 0
        rows.append(_changed(row, own, which, split.rows[other][_IDS][texts[other][which]], every, draw))
    return Split.without_labels("augmented", tuple(rows), split.inputs)


def _texts(
    ids: NDArray[np.int64], special: NDArray[np.int64], between: Sequence[int]
) -> list[NDArray[np.int64]]:
    """Positions of non-special tokens, of each text; one list if it is not known where the second begins."""
    free = np.flatnonzero(~np.isin(ids, special))
    if not between:
        return [free]
    windows = np.lib.stride_tricks.sliding_window_view(ids, len(between))
    found = np.flatnonzero((windows == between).all(axis=1))
    second = found[0] if len(found) else len(ids)
    return [free[free < second], free[free >= second]]


def _changed(
    row: Row,
    texts: Sequence[NDArray[np.int64]],
    which: int,
    other: NDArray[Any],
    every: NDArray[Any],
    draw: np.random.Generator,
) -> Row:
    ids, span = row[_IDS].copy(), texts[which]
    if len(span) > 1 and len(other) and draw.random() < _MIXED:
        length = int(draw.integers(1, min(len(other), len(span) // 2) + 1))
        here, there = (int(draw.integers(0, len(each) - length + 1)) for each in (span, other))
        ids[span[here : here + length]] = other[there : there + length]
    span = np.concatenate(texts)
    replaced = span[draw.random(len(span)) < _REPLACED]
    ids[replaced] = draw.choice(every, len(replaced))
    return {**row, _IDS: ids}
