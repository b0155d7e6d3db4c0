"""Tables from columns of texts and labels; checks that each row has a text and a class label."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from compress.data.sources.label_columns import LabelColumns, labels_of_columns, says_task
from compress.data.sources.word_columns import check_tags, tags_of, words_of
from compress.data.table import Label, Note, Table, Text, Words, listed
from compress.errors import DataError, did_you_mean, shortened
from compress.tasks.registry import task_of_labels
from compress.tasks.spec import LabelKind

__all__ = ["check_columns", "labelled_table", "unlabelled_table"]

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_WHOLE = re.compile(r"([-+]?\d+)\.0*")


@dataclass(frozen=True)
class _RawLabels:
    """Label columns as read.

    Attributes:
        values: of each column.
        numbers: of each row, as counted by `unit`.
    """

    columns: LabelColumns
    values: Sequence[Sequence[Any]]
    where: str
    unit: str
    numbers: Sequence[int]

    @property
    def places(self) -> list[str]:
        """Where each row is, for errors."""
        return [f"{self.where}: {self.unit} {number}" for number in self.numbers]


def check_columns(where: str, present: Sequence[str], wanted: Sequence[str]) -> None:
    """Check that each wanted column exists exactly once.

    Raises:
        DataError: if one doesn't.
    """
    for name in wanted:
        if name not in present:
            near = did_you_mean(name, present)
            near = "" if near.startswith("; allowed") else near
            raise DataError(f"{where}: no column '{name}'{near} (columns: {listed(present, 20)})")
        if present.count(name) > 1:
            raise DataError(
                f"{where}: column '{name}' occurs {present.count(name)} times; column names must be unique"
            )


def labelled_table(
    name: str,
    where: str,
    texts: Sequence[Sequence[Any]],
    values: Sequence[Sequence[Any]],
    *,
    text: Sequence[str],
    labels: LabelColumns,
    declared: tuple[str, ...] = (),
    unit: Literal["line", "row"] = "row",
    numbers: tuple[int, ...] = (),
    notes: tuple[Note, ...] = (),
) -> Table:
    """Make a table from raw columns; refuse rows without a text or a label.

    Args:
        texts: of each text column: one, or two for pairs.
        values: of each label column.
        text: names of the text columns.
    """
    items = _items(where, texts, text, unit, numbers, of_words=labels.of_words)
    at = numbers or tuple(range(1, len(items) + 1))
    raw = _RawLabels(labels, values, where, unit, at)
    found = _READ[labels.kind](raw)
    if labels.of_words:
        check_tags(items, found, (text[0], labels.names[0]), raw.places)
    return Table(name, where, items, found, declared or labels.declared, unit, numbers, notes=notes)


def unlabelled_table(
    name: str,
    where: str,
    texts: Sequence[Sequence[Any]],
    text: Sequence[str],
    *,
    of_words: bool = False,
    unit: Literal["line", "row"] = "row",
    numbers: tuple[int, ...] = (),
    notes: tuple[Note, ...] = (),
) -> Table:
    """Make a table without labels; refuse rows without a text.

    Args:
        texts, text: see `labelled_table`.
        of_words: texts are lists of words, or all of them texts that are split at white space.
    """
    listed_words = of_words and any(isinstance(each, list) for each in texts[0])
    items = _items(where, texts, text, unit, numbers, of_words=listed_words)
    if of_words and not listed_words:
        items = tuple(Words(str(each).split()) for each in items)
    return Table(name, where, items, (), unit=unit, numbers=numbers, notes=notes)


def _items(
    where: str,
    texts: Sequence[Sequence[Any]],
    columns: Sequence[str],
    unit: Literal["line", "row"],
    numbers: tuple[int, ...],
    *,
    of_words: bool,
) -> tuple[Text, ...]:
    """The text of each row, its words, or its two texts; checks that none is missing."""
    if of_words:
        at = numbers or tuple(range(1, len(texts[0]) + 1))
        texts = [words_of(where, texts[0], columns[0], unit, at)]
    for column, values in zip(columns, texts, strict=True):
        _check_texts(where, values, column, unit, numbers)
    return tuple(texts[0]) if len(texts) == 1 else tuple(zip(texts[0], texts[1], strict=True))


def _check_texts(
    where: str,
    texts: Sequence[Any],
    column: str,
    unit: Literal["line", "row"] = "row",
    numbers: tuple[int, ...] = (),
) -> None:
    """Check that there are rows, and that each has a text."""
    if not texts:
        raise DataError(f"{where}: has no rows")
    at = numbers or tuple(range(1, len(texts) + 1))
    for number, value in zip(at, texts, strict=True):
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            advice = f"; for a tag per word set data.task={task_of_labels('tags')}" if kind == "list" else ""
            raise DataError(f"{where}: column '{column}' contains {kind}, not text ({unit} {number}){advice}")
    lacking = [n for n, value in zip(at, texts, strict=True) if value is None or not value.strip()]
    _refuse_gaps(where, "text", column, unit, lacking)


def _refuse_gaps(where: str, word: str, column: str, unit: str, lacking: Sequence[int]) -> None:
    if lacking:
        many = "s" if len(lacking) > 1 else ""
        raise DataError(
            f"{where}: column '{column}' has no {word} in {unit}{many} {listed(lacking)}; "
            f"fill or remove {'them' if many else 'it'}"
        )


def _label_name(value: Any, where: str) -> str:
    """Class name of a label; 1 and 1.0 are equal, None, NaN and blanks give the empty name."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict):
        raise DataError(
            f"{where}: a label is {shortened(repr(value))}; for several labels per row set {says_task()}, "
            "otherwise give one class per row"
        )
    if not isinstance(value, str | int | float):
        raise DataError(
            f"{where}: a label must be text, a whole number or true/false, not {type(value).__name__}"
        )
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else _refuse_amount(where, value)
    return str(value).strip()


def _class_names(names: tuple[str, ...], where: str, column: str) -> tuple[str, ...]:
    """Normalize class names: if all are numbers, `1.0` becomes `1`."""
    distinct = set(names)
    if not all(_NUMBER.fullmatch(name) for name in distinct):
        return names
    fractions = {name for name in distinct if not float(name).is_integer()}
    if fractions:
        first = next(name for name in names if name in fractions)
        _refuse_amount(f"{where}: column '{column}'", first)
    return tuple(found[1] if (found := _WHOLE.fullmatch(name)) else name for name in names)


def _one_class(raw: _RawLabels) -> tuple[Label, ...]:
    """The class name of each row."""
    column = raw.columns.names[0]
    names = tuple(map(_label_name, raw.values[0], raw.places))
    lacking = [number for number, name in zip(raw.numbers, names, strict=True) if not name]
    _refuse_gaps(raw.where, "label", column, raw.unit, lacking)
    return _class_names(names, raw.where, column)


def _several_classes(raw: _RawLabels) -> tuple[Label, ...]:
    """The class names of each row."""
    return labels_of_columns(raw.columns, raw.values, _label_name, raw.places)


def _tags(raw: _RawLabels) -> tuple[Label, ...]:
    """The class names of each row's words, in their order."""
    return tags_of(raw.values[0], _label_name, raw.columns.names[0], raw.places)


def _nothing(raw: _RawLabels) -> tuple[Label, ...]:
    """No class of any row."""
    return ((),) * len(raw.numbers)


def _relevant(raw: _RawLabels) -> tuple[float, ...]:
    """1 for each row: its second text is relevant to its first."""
    return (1.0,) * len(raw.numbers)


def _number(raw: _RawLabels) -> tuple[float, ...]:
    """The number of each row."""
    column, values = raw.columns.names[0], raw.values[0]
    blank = [each is None or (isinstance(each, str) and not each.strip()) for each in values]
    lacking = [number for number, is_blank in zip(raw.numbers, blank, strict=True) if is_blank]
    _refuse_gaps(raw.where, "number", column, raw.unit, lacking)
    return tuple(_finite(value, place, column) for value, place in zip(values, raw.places, strict=True))


def _finite(value: Any, where: str, column: str) -> float:
    try:
        found = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise DataError(
            f"{where}: column '{column}' contains {shortened(repr(value))}, which is not a finite number; "
            "with data.task=" + task_of_labels("number") + " each label must be one"
        )
    return found


def _graded(raw: _RawLabels) -> tuple[Label, ...]:
    """The relevance of each row, and the name of its group."""
    column, values = raw.columns.names[1], raw.values[1]
    groups = ["" if each is None else str(each).strip() for each in values]
    lacking = [number for number, group in zip(raw.numbers, groups, strict=True) if not group]
    _refuse_gaps(raw.where, "group", column, raw.unit, lacking)
    relevances = _number(raw)
    for relevance, place in zip(relevances, raw.places, strict=True):
        if relevance < 0:
            raise DataError(
                f"{place}: column '{raw.columns.names[0]}' has the relevance {relevance}; it must be 0 or "
                "more"
            )
    return tuple(zip(relevances, groups, strict=True))


_READ: dict[LabelKind, Callable[[_RawLabels], tuple[Label, ...]]] = {
    "class": _one_class,
    "classes": _several_classes,
    "tags": _tags,
    "number": _number,
    "graded": _graded,
    "none": _nothing,
    "scores": _number,
    "relevances": _relevant,
}


def _refuse_amount(where: str, value: object) -> NoReturn:
    raise DataError(
        f"{where}: the label {value} is a fraction: to learn numbers set "
        f"data.task={task_of_labels('number')}; for classification give each class a name or a whole number"
    )
