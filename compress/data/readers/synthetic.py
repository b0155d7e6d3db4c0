"""Rows of random tokens, for text models without any text.

All non-special tokens are equally likely, and the special ones are placed by the tokenizer. The rows have no
meaning, but activations are of about the same magnitude as with real texts.
Shapes: s = tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["random_lengths", "random_texts"]

_SHORTEST = 4  # tokens: one or two words and the special ones


def random_lengths(count: int, longest: int, *, seed: int) -> list[int]:
    """Draw row lengths in tokens, uniformly from 4 to `longest`."""
    drawn = np.random.default_rng(seed).integers(min(_SHORTEST, longest), longest + 1, count)
    return [int(length) for length in drawn]


def random_texts(
    tokenizer: Tokenizer, lengths: Sequence[int], *, pad_id: int, seed: int, file: Path
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Draw rows of random tokens, wrapped in the tokenizer's special tokens.

    Args:
        lengths: tokens of each row, including special ones; a row has at least one other token.
        file: the tokenizer's file, for errors.

    Yields:
        Token ids, attention mask and token types of each row, [s] each.

    Raises:
        DataError: if the tokenizer only has special tokens.
    """
    tokenizer.no_padding()
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True).values()
    ids = np.array(sorted(set(vocabulary) - special - {pad_id}), dtype=np.int64)
    if not len(ids):
        raise DataError(f"{file}: has only special tokens")
    wrapped = _wrapped(tokenizer, ids, file)
    at = wrapped.special_tokens_mask.index(0)
    after = len(wrapped.ids) - wrapped.special_tokens_mask[::-1].index(0)
    around = (wrapped.ids, wrapped.attention_mask, wrapped.type_ids)
    draw = np.random.default_rng(seed)
    for length in lengths:
        count = max(length - at - len(wrapped.ids) + after, 1)
        columns = (draw.choice(ids, count), np.ones(count), np.full(count, wrapped.type_ids[at]))
        tokens, mask, types = (
            np.concatenate([outer[:at], inner, outer[after:]]).astype(np.int64)
            for outer, inner in zip(around, columns, strict=True)
        )
        yield tokens, mask, types


def _wrapped(tokenizer: Tokenizer, ids: NDArray[np.int64], file: Path) -> Encoding:
    """Encode a text with at least one non-special token, to see the special tokens around it."""
    for index in ids[::-1]:  # the last tokens are whole words in most vocabularies
        encoding = tokenizer.encode(tokenizer.decode([int(index)]))
        if 0 in encoding.special_tokens_mask:
            return encoding
    raise DataError(f"{file}: no token decodes to a text")
