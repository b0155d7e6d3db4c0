"""Mapping from classes to indices, kept in one place: a wrong order would silently measure noise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from compress.data.table import Note, listed
from compress.errors import DataError
from compress.tasks import NO_LABEL

__all__ = ["are_made_up", "numbers_of", "order_labels", "padded_labels"]

_SHOWN_LABELS = 20
_PREFIX = "LABEL_"
_BETWEEN_WORDS = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")  # not the sign of a number


def order_labels(
    present: Iterable[str], label_order: Sequence[str] | None, *, declared: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[Note, ...]]:
    """Order class names by index.

    The model's own names decide, if it has any. Hugging Face placeholders (LABEL_0, LABEL_1) do not count as
    names: then, as without names, the order is the one declared by the data set (ClassLabel), else sorted.
    Placeholders in the data are indices of the model's classes. Names that differ from the model's only in
    case or separators are matched, unless two of them would be equal.

    Args:
        present: names that occur in the data's rows.
        label_order: the model's names by index, if it has an order.
        declared: the data set's names by index, if it declares them.

    Returns:
        The names by index, and notes on the decisions.

    Raises:
        DataError: if the data has a class that the model does not know, or the model has fewer classes.
    """
    names = _natural_order(present)
    if label_order is None:
        return (tuple(name for name in declared if name in set(names)) or names), ()
    given = tuple(label_order)
    if len(set(given)) != len(given):
        raise DataError(f"two of the model's labels have the same name: {listed(given, _SHOWN_LABELS)}")
    if set(names) <= set(given):
        without = [repr(name) for name in given if name not in names]
        many = "s" if len(without) > 1 else ""
        line = f"the data has no row of the model's label{many} {listed(without, _SHOWN_LABELS)}"
        return given, ((Note(line),) if without else ()) + _other_order(given, declared)
    if alike := _alike(names, given):
        pairs = listed([f"'{name}' as '{given[index]}'" for name, index in alike.items()], _SHOWN_LABELS)
        line = (
            f"the data's labels differ from the model's in case or separators; they are read by name: {pairs}"
        )
        return given, (Note(line), *_other_order(given, declared))
    if are_made_up(given) and len(names) <= len(given):
        order = _order_for_unnamed(names, len(given), declared)
        return order, (
            Note(
                "the model's labels have no names; the data's labels are assigned to its outputs in order: "
                f"{listed(order, _SHOWN_LABELS)}",
                "guessed-labels",
            ),
        )
    if set(names) <= set(_made_up(len(given))):
        line = (
            "the data's labels have no names; they are matched to the model's by index: "
            f"{listed(given, _SHOWN_LABELS)}"
        )
        return given, (Note(line),)
    lacking = [name for name in names if name not in given]
    raise DataError(
        f"the model does not have the label{'s' if len(lacking) > 1 else ''} {listed(lacking)}: "
        f"the data has {listed(names, _SHOWN_LABELS)}; the model has {listed(given, _SHOWN_LABELS)} "
        "(rename them in the data, or in id2label of the model's config.json)"
    )


def are_made_up(labels: Sequence[str]) -> bool:
    """Whether class names are Hugging Face's placeholders: LABEL_0, LABEL_1, ..."""
    return tuple(labels) == _made_up(len(labels))


def numbers_of(labels: Sequence[str], present: Iterable[str] = ()) -> dict[str, int]:
    """Index of each class name, and of what the data may use instead: a placeholder, or another spelling.

    Args:
        present: names that occur in the data, as in `order_labels`.
    """
    numbers = {name: index for names in (_made_up(len(labels)), labels) for index, name in enumerate(names)}
    return numbers | _alike([name for name in present if name not in numbers], labels)


def padded_labels(
    rows: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad labels [k] of any lengths with `NO_LABEL` to one array [n, longest]; also return the lengths."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    labels = np.full((len(rows), lengths.max(initial=0)), NO_LABEL, dtype=np.int64)
    for index, row in enumerate(rows):
        labels[index, : len(row)] = row
    return labels, lengths


def _alike(names: Sequence[str], given: Sequence[str]) -> dict[str, int]:
    """Index in `given` of each name that differs in case and separators alone; empty if any is in doubt."""
    plain = list(map(_plain, given))
    places = {name: plain.index(_plain(name)) for name in names if plain.count(_plain(name)) == 1}
    return places if len(set(places.values())) == len(names) else {}


def _plain(name: str) -> str:
    return _BETWEEN_WORDS.sub(" ", name).casefold()


def _other_order(given: Sequence[str], declared: Sequence[str]) -> tuple[Note, ...]:
    """A note if the data set declares the model's labels in another order."""
    places = [index for name in declared if (index := _alike([name], given).get(name)) is not None]
    if places == sorted(places):
        return ()
    line = (
        f"the data set's order of labels ({listed(declared, _SHOWN_LABELS)}) is not the model's; they are "
        f"matched by name: {listed(given, _SHOWN_LABELS)}"
    )
    return (Note(line),)


def _made_up(count: int) -> tuple[str, ...]:
    return tuple(f"{_PREFIX}{index}" for index in range(count))


def _order_for_unnamed(names: tuple[str, ...], count: int, declared: Sequence[str]) -> tuple[str, ...]:
    """Order the labels for a model that was trained on bare indices."""
    if len(declared) == count:
        return tuple(declared)
    if all(_is_index(name) for name in names) and int(names[-1]) < count:
        # Keep the index of a class without rows, or "2" of {"0", "2"} would become the model's class 1.
        return tuple(str(index) for index in range(int(names[-1]) + 1))
    return names


def _natural_order(names: Iterable[str]) -> tuple[str, ...]:
    unique = set(names)
    if all(_is_index(name.removeprefix("-")) for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    if all(name.startswith(_PREFIX) and _is_index(name.removeprefix(_PREFIX)) for name in unique):
        return tuple(sorted(unique, key=lambda name: int(name.removeprefix(_PREFIX))))
    return tuple(sorted(unique))


def _is_index(name: str) -> bool:
    return name.isascii() and name.isdecimal() and name == str(int(name))
