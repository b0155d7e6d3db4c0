"""Entities: spans of words named by tags such as B-PER and I-PER.

A span is what seqeval's default (not strict) mode and conlleval count: a word continues the entity of the
word before it if both have a tag of the same type, its own tag is I or E, and the one before is B or I; any
other tagged word begins an entity. Tags of BIO, IOB2, IOBES and BILOU are read (L as E, U as S). An entity is
right if its type, first and last word are those of a true one (Tjong Kim Sang and De Meulder 2003, sec. 3).
Shapes: n = rows, u = words of all rows, row after row; c = tags, t = types.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.tasks.spec import Integers

__all__ = ["Scheme", "each_word", "entity_counts", "entity_f1", "right_by_all", "scheme_of"]

_OUTSIDE = "O"
_TAG = re.compile(r"([BIESLU])-(.+)", re.DOTALL)
_SAME = {"L": "E", "U": "S"}  # BILOU's names of IOBES' prefixes


@dataclass(frozen=True)
class Scheme:
    """How tags name entities.

    Attributes:
        types: types of entities.
        type_of: of each tag, [c]; -1: outside.
        continues: whether a tag may continue the entity of the word before, [c].
        is_continued: whether a tag's entity may continue at the next word, [c].
    """

    types: tuple[str, ...]
    type_of: Integers
    continues: NDArray[np.bool_]
    is_continued: NDArray[np.bool_]

    def spans(self, tags: Integers, lengths: Integers) -> tuple[Integers, Integers]:
        """For each word, the words of the entity that begins there, or 0; and its tag's type, [u] each."""
        kind = self.type_of[tags]
        follows = np.zeros(len(tags), dtype=bool)
        follows[1:] = (kind[1:] == kind[:-1]) & self.continues[tags[1:]] & self.is_continued[tags[:-1]]
        starts = np.cumsum(lengths[:-1])
        follows[starts[starts < len(tags)]] = False
        begins = (kind >= 0) & ~follows
        number = np.cumsum(begins)[kind >= 0] - 1
        sizes = np.zeros(len(tags), dtype=np.int64)
        sizes[begins] = np.bincount(number, minlength=int(begins.sum()))
        return sizes, kind


def scheme_of(labels: Sequence[str]) -> Scheme | None:
    """The scheme of these tags; None if one of them names neither a part of an entity nor `O`."""
    parts = [_TAG.fullmatch(label) for label in labels]
    known = [part for part in parts if part is not None]
    if not known or any(
        part is None and label != _OUTSIDE for label, part in zip(labels, parts, strict=True)
    ):
        return None
    types = tuple(sorted({part[2] for part in known}))
    prefixes = [_OUTSIDE if part is None else _SAME.get(part[1], part[1]) for part in parts]
    return Scheme(
        types,
        np.array([-1 if part is None else types.index(part[2]) for part in parts], dtype=np.int64),
        np.array([prefix in "IE" for prefix in prefixes]),
        np.array([prefix in "BI" for prefix in prefixes]),
    )


def each_word(labels: Sequence[str]) -> Scheme:
    """The scheme of tags that name no entities: each word is one, whose type is its tag."""
    none = np.zeros(len(labels), dtype=bool)
    return Scheme(tuple(labels), np.arange(len(labels)), none, none)


def entity_counts(scheme: Scheme, answers: Integers, true: Integers, lengths: Integers) -> Integers:
    """Right, found and true entities of each row and type, [n, t, 3]."""
    (found, kind), (wanted, wanted_kind) = (scheme.spans(each, lengths) for each in (answers, true))
    right = (found > 0) & (found == wanted) & (kind == wanted_kind)
    counted = ((right, kind), (found > 0, kind), (wanted > 0, wanted_kind))
    return np.stack([_counted(scheme, where, types, lengths) for where, types in counted], axis=-1)


def right_by_all(scheme: Scheme, models: Sequence[Integers], true: Integers, lengths: Integers) -> Integers:
    """True entities of each row and type that all models find, [n, t]."""
    wanted, wanted_kind = scheme.spans(true, lengths)
    right = wanted > 0
    for answers in models:
        found, kind = scheme.spans(answers, lengths)
        right &= (found == wanted) & (kind == wanted_kind)
    return _counted(scheme, right, wanted_kind, lengths)


def _counted(scheme: Scheme, where: NDArray[np.bool_], types: Integers, lengths: Integers) -> Integers:
    """Words of each row and type where this holds, [n, t]."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    counts = np.zeros((len(lengths), len(scheme.types)), dtype=np.int64)
    np.add.at(counts, (row[where], types[where]), 1)
    return counts


def entity_f1(counts: Any) -> Any:
    """F1 of right, found and true, [..., 3]; 0 where nothing is found and nothing true."""
    return 2 * counts[..., 0] / np.maximum(counts[..., 1] + counts[..., 2], 1)
