"""Rows of random tokens, for text models without any text.

All non-special tokens are equally likely, and the special ones are placed by the tokenizer. The rows have no
meaning, but activations are of about the same magnitude as with real texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.data.readers.tokenize import TEXT_INPUTS, TextEncoder
from compress.data.split import Row, Split
from compress.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["random_lengths", "synthetic_corpus", "synthetic_split"]

_SHORTEST = 4  # tokens: one or two words and the special ones


def random_lengths(count: int, longest: int, *, seed: int) -> list[int]:
    """Draw row lengths in tokens, uniformly from 4 to `longest`."""
    drawn = np.random.default_rng(seed).integers(min(_SHORTEST, longest), longest + 1, count)
    return [int(length) for length in drawn]


def synthetic_split(encoder: TextEncoder, lengths: Sequence[int], *, seed: int) -> Split:
    """Make rows of random tokens, wrapped in the tokenizer's special tokens.

    Args:
        encoder: encoder of the model; nothing else about the model is needed.
        lengths: tokens of each row, including special ones; a row has at least one other token.

    Raises:
        DataError: if the tokenizer only has special tokens.
    """
    encoder.tokenizer.no_padding()
    special = {i for i, token in encoder.tokenizer.get_added_tokens_decoder().items() if token.special}
    vocabulary = encoder.tokenizer.get_vocab(with_added_tokens=True).values()
    ids = np.array(sorted(set(vocabulary) - special - {encoder.pad_id}), dtype=np.int64)
    if not len(ids):
        raise DataError(f"{encoder.directory / 'tokenizer.json'}: has only special tokens")
    wrapped = _wrapped(encoder, ids)
    draw = np.random.default_rng(seed)
    rows = tuple(_row(encoder, wrapped, draw, ids, length) for length in lengths)
    return Split.without_labels("synthetic", rows, encoder.inputs)


def synthetic_corpus(encoder: TextEncoder, count: int, length: int, *, seed: int) -> Split:
    """Make rows of random tokens for a language model, labelled with the next token at each position."""
    vocabulary = encoder.tokenizer.get_vocab(with_added_tokens=True).values()
    ids = np.array(sorted(set(vocabulary)), dtype=np.int64)
    drawn = np.random.default_rng(seed).choice(ids, (count, length + 1))
    ones = np.ones(length, dtype=np.int64)
    rows = tuple(
        {name: row[:-1] if name == "input_ids" else ones for name in encoder.input_names} for row in drawn
    )
    return Split("synthetic", rows, drawn[:, 1:], encoder.inputs)


def _row(
    encoder: TextEncoder, wrapped: Encoding, draw: np.random.Generator, ids: NDArray[np.int64], length: int
) -> Row:
    """One row: special tokens before a text, random tokens, and special tokens after it."""
    at = wrapped.special_tokens_mask.index(0)
    after = len(wrapped.ids) - wrapped.special_tokens_mask[::-1].index(0)
    count = max(length - at - len(wrapped.ids) + after, 1)
    columns = (draw.choice(ids, count), np.ones(count), np.full(count, wrapped.type_ids[at]))
    around = (wrapped.ids, wrapped.attention_mask, wrapped.type_ids)
    values = {
        name: np.concatenate([outer[:at], inner, outer[after:]]).astype(np.int64)
        for name, outer, inner in zip(TEXT_INPUTS, around, columns, strict=True)
    }
    return {name: values[name] for name in encoder.input_names}


def _wrapped(encoder: TextEncoder, ids: NDArray[np.int64]) -> Encoding:
    """Encode a text with at least one non-special token, to see the special tokens around it."""
    for index in ids[::-1]:  # the last tokens are whole words in most vocabularies
        encoding = encoder.tokenizer.encode(encoder.tokenizer.decode([int(index)]))
        if 0 in encoding.special_tokens_mask:
            return encoding
    raise DataError(f"{encoder.directory / 'tokenizer.json'}: no token decodes to a text")
