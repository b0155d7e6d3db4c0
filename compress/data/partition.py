"""Assignment of rows to splits: deduplicated, without leaks, stratified by label, reproducible by seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.data.groups import check_graded, check_queries, drawn_groups, limited_groups
from compress.data.table import Note, Table, Text, counted, listed, loose_key, shown
from compress.errors import DataError
from compress.tasks import Task
from compress.tasks.registry import task_of_labels

__all__ = ["PARTS", "Partition", "distinct_from", "partition"]

PARTS = ("train", "validation", "test")
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """The rows of each split.

    Attributes:
        indices: split name -> row indices, ascending, in its own table or else in train's.
        notes: what was dropped, a line each.
    """

    indices: Mapping[str, Indices]
    notes: tuple[Note, ...]


def partition(
    tables: Mapping[str, Table],
    *,
    fractions: Mapping[str, float],
    task: type[Task],
    train_limit: int | None = None,
    seed: int = 0,
) -> Partition:
    """Pick the rows of train, validation and test.

    Train, and the splits drawn from it, have no duplicate inputs (ignoring case and white space), and no
    input with two labels. A split with its own table is measured as given, except for exact duplicates within
    it.

    Args:
        tables: train, and validation and test if they have their own table.
        fractions: for validation and test, the share of train's distinct rows to draw if there is no table.
        task: gives the classes of a label, and the strata.
        train_limit: maximum number of train rows.
        seed: for all sampling.

    Raises:
        DataError: if there are no rows, only one class, a row in two tables, a label missing in train, or a
            class too small to have a row in each split.
    """
    train = tables["train"]
    kept, notes = _distinct(train, task)
    _check_classes(train, kept, task)
    indices = {"train": kept}
    for part in PARTS[1:]:
        if part in tables:
            indices[part], dropped = _without_repeats(tables[part], task)
            notes += dropped
            _check_known_labels(tables[part], train, kept, task)
    _check_leaks(tables, indices)
    if task.has_groups():
        check_queries(tables, task)
    drawn = {part: fractions[part] for part in PARTS[1:] if part not in tables}
    strata = _strata(train, task)
    indices |= _draw(train, kept, drawn, strata, task, seed)
    if train_limit is not None and train_limit < len(indices["train"]):
        notes += (Note(f"train: {train_limit} of {len(indices['train'])} rows used (train_limit)", "limit"),)
        indices["train"] = _limited(train, indices["train"], train_limit, strata, task, seed)
    if strata is None:
        _check_learnt(train, kept, indices["train"], task)
    return Partition({part: indices[part] for part in PARTS}, notes)


def distinct_from(table: Table, held_out: Iterable[Text]) -> tuple[Indices, tuple[Note, ...]]:
    """Pick the distinct rows of a table without labels, ignoring case and white space.

    Args:
        held_out: texts of validation and test, which are excluded.

    Returns:
        The row indices in order, and notes on what was dropped.

    Raises:
        DataError: if no row is left.
    """
    seen = {loose_key(item) for item in held_out}
    first: dict[Text | bytes, int] = {}
    leaks = 0
    for index, item in enumerate(table.items):
        key = loose_key(item)
        if key in seen:
            leaks += 1
        else:
            first.setdefault(key, index)
    repeats = len(table) - leaks - len(first)
    notes: tuple[Note, ...] = ()
    if leaks:
        notes += (_dropped(table, leaks, "the same input occurs in validation or test"),)
    if repeats:
        notes += (_dropped(table, repeats, "the same input occurs earlier"),)
    if not first:
        raise DataError(
            f"{table.where}: no rows are left, because all of them also occur in validation or test; "
            "give rows that are in neither"
        )
    return np.array(list(first.values()), dtype=np.int64), notes


def _distinct(table: Table, task: type[Task]) -> tuple[Indices, tuple[Note, ...]]:
    """Keep the first row of each input; drop all rows of an input with more than one label."""
    keys = [loose_key(item) for item in table.items]
    first: dict[Text | bytes, int] = {}
    labels: dict[Text | bytes, set[Hashable]] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
        labels.setdefault(key, set()).add(task.of_input(table.labels[index]))
    torn = {key for key, names in labels.items() if len(names) > 1}
    contradicting = sum(key in torn for key in keys)
    repeats = len(keys) - len(first) - (contradicting - len(torn))
    notes: tuple[Note, ...] = ()
    if repeats:
        notes += (_dropped(table, repeats, "the same input occurs earlier"),)
    if torn:
        reason = f"{counted(len(torn), 'input')} with more than one label"
        notes += (_dropped(table, contradicting, reason),)
    return np.array([index for key, index in first.items() if key not in torn], dtype=np.int64), notes


def _dropped(table: Table, rows: int, reason: str) -> Note:
    return Note(f"{table.name}: {counted(rows, 'row')} dropped: {reason}", "dropped")


def _without_repeats(table: Table, task: type[Task]) -> tuple[Indices, tuple[Note, ...]]:
    """Keep the first of the rows with exactly the same input and label."""
    first: dict[tuple[Text | bytes, Hashable], int] = {}
    for index, row in enumerate(zip(table.items, table.labels, strict=True)):
        first.setdefault(row, index)
    repeats = len(table) - len(first)
    torn = len({(item, task.of_input(label)) for item, label in first}) - len(set(table.items))
    notes: tuple[Note, ...] = ()
    if repeats:
        notes += (_dropped(table, repeats, "the same input occurs earlier"),)
    if torn:
        notes += (
            Note(
                f"{table.name}: {counted(torn, 'row')} kept although the same input has another label "
                "earlier",
                "other",
            ),
        )
    return np.array(list(first.values()), dtype=np.int64), notes


def _strata(table: Table, task: type[Task]) -> Sequence[Hashable] | None:
    """Stratum of each row; None if the task has no strata."""
    found = [task.stratum(label) for label in table.labels]
    return None if None in found else found


def _check_classes(table: Table, kept: Indices, task: type[Task]) -> None:
    found = {name for index in kept for name in task.label_names(table.labels[index])}
    present = sorted(found.union(table.declared if task.label_kind == "classes" else ()))
    if not len(kept):
        raise DataError(
            f"{table.where}: no rows are left, because each input occurs with more than one label; correct "
            "the labels"
        )
    if task.has_groups():
        check_graded(table, kept, task)
        return
    if not task.has_classes():
        different = {table.labels[index] for index in kept}
        if len(different) < 2 and task.label_kind == "number":
            raise DataError(
                f"{table.where}: all rows have the label {different.pop()}; at least two different numbers "
                "must occur"
            )
        return
    if not found:
        raise DataError(f"{table.where}: no row has a label; at least two labels must occur")
    if len(present) < 2:
        raise DataError(
            f"{table.where}: all rows have the label '{', '.join(present)}'; at least two labels must occur"
        )


def _check_known_labels(table: Table, train: Table, kept: Indices, task: type[Task]) -> None:
    known = {name for index in kept for name in task.label_names(train.labels[index])}
    for index, label in enumerate(table.labels):
        lacking = [name for name in task.label_names(label) if name not in known]
        if lacking:
            raise DataError(
                f"{table.where}: label '{lacking[0]}' ({table.place(index)}) does not occur in {train.name}; "
                f"allowed: {listed(sorted(known), 20)}"
            )


def _check_leaks(tables: Mapping[str, Table], indices: Mapping[str, Indices]) -> None:
    """Refuse an input that occurs in two tables, including train rows that were dropped as duplicates."""
    parts = [part for part in PARTS if part in tables]
    for at, later in enumerate(parts):
        for earlier in parts[:at]:
            source, target = tables[earlier], tables[later]
            seen = {loose_key(item): index for index, item in reversed(list(enumerate(source.items)))}
            leaks = [index for index in indices[later] if loose_key(target.items[index]) in seen]
            if leaks:
                # Bytes have neither case nor displayable text.
                is_text = not isinstance(target.items[0], bytes)
                aside, colon = (" (ignoring case and white space)", ": ") if is_text else ("", "")
                twins = [(index, seen[loose_key(target.items[index])]) for index in leaks[:2]]
                examples = "; ".join(
                    f"{target.place(index)} equals {source.place(twin)} of "
                    f"{earlier}{colon}{shown(target.items[index])}"
                    for index, twin in twins
                )
                raise DataError(
                    f"{target.where}: {len(leaks)} of {len(indices[later])} {later} rows also occur in "
                    f"{earlier} ({source.where}){aside}: {examples}. Accuracy measured on them would be too "
                    f"high; remove them from {source.name}"
                )


def _draw(
    table: Table,
    kept: Indices,
    fractions: Mapping[str, float],
    strata: Sequence[Hashable] | None,
    task: type[Task],
    seed: int,
) -> dict[str, Indices]:
    """Draw splits from the kept rows, stratified; the rest is train."""
    if task.has_groups():
        return drawn_groups(table, kept, fractions, task, seed)
    if strata is None:
        return _drawn(table, kept, fractions, task, seed)
    classes = Counter(strata[index] for index in kept)
    label, smallest = min(classes.items(), key=lambda item: (item[1], str(item[0])))
    if smallest <= len(fractions):
        raise DataError(
            f"{table.where}: label '{label}' has {counted(smallest, 'distinct row')}, "
            f"but train, {' and '.join(fractions)} need at least one each; give more rows of it"
            f"{_regression_hint(classes, len(kept))}"
        )
    picked = {"train": kept}
    needed = math.ceil(1 / min(fractions.values())) if fractions else 1
    for drawn, (part, fraction) in enumerate(fractions.items(), start=1):
        count = round(fraction * len(kept))
        if min(count, len(picked["train"]) - count) < len(classes):
            raise DataError(
                f"{table.where}: {part}_fraction {fraction} of {len(kept)} distinct rows does not leave a "
                f"row of each of {len(classes)} labels in {part} and in the rest; give more rows or another "
                f"fraction{_regression_hint(classes, len(kept))}"
            )
        picked["train"], picked[part] = _split(picked["train"], count, strata, seed)
        # The rest needs one row of each label, or two if it is stratified again.
        for name, least in ((part, 1), ("train", 1 if drawn == len(fractions) else 2)):
            have = Counter(strata[index] for index in picked[name])
            short = sorted((label for label in classes if have[label] < least), key=str)
            if short:
                raise DataError(
                    f"{table.where}: label '{short[0]}' has {counted(classes[short[0]], 'distinct row')}, "
                    f"of which {name} got {have[short[0]]}; with these fractions give about {needed}"
                )
    return picked


def _drawn(
    table: Table, kept: Indices, fractions: Mapping[str, float], task: type[Task], seed: int
) -> dict[str, Indices]:
    """Like `_draw`, without strata: each name in its share."""
    counts = {part: round(fraction * len(kept)) for part, fraction in fractions.items()}
    counts["train"] = len(kept) - sum(counts.values())
    for part, count in counts.items():
        if count <= 0:
            raise DataError(
                f"{table.where}: with these validation_fraction and test_fraction, {part} gets none of "
                f"{len(kept)} distinct rows; give more rows or other fractions"
            )
    return _shared_out(table, kept, counts, task, seed)


def _shared_out(
    table: Table, rows: Indices, counts: Mapping[str, int], task: type[Task], seed: int
) -> dict[str, Indices]:
    """Deal rows out so that each part has its share of every name (Sechidis et al. 2011, algorithm 1).

    The rarest name is dealt first, each of its rows to the part that lacks most of it; names are what labels
    of rows say. A name of one row falls to the largest part.

    Args:
        counts: rows of each part, of which there are as many as `rows`.
    """
    parts, order = list(counts), np.random.default_rng(seed).permutation(rows).tolist()
    names = {row: task.label_names(table.labels[row]) for row in order}
    waiting: dict[str, dict[int, None]] = {}
    for row in order:
        for name in names[row]:
            waiting.setdefault(name, {})[row] = None
    lacks = {
        name: {part: len(have) * counts[part] / len(order) for part in parts}
        for name, have in waiting.items()
    }
    room = dict(counts)
    dealt: dict[str, list[int]] = {part: [] for part in parts}

    def deal(row: int, wanted: Mapping[str, float]) -> None:
        part = max((each for each in parts if room[each]), key=lambda each: (wanted[each], room[each]))
        dealt[part].append(row)
        room[part] -= 1
        for name in names[row]:
            lacks[name][part] -= 1
            waiting[name].pop(row)

    while any(waiting.values()):
        rarest = min((name for name in waiting if waiting[name]), key=lambda name: (len(waiting[name]), name))
        for row in list(waiting[rarest]):
            deal(row, lacks[rarest])
    for row in order:
        if not names[row]:
            deal(row, room)
    return {part: np.sort(np.array(picked, dtype=np.int64)) for part, picked in dealt.items()}


def _check_learnt(table: Table, kept: Indices, train: Indices, task: type[Task]) -> None:
    """Check that no name fell to validation and test alone."""
    seen = {name for index in train for name in task.label_names(table.labels[index])}
    for index in kept:
        lacking = [name for name in task.label_names(table.labels[index]) if name not in seen]
        if lacking:
            raise DataError(
                f"{table.where}: train gets no row of label '{lacking[0]}'; give more rows, other "
                "fractions, or a higher train_limit"
            )


def _regression_hint(classes: Mapping[Hashable, int], rows: int) -> str:
    """Hint that labels may be amounts, if they are numbers of which most occur once."""
    amounts = len(classes) * 2 > rows and all(str(name).lstrip("+-").isdecimal() for name in classes)
    task = task_of_labels("number")
    return f"; if the labels are quantities, not classes: set data.task={task}" if amounts else ""


def _limited(
    table: Table,
    rows: Indices,
    limit: int,
    strata: Sequence[Hashable] | None,
    task: type[Task],
    seed: int,
) -> Indices:
    """Take a subset of train: whole groups, stratified if there are strata, or each name in its share."""
    if task.has_groups():
        return limited_groups(table, rows, limit, task, seed)
    if strata is None:
        counts = {"kept": limit, "left": len(rows) - limit}
        return _shared_out(table, rows, counts, task, seed)["kept"]
    classes = Counter(strata[index] for index in rows)
    label, smallest = min(classes.items(), key=lambda item: (item[1], str(item[0])))
    if limit < len(classes):
        raise DataError(
            f"data.train_limit: {limit} is below the number of labels; allowed: {len(classes)} or more"
        )
    excess = len(rows) - limit
    if excess < len(classes):  # too few for scikit-learn to stratify: drop one row per largest class
        names = [name for name, _ in classes.most_common(excess)]
        order = np.random.default_rng(seed).permutation(rows)
        dropped = [next(index for index in order if strata[index] == name) for name in names]
        limited = rows[~np.isin(rows, dropped)]
    elif smallest < 2:
        raise DataError(f"{table.where}: label '{label}' has 1 row in train; with train_limit give 2 or more")
    else:
        _, limited = _split(rows, limit, strata, seed)
    absent = sorted(set(classes) - {strata[index] for index in limited}, key=str)
    if absent:
        raise DataError(
            f"data.train_limit: {limit} leaves no row of label '{absent[0]}' in train; give a higher limit"
        )
    return limited


def _split(rows: Indices, count: int, strata: Sequence[Hashable], seed: int) -> tuple[Indices, Indices]:
    """Split rows into the rest and a stratified sample of `count`; both keep their order."""
    from sklearn.model_selection import train_test_split

    shares = [strata[index] for index in rows]
    rest, drawn = train_test_split(rows, test_size=count, stratify=shares, random_state=seed)
    return np.sort(rest), np.sort(drawn)
