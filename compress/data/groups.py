"""Assignment of whole groups of rows to splits, such as a query with its candidates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from compress.data.table import Table, counted, loose_key
from compress.errors import DataError
from compress.tasks import Task

__all__ = ["check_graded", "check_queries", "cut_in_groups", "drawn_groups", "limited_groups"]

Indices = NDArray[np.int64]


def check_graded(table: Table, kept: Indices, task: type[Task]) -> None:
    """Check that candidates of a group differ in relevance, in one group at least.

    Raises:
        DataError: they do not.
    """
    found: dict[Hashable, set[object]] = {}
    for index in kept:
        label = table.labels[index]
        found.setdefault(task.group_of(label), set()).add(label)
    if all(len(each) < 2 for each in found.values()):
        raise DataError(
            f"{table.where}: in each of {counted(len(found), 'group')}, all candidates are as relevant, so "
            "there is no order to learn; name the column that says which rows belong together with data.group"
        )


def check_queries(tables: Mapping[str, Table], task: type[Task]) -> None:
    """Check that no group of pairs is in two tables, by its name and the first text of a row.

    Raises:
        DataError: one is.
    """
    seen: dict[object, tuple[str, str]] = {}
    for part, table in tables.items():
        own: dict[object, tuple[str, str]] = {}
        for index, (item, label) in enumerate(zip(table.items, table.labels, strict=True)):
            if isinstance(item, tuple):
                own.setdefault((task.group_of(label), loose_key(item[0])), (part, table.place(index)))
        for query in own.keys() & seen.keys():
            (earlier, first), (_, place) = seen[query], own[query]
            raise DataError(
                f"{table.where}: the group of {place} also occurs in {earlier} ({first}) with the same first "
                f"text, so {part} would measure what was learnt; remove it from one of them"
            )
        seen |= own


def drawn_groups(
    table: Table, kept: Indices, fractions: Mapping[str, float], task: type[Task], seed: int
) -> dict[str, Indices]:
    """Draw splits of whole groups by their share of groups; the rest is train.

    Raises:
        DataError: a split gets none.
    """
    groups = _groups(table, kept, task)
    order = np.random.default_rng(seed).permutation(len(groups))
    counts = [round(fraction * len(groups)) for fraction in fractions.values()]
    ends = np.cumsum([0, *counts, len(groups) - sum(counts)])
    found = {}
    for part, (start, stop) in zip((*fractions, "train"), pairwise(ends.tolist()), strict=True):
        if stop <= start:
            raise DataError(
                f"{table.where}: with these validation_fraction and test_fraction, {part} gets none of "
                f"{counted(len(groups), 'group')}; give more groups or other fractions"
            )
        found[part] = np.sort(np.concatenate([groups[at] for at in order[start:stop]]))
    return found


def limited_groups(table: Table, rows: Indices, limit: int, task: type[Task], seed: int) -> Indices:
    """Whole groups, drawn by the seed, of at most `limit` rows together; at least one group."""
    groups = _groups(table, rows, task)
    order = np.random.default_rng(seed).permutation(len(groups))
    total = np.cumsum([len(groups[at]) for at in order])
    count = max(1, int((total <= limit).sum()))
    return np.sort(np.concatenate([groups[at] for at in order[:count]]))


def _groups(table: Table, rows: Indices, task: type[Task]) -> list[Indices]:
    found: dict[Hashable, list[int]] = {}
    for index in rows.tolist():
        found.setdefault(task.group_of(table.labels[index]), []).append(index)
    return [np.array(each, dtype=np.int64) for each in found.values()]


def cut_in_groups(
    rows: Indices, groups: Sequence[int] | Indices, size: int, draw: np.random.Generator | None = None
) -> list[Indices]:
    """Cut rows into batches of about `size`, and below twice that, without dividing a group.

    A larger group is divided, into parts of at most `size`.

    Args:
        groups: number of the group of each row.
        draw: shuffles the groups.
    """
    if not len(rows):
        return []
    numbers = np.asarray(groups)
    order = np.argsort(numbers, kind="stable")
    whole = np.split(rows[order], np.flatnonzero(np.diff(numbers[order])) + 1)
    parts = [piece for part in whole for piece in np.array_split(part, -(-len(part) // size))]
    if draw is not None:
        parts = [parts[at] for at in draw.permutation(len(parts))]
    ends = np.cumsum([len(part) for part in parts])
    cuts = np.searchsorted(ends, np.arange(size, len(rows), size)) + 1
    found = pairwise((0, *cuts.tolist(), len(parts)))
    return [np.concatenate(parts[start:stop]) for start, stop in found if stop > start]
