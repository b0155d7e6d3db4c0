"""Recall, precision and F1 of each class, macro F1 with its interval, and the classes that a model lost.

Macro F1 is the mean of F1 over the classes that have rows. Its interval: percentiles of a bootstrap over rows
(Efron and Tibshirani 1993, chapter 13), in which a class that is not drawn does not count. Where all rows are
right, or both models answer alike, resampling shows no spread; so each interval also covers that of the same
rows with two made-up ones, of a class drawn as in the rows: one is answered rightly, one not at all.
Shapes: n = rows, k = different rows, c = classes, b = resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from compress.tasks.metrics.statistics import resampled_interval, wider
from compress.tasks.spec import NO_LABEL, Breakdown, Integers

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["ByClass", "LostClass"]

_LEVEL = 0.95
_SHOWN = 20  # classes in a table
_DENSE = 1 << 20  # numbers in a table that are quicker to sum without skipping zeros
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LostClass:
    """A class that one model finds, and another measurably less than half as often.

    Attributes:
        index: of the class.
        rows: that have it.
        before, after: recall of the two models.
    """

    index: int
    rows: int
    before: float
    after: float


@dataclass(frozen=True)
class ByClass:
    """Rows by the classes that they have and that models answer.

    Attributes:
        counts: how many rows are of each kind, [k].
        true: 1 where rows of a kind have a class, [k, c].
        answers: 1 where a model answers it, [k, c] for each model; at most two.
    """

    counts: Floats
    true: csr_matrix
    answers: tuple[csr_matrix, ...]

    @classmethod
    def of_one(cls, classes: int, labels: Integers, *answers: Integers) -> Self:
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
        return cls(counts.astype(np.float64), true, tuple(given))

    @classmethod
    def of_several(cls, labels: Integers, *answers: Integers) -> Self:
        """Rows of any number of classes each.

        Args:
            labels: 1 where a row has a class, [n, c]; `NO_LABEL` doesn't count.
            answers: of each model, [n, c].
        """
        from scipy.sparse import csr_matrix

        known = labels != NO_LABEL
        table = np.concatenate([each * known for each in (labels, *answers)], axis=1)
        kinds, counts = np.unique(table, axis=0, return_counts=True)
        true, *given = (csr_matrix(part, dtype=np.float64) for part in np.split(kinds, 1 + len(answers), 1))
        return cls(counts.astype(np.float64), true, tuple(given))

    @property
    def support(self) -> Floats:
        """Rows that have each class, [c]."""
        return _times(self.counts, self.true)

    def macro_f1(self) -> tuple[float, float, float]:
        """The last model's macro F1 and its 95 % interval."""
        return self._interval(lambda models: models[-1], least=0.0)

    def macro_f1_change(self) -> tuple[float, float, float]:
        """The second model's macro F1 minus the first's, and its paired 95 % interval."""
        return self._interval(lambda models: models[1] - models[0], least=-1.0)

    def lost(self) -> tuple[LostClass, ...]:
        """Classes that the first model finds, and the second measurably less than half as often.

        A one-sided sign test at 5 % over a class's rows: if recall were half, the rows that only the first
        finds would be as many as those that both find and twice those that only the second does. Of a class
        that is not found any more, the first must have found five rows: fewer can be chance.
        """
        from scipy.special import bdtr

        first, second = (self.true.multiply(each) for each in self.answers)
        both = _times(self.counts, first.multiply(second))
        before, after = _times(self.counts, first), _times(self.counts, second)
        held = both + 2 * (after - both)
        chance = bdtr(held, (held + before - both).astype(np.int64), 0.5)
        rows = self.support
        return tuple(
            LostClass(int(at), int(rows[at]), before[at] / rows[at], after[at] / rows[at])
            for at in np.flatnonzero((chance <= 1 - _LEVEL) & (before > both))
        )

    def breakdown(self, title: str, noun: str, names: Sequence[str], *first: str) -> Breakdown:
        """A report's table of the classes: F1, precision and recall of both models.

        Args:
            noun: what a class is called.
            names: of the classes; empty: their numbers are shown.
            first: sentences that come before those on macro F1.
        """
        rows, *models = self._sums(self.counts)
        old, new = f1 = _f1(rows, models)
        has = rows > 0
        change, low, high = (100 * each for each in self.macro_f1_change())
        points = f"{change:+.1f} points ({low:+.1f} to {high:+.1f})".replace("-", "−")
        sentences = (
            *first,
            f"Macro F1, the mean over {has.sum()} {_several(noun)} with test rows, is "
            f"{new[has].mean():.3f}, after {old[has].mean():.3f} for the baseline: {points}, with the 95 % "
            "interval of the change.",
        )
        order: Sequence[int] = range(len(rows))
        if len(rows) > _SHOWN:
            order = np.lexsort((-rows, -np.abs(new - old)))[:_SHOWN].tolist()
            sentences += (f"The {_SHOWN} whose F1 changed most are listed; {len(rows) - _SHOWN:,} are not.",)
        with np.errstate(invalid="ignore"):  # of nothing
            precision = [models[0] / models[1], models[2] / models[3]]
            recall = [models[0] / rows, models[2] / rows]
        columns = (noun, "test rows", "baseline F1", "F1", "baseline precision", "precision")
        return Breakdown(
            title=title,
            sentences=sentences,
            columns=(*columns, "baseline recall", "recall"),
            rows=tuple(
                (
                    names[at] if at < len(names) else str(at),
                    f"{int(rows[at]):,}",
                    *(_shown(each[at]) for each in (*f1, *precision, *recall)),
                )
                for at in order
            ),
        )

    @cached_property
    def _table(self) -> Any:
        """1 where a kind of rows has a class, and where each model is right on it, and answers it."""
        from scipy.sparse import hstack

        parts = [part for each in self.answers for part in (self.true.multiply(each), each)]
        table = hstack((self.true, *parts), format="csr")
        return table.toarray() if table.shape[0] * table.shape[1] < _DENSE else table

    def _sums(self, weights: Floats) -> list[Floats]:
        """Rows that have each class, and for each model those it is right on and those it answers; [..., c].

        Args:
            weights: how often each kind of rows occurs, [..., k].
        """
        return np.split(_times(weights, self._table), 1 + 2 * len(self.answers), axis=-1)

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
        answers = [(found, missed), (missed, found)][: len(self.answers)]
        return ByClass(
            np.concatenate((self.counts, shares, shares)),
            vstack((self.true, found, found), format="csr"),
            tuple(
                vstack((own, *more), format="csr") for own, more in zip(self.answers, answers, strict=True)
            ),
        )


def _f1(true: Floats, models: Sequence[Floats]) -> list[Floats]:
    """F1 of each model, [..., c], from the numbers of rows that it is right on and that it answers."""
    pairs = zip(models[::2], models[1::2], strict=True)
    return [2 * right / np.maximum(given + true, 1.0) for right, given in pairs]


def _times(weights: Floats, table: Any) -> Floats:
    """Sums of a sparse table's rows, [..., c], that occur this often, [..., k]."""
    found: Floats = np.asarray(table.T @ weights.T).T  # fastest if weights.T is contiguous
    return found


def _several(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _shown(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.3f}"
