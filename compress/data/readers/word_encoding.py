"""Encoding of texts that are given as words, with the position of each word's first token.

Words are tokenized one by one, as by transformers' `tokenizer(words, is_split_into_words=True)`. A row that
is too long is cut between two words.
Shapes: n = rows, w = words of the longest row, s = tokens of one row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from compress.data.readers.tokenize import TEXT_INPUTS, TextEncoder
from compress.data.split import NO_LABEL, Row, Split, with_placed_labels
from compress.data.table import Note, Text, Words, counted
from compress.errors import DataError
from compress.tasks import Integers

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["Encoded", "encode_words", "encoder_of_words", "words_again"]

_CHUNK = 1024  # rows per call


@dataclass(frozen=True)
class Encoded:
    """Encoded texts.

    Attributes:
        rows: unpadded.
        places: position of each word's first token, [n, w], -1 if it has none; None if texts aren't words.
        cut: rows that were too long.
        left_out: words behind a cut.
        silent: other words without tokens, such as control characters.
    """

    rows: tuple[Row, ...]
    places: Integers | None = None
    cut: int = 0
    left_out: int = 0
    silent: int = 0

    def notes(self, part: str, max_length: int) -> tuple[Note, ...]:
        """What was left out of a split."""
        notes = []
        if self.cut:
            line = (
                f"{part}: {self.cut} of {counted(len(self.rows), 'sentence')} cut between words to at most "
                f"{max_length} tokens (max_length); {counted(self.left_out, 'word')} behind the cuts left out"
            )
            notes.append(Note(line, "cut"))
        if self.silent:
            line = (
                f"{part}: {counted(self.silent, 'word')} without tokens left out (the tokenizer drops them)"
            )
            notes.append(Note(line, "dropped"))
        return tuple(notes)


def encoder_of_words(encoder: TextEncoder) -> TextEncoder:
    """The encoder for texts that are given as words: a byte-level one puts a space before each of them.

    Raises:
        DataError: the tokenizer would run words together.
    """
    from tokenizers import Tokenizer

    plain = json.loads(encoder.tokenizer.to_str())
    before = plain.get("pre_tokenizer") or {}
    parts = before.get("pretokenizers", [before])
    byte_level = [at for at, part in enumerate(parts) if part.get("type") == "ByteLevel"]
    if not byte_level:
        return encoder
    if all(parts[at].get("add_prefix_space") for at in byte_level):
        return replace(encoder, prefixes_words=True)
    if byte_level != [0]:
        raise DataError(
            f"{encoder.directory / 'tokenizer.json'}: texts of words need a space before each word, which "
            "its pre-tokenizer (pieces, then bytes) can't add; use a model with another tokenizer"
        )
    parts[0]["add_prefix_space"] = True
    return replace(encoder, tokenizer=Tokenizer.from_str(json.dumps(plain)), prefixes_words=True)


def encode_words(encoder: TextEncoder, texts: Sequence[Text], *, max_length: int) -> Encoded:
    """Encode texts, as words if they are `Words` and else split at white space.

    Raises:
        DataError: if `max_length` leaves no room for text.
    """
    encoder.encode((), max_length=max_length)  # checks the room
    tokenizer, side = encoder.tokenizer, encoder.truncation_side
    rows, places, words = [], [], []
    cut = left_out = silent = 0
    for sentence, encoding in _encodings(encoder, texts):
        kept = (0, len(sentence))
        if len(encoding.ids) > max_length:
            kept = _that_fit(tokenizer, sentence, encoding, max_length, side)
            encoding = _pretokenized(tokenizer, [sentence[slice(*kept)]])[0]
            cut += 1
            left_out += len(sentence) - (kept[1] - kept[0])
        columns = dict(
            zip(TEXT_INPUTS, (encoding.ids, encoding.attention_mask, encoding.type_ids), strict=True)
        )
        rows.append({name: np.array(columns[name], dtype=np.int64) for name in encoder.input_names})
        first = _first_places(encoding)
        places.append({word + kept[0]: at for word, at in first.items()})
        words.append(len(sentence))
        silent += kept[1] - kept[0] - len(first)
    encoder.encode((), max_length=max_length)  # sets the length at which a bundle truncates
    table = np.full((len(rows), max(words, default=0)), NO_LABEL, dtype=np.int64)
    for row, found in enumerate(places):
        table[row, list(found)] = list(found.values())
    return Encoded(tuple(rows), table, cut, left_out, silent)


def words_again(split: Split, encoder: TextEncoder, *, max_length: int) -> Split:
    """Encode a split's texts of words with another encoder; labels stay with their words."""
    found = encode_words(encoder, cast("Sequence[str]", split.texts), max_length=max_length)
    made = replace(split, rows=found.rows, inputs=encoder.inputs)
    if split.word_labels is None or found.places is None:
        return made
    return with_placed_labels(made, split.word_labels, found.places)


def _encodings(encoder: TextEncoder, texts: Sequence[Text]) -> Iterator[tuple[list[str], Encoding]]:
    encoder.tokenizer.no_truncation()
    for start in range(0, len(texts), _CHUNK):
        chunk = [
            list(each.words) if isinstance(each, Words) else str(each).split()
            for each in texts[start : start + _CHUNK]
        ]
        yield from zip(chunk, _pretokenized(encoder.tokenizer, chunk), strict=True)


def _pretokenized(tokenizer: Tokenizer, sentences: list[list[str]]) -> list[Any]:
    try:
        return tokenizer.encode_batch(sentences, is_pretokenized=True)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"the tokenizer cannot encode words: {error}") from error


def _first_places(encoding: Encoding) -> dict[int, int]:
    """Position of the first token of each word that has one."""
    found: dict[int, int] = {}
    for at, word in enumerate(encoding.word_ids):
        if word is not None:
            found.setdefault(word, at)
    return found


def _that_fit(
    tokenizer: Tokenizer, sentence: list[str], encoding: Encoding, max_length: int, side: str
) -> tuple[int, int]:
    """Start and end of the words to keep: the first ones, or the last if texts are cut on the left."""
    sizes = np.bincount([word for word in encoding.word_ids if word is not None], minlength=len(sentence))
    special = len(encoding.ids) - int(sizes.sum())
    in_order = sizes[::-1] if side == "left" else sizes
    count = int(np.searchsorted(np.cumsum(in_order), max_length - special, side="right"))
    while count:
        kept = (len(sentence) - count, len(sentence)) if side == "left" else (0, count)
        # Some tokenizers treat the first word of a text differently.
        if len(_pretokenized(tokenizer, [sentence[slice(*kept)]])[0].ids) <= max_length:
            return kept
        count -= 1
    return 0, 0
