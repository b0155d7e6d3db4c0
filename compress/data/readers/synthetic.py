"""Rows of random tokens, for text models without any text; and where the texts of a row are among its tokens.

All non-special tokens are equally likely, and the special ones are placed by the tokenizer. The rows have no
meaning, but activations are of about the same magnitude as with real texts.
Shapes: s = tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["between_texts", "random_lengths", "random_texts"]

_SHORTEST = 4  # tokens: one or two words and the special ones


def random_lengths(count: int, longest: int, *, seed: int) -> list[int]:
    """Draw row lengths in tokens, uniformly from 4 to `longest`."""
    drawn = np.random.default_rng(seed).integers(min(_SHORTEST, longest), longest + 1, count)
    return [int(length) for length in drawn]


def random_texts(
    tokenizer: Tokenizer, lengths: Sequence[int], *, pad_id: int, seed: int, file: Path, texts: int = 1
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Draw rows of random tokens, wrapped in the tokenizer's special tokens.

    Args:
        lengths: tokens of each row, including special ones; each text has at least one other token.
        file: the tokenizer's file, for errors.
        texts: texts of a row, 1 or 2; two share the tokens at random.

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
    wrapped = _wrapped(tokenizer, ids.tolist(), file, texts)
    spans = [_span(wrapped, each) for each in range(texts)]
    fixed = len(wrapped.ids) - sum(after - at for at, after in spans)
    around = (wrapped.ids, wrapped.attention_mask, wrapped.type_ids)
    draw = np.random.default_rng(seed)
    for length in lengths:
        count = max(length - fixed, texts)
        first = count if texts == 1 else int(draw.integers(1, count))
        cut = [first] if texts > 1 else []
        filled = (draw.choice(ids, count), np.ones(count), _types(wrapped, spans, (first, count - first)))
        tokens, mask, types = (
            _replaced(outer, spans, np.split(inner, cut)) for outer, inner in zip(around, filled, strict=True)
        )
        yield tokens, mask, types


def between_texts(tokenizer: Tokenizer, file: Path) -> list[int]:
    """Token ids that the tokenizer puts between the texts of a pair, such as [SEP]."""
    tokenizer.no_padding()
    ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
    wrapped = _wrapped(tokenizer, ids, file, 2)
    (_, after), (at, _) = (_span(wrapped, each) for each in range(2))
    return wrapped.ids[after:at]


def _types(wrapped: Encoding, spans: Sequence[tuple[int, int]], counts: Sequence[int]) -> NDArray[np.int64]:
    """Token types of the texts, which have N tokens each."""
    parts = zip(spans, counts, strict=False)
    return np.concatenate([np.full(count, wrapped.type_ids[at]) for (at, _), count in parts])


def _replaced(
    outer: Sequence[int], spans: Sequence[tuple[int, int]], inner: Sequence[NDArray[Any]]
) -> NDArray[np.int64]:
    """A column of an encoding with other values for its texts."""
    parts, start = [], 0
    for (at, after), values in zip(spans, inner, strict=True):
        parts += [outer[start:at], values]
        start = after
    return np.concatenate([*parts, outer[start:]]).astype(np.int64)


def _span(encoding: Encoding, text: int) -> tuple[int, int]:
    """Start and end of a text's tokens."""
    places = [at for at, of in enumerate(encoding.sequence_ids) if of == text]
    return places[0], places[-1] + 1


def _wrapped(tokenizer: Tokenizer, ids: Sequence[int], file: Path, texts: int) -> Encoding:
    """Encode texts with at least one non-special token each, to see the special tokens around them."""
    for index in reversed(ids):  # the last tokens are whole words in most vocabularies
        text = tokenizer.decode([int(index)])
        encoding = tokenizer.encode(text) if texts == 1 else tokenizer.encode(text, text)
        places = {of for of in encoding.sequence_ids if of is not None}
        if 0 in encoding.special_tokens_mask and len(places) == texts:
            return encoding
    raise DataError(f"{file}: no token decodes to a text")
