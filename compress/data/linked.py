"""Splits of texts that are linked: pairs with scores, or queries and the documents that are relevant to them.

Each different text is one row. Splits are drawn by query; of pairs, so that those which share a text stay
together where they can. Documents are common to all splits.
Shapes: m = links, d = documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from compress.data.partition import PARTS
from compress.data.readers.tokenize import TextEncoder
from compress.data.split import Split
from compress.data.splits import Splits
from compress.data.table import Note, Table, counted, listed, loose_key
from compress.errors import DataError
from compress.tasks import Integers, Task
from compress.tasks.links import Links

__all__ = ["LinkedRows", "linked_splits"]

_FEWEST = 2  # queries, or pairs, of a split that is measured
_VALIDATION_DOCUMENTS = 2_000  # at most, besides those that are relevant
_LARGEST_GROUP = 0.5  # of all pairs; if more of them share texts, they are drawn one by one


@dataclass(frozen=True)
class LinkedRows:
    """What was read, and how it is divided.

    Attributes:
        tables: pairs of texts with their scores, by split; train may have single texts without links.
        searched: whether second texts are documents that are searched.
        documents: further documents.
        document_limit: most documents of a split besides the relevant ones; None: all.
        fractions: shares of validation and test, where they are drawn.
        notes: on how the tables were read.
    """

    tables: Mapping[str, Table]
    searched: bool
    documents: Sequence[str] = ()
    document_limit: int | None = None
    fractions: Mapping[str, float] = field(default_factory=dict)
    train_limit: int | None = None
    seed: int = 0
    notes: tuple[Note, ...] = ()


@dataclass
class _Texts:
    """Different texts, numbered as they come; case and white space don't count."""

    texts: list[str] = field(default_factory=list)
    numbers: dict[object, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        key = loose_key(text)
        if key not in self.numbers:
            self.numbers[key] = len(self.texts)
            self.texts.append(text)
        return self.numbers[key]


@dataclass(frozen=True)
class _Found:
    """Different links of a table: numbers of their texts, [m, 2], scores, and indices in the table, [m]."""

    pairs: Integers
    scores: NDArray[np.float64]
    rows: Integers

    def at(self, picked: Integers) -> _Found:
        return _Found(self.pairs[picked], self.scores[picked], self.rows[picked])


_NO_LINKS = _Found(np.zeros((0, 2), dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.int64))


def linked_splits(
    given: LinkedRows,
    kind: type[Task],
    encoder: TextEncoder,
    max_length: int,
) -> Splits:
    """Divide linked texts into splits, and encode them.

    Raises:
        DataError: a query or pair is in two splits, or a split has too few.
    """
    texts, notes, tables = _Texts(), [*given.notes], given.tables
    for part in PARTS[1:]:
        if part in tables:
            _check_pairs(tables[part], part)
    found = {part: _read(table, texts, given.searched, notes) for part, table in tables.items()}
    singles = _unique(texts.number(item) for item in tables["train"].items if isinstance(item, str))
    pool = _unique(texts.number(each) for each in given.documents)
    if given.searched:
        pool = np.unique(np.concatenate((pool, *(each.pairs[:, 1] for each in found.values()))))
    _check_apart(tables, found, given.searched)
    parts = _divided(given, found, notes)
    drawn_from = tables["train" if len(found["train"].pairs) else "test"]
    for part in PARTS[1:]:
        _check_enough(tables.get(part, drawn_from), parts[part], part, given.searched)
    held_out = {part: _judged_texts(parts[part], given.searched) for part in PARTS[1:]}
    parts["train"] = _learnable(parts["train"], held_out, given, notes)
    rows = {part: _rows_of(part, parts[part], pool, given) for part in PARTS}
    rows["train"] = np.union1d(rows["train"], _alone(singles, held_out, tables["train"], notes))
    splits, more = _encoded(texts, rows, parts, pool, encoder, max_length, kind)
    if given.train_limit is not None and given.train_limit < len(splits["train"]):
        all_rows = len(splits["train"])
        splits["train"] = splits["train"].take(given.train_limit, seed=given.seed)
        notes.append(Note(f"train: {given.train_limit} of {all_rows} texts used (train_limit)", "limit"))
    return Splits(
        kind(encoder.inputs).fitted(splits["train"].labels),
        **splits,
        source=_source(given, pool),
        notes=(*notes, *more),
        reader=encoder,
    )


def _unique(numbers: Iterable[int]) -> Integers:
    return np.unique(np.fromiter(numbers, dtype=np.int64))


def _check_pairs(table: Table, part: str) -> None:
    """Refuse single texts where models are judged."""
    if table.items and isinstance(table.items[0], str):
        raise DataError(
            f"{table.where}: {part} has single texts; it needs pairs of texts, by which models are judged"
        )


def _alone(singles: Integers, held_out: Mapping[str, Integers], train: Table, notes: list[Note]) -> Integers:
    """Single texts of train that are not in validation or test."""
    kept = np.setdiff1d(singles, np.concatenate([*held_out.values()]))
    lost = len(singles) - len(kept)
    if lost:
        notes.append(
            Note(f"{train.name}: {counted(lost, 'text')} left out: in validation or test", "dropped")
        )
    return kept


def _read(table: Table, texts: _Texts, searched: bool, notes: list[Note]) -> _Found:
    """The links of a table; repeated ones count once, and contradicting ones not at all."""
    kept: dict[tuple[int, int], tuple[float, int]] = {}
    torn: set[tuple[int, int]] = set()
    repeated = same = 0
    for index, (item, score) in enumerate(zip(table.items, table.labels or [0.0] * len(table), strict=True)):
        if not isinstance(item, tuple):
            continue
        assert isinstance(score, float)
        first, second = map(texts.number, item)
        pair = (first, second) if searched or first < second else (second, first)
        if first == second:
            same += 1
        elif pair not in kept:
            kept[pair] = (score, index)
        elif score == kept[pair][0] or searched:
            repeated += 1
            kept[pair] = max(kept[pair], (score, kept[pair][1]))
        else:
            torn.add(pair)
    for count, why in (
        (repeated, "the same pair occurs earlier"),
        (same, "both texts are equal"),
        (len(torn), "the same two texts have more than one score"),
    ):
        if count:
            notes.append(Note(f"{table.name}: {counted(count, 'pair')} left out: {why}", "dropped"))
    left = {pair: value for pair, value in kept.items() if pair not in torn}
    if not left:
        return _NO_LINKS
    return _Found(
        np.array(list(left), dtype=np.int64),
        np.array([score for score, _ in left.values()]),
        np.array([index for _, index in left.values()], dtype=np.int64),
    )


def _check_apart(tables: Mapping[str, Table], found: Mapping[str, _Found], searched: bool) -> None:
    """Refuse a query, or a pair, that is in two tables."""
    seen: dict[object, tuple[str, str]] = {}
    what = "query" if searched else "pair"
    for part, each in found.items():
        keys = each.pairs[:, 0].tolist() if searched else list(map(tuple, each.pairs.tolist()))
        own = {key: (part, tables[part].place(int(row))) for key, row in zip(keys, each.rows, strict=True)}
        for key in own.keys() & seen.keys():
            (earlier, first), (_, place) = seen[key], own[key]
            raise DataError(
                f"{tables[part].where}: the {what} of {place} also occurs in {earlier} ({first} of "
                f"{tables[earlier].where}); remove it from one of them"
            )
        seen |= own


def _divided(given: LinkedRows, found: Mapping[str, _Found], notes: list[Note]) -> dict[str, _Found]:
    """The links of each split; validation is drawn from test where train has no links."""
    parts = dict(found)
    missing = [part for part in PARTS[1:] if part not in parts]
    where = "train" if len(found["train"].pairs) else "test"
    if where not in parts:
        raise DataError(
            f"{given.tables['train'].where}: train has single texts, so test needs a file of its own, with "
            "pairs of texts; name it with data.test"
        )
    if missing and where == "test":
        notes.append(
            Note("validation is drawn from test, and is not measured with it, because train has no pairs")
        )
    if missing:
        groups = _groups(parts[where], given, notes)
        order = np.random.default_rng(given.seed).permutation(len(groups))
        counts = [max(1, round(given.fractions[part] * len(groups))) for part in missing]
        ends = np.cumsum([0, *counts, max(0, len(groups) - sum(counts))])
        for part, (start, stop) in zip((*missing, where), pairwise(ends.tolist()), strict=True):
            picked = [groups[at] for at in order[start:stop]]
            if not picked:
                raise DataError(
                    f"{given.tables[where].where}: {part} gets none of {len(groups)} "
                    f"{'queries' if given.searched else 'groups of pairs'}; give more, or other fractions"
                )
            parts[part] = found[where].at(np.sort(np.concatenate(picked)))
    return parts


def _groups(found: _Found, given: LinkedRows, notes: list[Note]) -> list[Integers]:
    """Links that stay in one split: those of a query, or those that share texts."""
    if given.searched:
        return _alike(found.pairs[:, 0])
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    size = int(found.pairs.max()) + 1
    graph = coo_matrix((np.ones(len(found.pairs)), tuple(found.pairs.T)), shape=(size, size))
    groups = _alike(connected_components(graph, directed=False)[1][found.pairs[:, 0]])
    if max(map(len, groups)) <= _LARGEST_GROUP * len(found.pairs):
        return groups
    notes.append(Note("the pairs share so many texts that splits were drawn pair by pair"))
    return _alike(np.arange(len(found.pairs)))


def _alike(keys: Integers) -> list[Integers]:
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)


def _check_enough(table: Table, found: _Found, part: str, searched: bool) -> None:
    """Refuse a split that nothing can be measured on."""
    if searched:
        count, what = len(np.unique(found.pairs[found.scores > 0, 0])), "queries with a relevant document"
    else:
        count, what = len(found.pairs), "pairs"
    if count < _FEWEST:
        raise DataError(f"{table.where}: {part} has {count} {what}; at least {_FEWEST} are needed")
    if not searched and len(set(found.scores.tolist())) < _FEWEST:
        raise DataError(f"{table.where}: all pairs of {part} have the score {found.scores[0]:g}")


def _judged_texts(found: _Found, searched: bool) -> Integers:
    return np.unique(found.pairs[:, 0] if searched else found.pairs)


def _learnable(
    train: _Found, held_out: Mapping[str, Integers], given: LinkedRows, notes: list[Note]
) -> _Found:
    """Links of train but those that lead to a query of validation or test; says which texts are shared."""
    name = given.tables["train"].name
    if not given.searched:
        count = len(np.intersect1d(train.pairs, held_out["test"]))
        if count:
            notes.append(
                Note(f"{name}: {counted(count, 'text')} of test pairs occur in train too, in other pairs")
            )
        return train
    lost = np.isin(train.pairs, np.concatenate([*held_out.values()])).any(axis=1)
    if lost.any():
        notes.append(
            Note(
                f"{name}: {counted(int(lost.sum()), 'link')} left out: the document is also a query of "
                "validation or test",
                "dropped",
            )
        )
    return train.at(np.flatnonzero(~lost))


def _rows_of(part: str, found: _Found, pool: Integers, given: LinkedRows) -> Integers:
    """Numbers of a split's texts: those of its links and, of a search, documents."""
    own = np.unique(found.pairs)
    if not given.searched:
        return own
    others = np.setdiff1d(pool, own)
    limits = [] if given.document_limit is None or part == "train" else [given.document_limit]
    limits += [_VALIDATION_DOCUMENTS] if part == "validation" else []
    if limits and min(limits) < len(others):
        others = np.random.default_rng(given.seed).permutation(others)[: min(limits)]
    return np.union1d(own, others)


def _encoded(
    texts: _Texts,
    rows: Mapping[str, Integers],
    parts: Mapping[str, _Found],
    pool: Integers,
    encoder: TextEncoder,
    max_length: int,
    kind: type[Task],
) -> tuple[dict[str, Split], tuple[Note, ...]]:
    """Encode each text once, and make the splits."""
    used = np.unique(np.concatenate([*rows.values()]))
    made, cut = encoder.encode([texts.texts[number] for number in used], max_length=max_length)
    line = f"{cut} of {len(used)} texts truncated to {max_length} tokens (max_length)"
    notes = (Note(line, "cut"),) if cut else ()
    place = {number: index for index, number in enumerate(used.tolist())}
    splits = {}
    for part, numbers in rows.items():
        splits[part] = Split(
            part,
            tuple(made[place[number]] for number in numbers.tolist()),
            kind.encode_labels([()] * len(numbers), {}),
            encoder.inputs,
            tuple(texts.texts[number] for number in numbers.tolist()),
            links=Links(numbers, parts[part].pairs, parts[part].scores, np.intersect1d(pool, numbers)),
        )
    return splits, notes


def _source(given: LinkedRows, pool: Integers) -> str:
    """Describe the sources: `train.csv (90 pairs; test drawn from it), 500 documents`."""
    drawn = [part for part in PARTS if part not in given.tables]
    aside = f"; {' and '.join(drawn)} drawn" if drawn else ""
    tables = [table for table in given.tables.values() if len(table)]
    lines = [f"{table.name} ({counted(len(table), _noun(table))})" for table in tables]
    documents = f", {len(pool):,} documents" if given.searched else ""
    return f"{listed(lines)}{documents}{aside}"


def _noun(table: Table) -> str:
    return "text" if isinstance(table.items[0], str) else "pair"
