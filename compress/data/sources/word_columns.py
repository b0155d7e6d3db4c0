"""Texts that are lists of words, and a label for each word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from compress.data.table import Words
from compress.errors import DataError, shortened

__all__ = ["check_tags", "tags_of", "words_of"]


def words_of(
    where: str, values: Sequence[Any], column: str, unit: str, numbers: Sequence[int]
) -> tuple[Words, ...]:
    """The words of each row.

    Raises:
        DataError: a row is no list of words, has none, or has a blank one.
    """
    found = []
    for value, number in zip(values, numbers, strict=True):
        place = f"{where}: column '{column}' in {unit} {number}"
        if not isinstance(value, list | tuple):
            raise DataError(
                f"{place} contains {shortened(repr(value))}, not a list of words; allowed: lists in JSONL, "
                "Parquet or datasets, and CoNLL files (.conll, .bio, .conllu)"
            )
        if not value:
            raise DataError(f"{place} has no words; fill or remove it")
        for at, word in enumerate(value, start=1):
            if not isinstance(word, str) or not word.strip():
                raise DataError(f"{place}: word {at} is {shortened(repr(word))}; each must be a text")
        found.append(Words(value))
    return tuple(found)


def tags_of(
    values: Sequence[Any], name_of: Callable[[Any, str], str], column: str, places: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """The name of each word's label.

    Args:
        name_of: the name of one label, or the empty one; takes the value and where it is.
        places: where each row is, for errors.

    Raises:
        DataError: a row is no list of labels, or a label is missing.
    """
    found = []
    for value, place in zip(values, places, strict=True):
        if not isinstance(value, list | tuple):
            raise DataError(
                f"{place}: column '{column}' contains {shortened(repr(value))}, not a list with a label for "
                "each word"
            )
        names = tuple(name_of(each, place) for each in value)
        if "" in names:
            raise DataError(f"{place}: column '{column}' has no label for word {names.index('') + 1}")
        found.append(names)
    return tuple(found)


def check_tags(
    texts: Sequence[Any], tags: Sequence[Any], columns: tuple[str, str], places: Sequence[str]
) -> None:
    """Check that each word has a label.

    Raises:
        DataError: a row has more or fewer labels than words.
    """
    for text, names, place in zip(texts, tags, places, strict=True):
        if len(text.words) != len(names):
            raise DataError(
                f"{place}: {len(text.words)} words ('{columns[0]}'), but {len(names)} labels "
                f"('{columns[1]}'); each word needs one"
            )
