"""Recall, precision and F1 of each class, macro F1 with its interval, and the classes that a model lost.

A row has a class once, or several times (entities of a sentence, by their types).
Macro F1 is the mean of F1 over the classes that have rows. Its interval: percentiles of a bootstrap over rows
(Efron and Tibshirani 1993, chapter 13), in which a class that is not drawn does not count. Where all rows are
right, or both models answer alike, resampling shows no spread; so each interval also covers that of the same
rows with two made-up ones, of classes as in the rows: one is answered rightly, one not at all.
Shapes: n = rows, k = different rows, c = classes, b = resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from compress.page.format import counted
from compress.tasks.metrics.statistics import resampled_interval, wider
from compress.tasks.spec import NO_LABEL, Breakdown, Integers

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["ByClass", "ClassWords", "LostClass"]

_LEVEL = 0.95
_ORDERED = 20  # classes that a table has in their own order
_LISTED = 200  # classes in a table
_DENSE = 1 << 20  # numbers in a table that are quicker to sum without skipping zeros
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassWords:
    """Terms used in messages and reports.

    Attributes:
        noun: a class.
        units: what has a class.
        names: of the classes; their numbers are shown where there are none.
    """

    noun: str = "class"
    units: str = "rows"
    names: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """What a class is called."""
        return self.names[index] if index < len(self.names) else str(index)


@dataclass(frozen=True)
class LostClass:
    """A class that one model finds, and another measurably less than half as often.

    Attributes:
        name: of the class.
        units: that have it.
        before, after: recall of the two models.
    """

    name: str
    units: int
    before: float
    after: float


@dataclass(frozen=True)
class ByClass:
    """Rows by the classes that they have and that models answer.

    Attributes:
        counts: how many rows are of each kind, [k].
        true: how often rows of a kind have a class, [k, c].
        right: how often each model is right on it; one model, or two, [k, c] each.
        given: how often each model answers it, [k, c] each.
        both: how often all models are right on it, [k, c].
        words: how classes are called.
    """

    counts: Floats
    true: csr_matrix
    right: tuple[csr_matrix, ...]
    given: tuple[csr_matrix, ...]
    both: csr_matrix
    words: ClassWords = ClassWords()

    @classmethod
    def of_one(
        cls, classes: int, labels: Integers, *answers: Integers, words: ClassWords = ClassWords()
    ) -> Self:
        """Rows of one class each.

        Args:
            labels: true classes, [n]; `NO_LABEL` doesn't count.
            answers: of each model, [n].
        """
        from scipy.sparse import csr_matrix

        table = np.stack((labels, *answers), axis=1)[labels != NO_LABEL]
        kinds, counts = np.unique(table, axis=0, return_counts=True)
        shape = len(kinds), max(classes, int(kinds.max(initial=-1)) + 1)
        places, ones = np.arange(len(kinds)), np.ones(len(kinds))
        true, *given = (csr_matrix((ones, (places, column)), shape) for column in kinds.T)
        return cls._of_ones(counts, true, given, words)

    @classmethod
    def of_several(cls, labels: Integers, *answers: Integers, words: ClassWords = ClassWords()) -> Self:
        """Rows of any number of different classes each.

        Args:
            labels: 1 where a row has a class, [n, c]; `NO_LABEL` doesn't count.
            answers: of each model, [n, c].
        """
        known = labels != NO_LABEL
        counts, (true, *given) = _kinds([each * known for each in (labels, *answers)])
        return cls._of_ones(counts, true, given, words)

    @classmethod
    def _of_ones(
        cls, counts: Integers, true: csr_matrix, given: Sequence[csr_matrix], words: ClassWords
    ) -> Self:
        """Where rows have no class twice, what both have is right."""
        right = tuple(true.multiply(each).tocsr() for each in given)
        both = right[0].multiply(right[-1]).tocsr()
        return cls(counts.astype(np.float64), true, right, tuple(given), both, words)

    @classmethod
    def of_counts(
        cls,
        true: Integers,
        models: Sequence[tuple[Integers, Integers]],
        both: Integers,
        words: ClassWords = ClassWords(),
    ) -> Self:
        """Rows that may have a class several times.

        Args:
            true: how often each row has each class, [n, c].
            models: how often each model is right on it, and how often it answers it, [n, c] each.
            both: how often all models are right on it, [n, c].
        """
        right, given = zip(*models, strict=True)
        counts, (true, both, *others) = _kinds([true, both, *right, *given])
        half = len(models)
        return cls(counts.astype(np.float64), true, tuple(others[:half]), tuple(others[half:]), both, words)

    @property
    def support(self) -> Floats:
        """How often rows have each class, [c]."""
        return _times(self.counts, self.true)

    def macro_f1(self) -> tuple[float, float, float]:
        """The last model's macro F1 and its 95 % interval."""
        return self._interval(lambda models: models[-1], least=0.0)

    def macro_f1_change(self) -> tuple[float, float, float]:
        """The second model's macro F1 minus the first's, and its paired 95 % interval."""
        return self._interval(lambda models: models[1] - models[0], least=-1.0)

    def lost(self) -> tuple[LostClass, ...]:
        """Classes that the first model finds, and the second measurably less than half as often.

        A one-sided sign test at 5 % over what has a class, as if independent: if recall were half, those that
        only the first finds would be as many as those that both find and twice those that only the second
        does. Of a class that is not found any more, the first must have found five: fewer can be chance.
        """
        from scipy.special import bdtr

        both, before, after = (_times(self.counts, each) for each in (self.both, *self.right))
        held = both + 2 * (after - both)
        chance = bdtr(held, (held + before - both).astype(np.int64), 0.5)
        units = self.support
        return tuple(
            LostClass(self.words.name(at), int(units[at]), before[at] / units[at], after[at] / units[at])
            for at in np.flatnonzero((chance <= 1 - _LEVEL) & (before > both)).tolist()
        )

    def breakdown(
        self,
        *first: str,
        columns: tuple[str, ...] = (),
        line: Callable[[int], tuple[str, ...]] | None = None,
    ) -> Breakdown:
        """A report's table of the classes.

        Args:
            first: sentences that come before those on macro F1.
            columns: headings of what follows a class and how often it occurs.
            line: returns these texts for a class; None: F1, precision and recall of both models.
        """
        units, *models = self._sums(self.counts)
        old, new = f1 = _f1(units, models)
        has, words = units > 0, self.words
        change, low, high = (100 * each for each in self.macro_f1_change())
        points = f"{change:+.1f} points ({low:+.1f} to {high:+.1f})".replace("-", "−")
        sentences = (
            *first,
            f"Macro F1, the mean over {counted(int(has.sum()), words.noun)} with test {words.units}, is "
            f"{new[has].mean():.3f}, after {old[has].mean():.3f} for the baseline: {points}, with the 95 % "
            "interval of the change.",
        )
        order: Sequence[int] = range(len(units))
        if len(units) > _ORDERED:
            order = np.lexsort((-units, -np.abs(new - old)))[:_LISTED].tolist()
            more = f"; {len(units) - _LISTED:,} others are not listed" if len(units) > _LISTED else ""
            sentences += (f"Those whose F1 changed most come first{more}.",)
        if line is None:
            with np.errstate(invalid="ignore"):  # of nothing
                precision = [models[0] / models[1], models[2] / models[3]]
                recall = [models[0] / units, models[2] / units]
            columns = tuple(
                f"{who}{what}" for what in ("F1", "precision", "recall") for who in ("baseline ", "")
            )

            def line(at: int) -> tuple[str, ...]:
                return tuple(_shown(each[at]) for each in (*f1, *precision, *recall))

        return Breakdown(
            title=f"Each {words.noun}",
            sentences=sentences,
            columns=(words.noun, f"test {words.units}", *columns),
            rows=tuple((words.name(at), f"{int(units[at]):,}", *line(at)) for at in order),
        )

    @cached_property
    def _table(self) -> Any:
        """How often a kind of rows has a class, and how often each model is right on it, and answers it."""
        from scipy.sparse import hstack

        parts = [part for pair in zip(self.right, self.given, strict=True) for part in pair]
        table = hstack((self.true, *parts), format="csr")
        return table.toarray() if table.shape[0] * table.shape[1] < _DENSE else table

    def _sums(self, weights: Floats) -> list[Floats]:
        """How often rows have each class, each model is right on it, and answers it; [..., c].

        Args:
            weights: how often each kind of rows occurs, [..., k].
        """
        return np.split(_times(weights, self._table), 1 + 2 * len(self.given), axis=-1)

    def _macro(self, weights: Floats) -> list[Floats]:
        """Mean F1 of each model over the classes that occur, [...]."""
        true, *models = self._sums(weights)
        has = true > 0
        return [(each * has).sum(-1) / np.maximum(has.sum(-1), 1) for each in _f1(true, models)]

    def _interval(
        self, statistic: Callable[[list[Floats]], Floats], *, least: float
    ) -> tuple[float, float, float]:
        value = float(statistic(self._macro(self.counts)))
        plain, more = (each._resampled(statistic) for each in (self, self._with_made_up_rows()))
        low, high = wider(plain, more, least=least)
        return value, min(low, value), max(high, value)

    def _resampled(self, statistic: Callable[[list[Floats]], Floats]) -> tuple[float, float]:
        return resampled_interval(self.counts, lambda drawn: statistic(self._macro(np.asfortranarray(drawn))))

    def _with_made_up_rows(self) -> ByClass:
        """Also rows of each class, by its share, that one model finds and the other, or neither, doesn't."""
        from scipy.sparse import csr_matrix, identity, vstack

        shares = self.support / self.counts.sum()
        found, missed = identity(len(shares), format="csr"), csr_matrix((len(shares), len(shares)))

        def more(models: tuple[csr_matrix, ...]) -> tuple[csr_matrix, ...]:
            pairs = zip(models, [(found, missed), (missed, found)], strict=False)
            return tuple(vstack((own, *made_up), format="csr") for own, made_up in pairs)

        return ByClass(
            np.concatenate((self.counts, shares, shares)),
            vstack((self.true, found, found), format="csr"),
            more(self.right),
            more(self.given),
            vstack((self.both, missed, missed), format="csr"),
        )


def _kinds(tables: Sequence[Integers]) -> tuple[Integers, list[csr_matrix]]:
    """Different rows of several tables [n, c]: how often each occurs, [k], and what it is in each table."""
    from scipy.sparse import csr_matrix

    kinds, counts = np.unique(np.concatenate(tables, axis=1), axis=0, return_counts=True)
    return counts, [csr_matrix(part, dtype=np.float64) for part in np.split(kinds, len(tables), axis=1)]


def _f1(true: Floats, models: Sequence[Floats]) -> list[Floats]:
    """F1 of each model, [..., c], from how often it is right and answers."""
    pairs = zip(models[::2], models[1::2], strict=True)
    return [2 * right / np.maximum(given + true, 1.0) for right, given in pairs]


def _times(weights: Floats, table: Any) -> Floats:
    """Sums of a sparse table's rows, [..., c], that occur this often, [..., k]."""
    found: Floats = np.asarray(table.T @ weights.T).T  # fastest if weights.T is contiguous
    return found


def _shown(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.3f}"
