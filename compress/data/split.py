"""Rows, a split of them, and batches; uses only numpy, so that the measuring process needs no torch.

Shapes: n = rows, b = batch, s = the row's own length; rows are padded only when batched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.groups import cut_in_groups
from compress.data.labels import padded_labels
from compress.data.table import Text
from compress.tasks import LABELS_KEY, NO_LABEL, ROW_INDEX_KEY, InputSpec, Task, Truth
from compress.tasks.links import Links

__all__ = ["Batch", "NO_LABEL", "Row", "Split", "collate", "with_placed_labels"]

_OF_LABELS = ("label_bytes", "label_lengths")
_LINKS = "links."

Array = NDArray[Any]
Row = dict[str, Array]
Batch = dict[str, Array]


def collate(rows: list[Row], inputs: tuple[InputSpec, ...]) -> Batch:
    """Stack rows to a batch: each input [b, s, ...], padded with its pad value to the longest row.

    If the task has an `attention_mask`, padding is masked because the mask's own pad value is 0.
    """
    batch: Batch = {}
    for spec in inputs:
        arrays = [row[spec.name] for row in rows]
        longest = max(array.shape[0] for array in arrays)
        out = np.full((len(arrays), longest, *arrays[0].shape[1:]), spec.pad_value, dtype=spec.dtype)
        for index, array in enumerate(arrays):
            out[index, : array.shape[0]] = array
        batch[spec.name] = out
    return batch


@dataclass(frozen=True)
class Split:
    """Rows of one split with their labels.

    Attributes:
        name: train, validation, test, unlabelled or synthetic.
        rows: one dict per row, input name -> array [s, ...], unpadded.
        labels: int64 or float64, [n] or [n, k], depending on the task; unknown ones are `NO_LABEL` or NaN.
        inputs: input specifications of a row.
        texts: the raw text or texts of each row, or empty if rows are not texts.
        label_bytes: bytes of text that each row's labels represent, int64 [n], if labels are tokens.
        label_lengths: for ragged labels, the number of labels per row, int64 [n]; the rest of a row in
            `labels` is `NO_LABEL`, and a `NO_LABEL` among them is not judged. None if all rows have k.
        word_labels: of rows of words, the label of each word, int64 [n, w], from which `labels` were placed.
        links: what joins rows, such as a query and its relevant documents; None if nothing does.
    """

    name: str
    rows: tuple[Row, ...]
    labels: NDArray[Any]
    inputs: tuple[InputSpec, ...]
    texts: tuple[Text, ...] = ()
    label_bytes: NDArray[np.int64] | None = None
    label_lengths: NDArray[np.int64] | None = None
    word_labels: NDArray[np.int64] | None = None
    links: Links | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, batch_size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield batches with `labels` and `row_index`, in order or shuffled (use a new seed each epoch).

        Shuffled batches hold rows of similar length: rows are shuffled, sorted by length within pools of 16
        batches, and the batches shuffled again. This reduces padding and still gives a new order each epoch.
        """
        for picked in self._picks(batch_size, shuffle_seed):
            yield self._batch(picked)

    def batch_groups(
        self,
        batch_size: int,
        parts: int,
        *,
        shuffle_seed: int | None = None,
        skip: int = 0,
        together: NDArray[np.int64] | None = None,
    ) -> Iterator[list[Batch]]:
        """Yield the rows of batches of `batch_size * parts`, each as several batches of at most `batch_size`.

        Their sizes differ by at most one row, so that no batch has a single row just because rows run out.

        Args:
            skip: number of groups to skip at the start.
            together: a number for each row, [n]; rows with the same one are in one batch, which may then have
                up to twice as many rows.
        """
        if together is not None:
            draw = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
            every = np.arange(len(self))
            for picked in cut_in_groups(every, together, batch_size * parts, draw)[skip:]:
                yield [self._batch(each) for each in cut_in_groups(picked, together[picked], batch_size)]
            return
        for picked in self._picks(batch_size * parts, shuffle_seed)[skip:]:
            count = -(-len(picked) // batch_size)
            yield [self._batch(part) for part in np.array_split(picked, count)]

    def _picks(self, batch_size: int, shuffle_seed: int | None) -> list[NDArray[np.int64]]:
        """Row indices of each batch, as yielded by `batches`."""
        order = np.arange(len(self))
        starts = np.arange(0, len(order), batch_size)
        if shuffle_seed is not None:
            draw = np.random.default_rng(shuffle_seed)
            draw.shuffle(order)
            order = self._pooled_by_length(order, batch_size * 16)
            draw.shuffle(starts)
        return [order[start : start + batch_size] for start in starts]

    def token_batches(self, tokens: int) -> Iterator[Batch]:
        """Yield batches in order, each with as many rows as fit in `tokens` positions, but at least one."""
        lengths = self.lengths.tolist()
        start = 0
        while start < len(self):
            stop, longest = start + 1, lengths[start]
            while stop < len(self) and max(longest, lengths[stop]) * (stop + 1 - start) <= tokens:
                longest = max(longest, lengths[stop])
                stop += 1
            yield self._batch(np.arange(start, stop))
            start = stop

    def _batch(self, picked: NDArray[np.int64]) -> Batch:
        batch = collate([self.rows[i] for i in picked], self.inputs)
        labels = self.labels[picked]
        if self.label_lengths is not None:
            labels = labels[:, : self.label_lengths[picked].max(initial=0)]
        batch[LABELS_KEY] = labels
        batch[ROW_INDEX_KEY] = picked
        return batch

    def _pooled_by_length(self, order: NDArray[np.int64], pool: int) -> NDArray[np.int64]:
        lengths = self.lengths
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        return np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in pools] or [order])

    @property
    def elastic(self) -> tuple[InputSpec, ...]:
        """Inputs whose length may vary between rows; excludes floats with the same length in all rows."""
        return tuple(
            spec
            for spec in self.inputs
            if isinstance(spec.shape[0], str)
            and (spec.dtype == "int64" or len({row[spec.name].shape[0] for row in self.rows}) > 1)
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Positions of each row, [n]."""
        return np.array([row[self.inputs[0].name].shape[0] for row in self.rows], dtype=np.int64)

    def take(self, count: int, *, seed: int) -> Split:
        """Return at most `count` rows, sampled without replacement; links keep both rows where they can."""
        return self if count >= len(self) else self.at(self.drawn(count, seed=seed))

    def drawn(self, count: int, *, seed: int) -> NDArray[np.int64]:
        """Indices of the rows that `take` returns, ascending."""
        if self.links is not None:
            return self.links.drawn(count, seed)
        return np.sort(np.random.default_rng(seed).permutation(len(self))[:count])

    def by_length(self) -> Split:
        """Return the rows sorted by length, shortest first, to minimize padding of batches in order."""
        return self.at(np.argsort(self.lengths, kind="stable"))

    def at(self, picked: NDArray[np.int64]) -> Split:
        """Return the rows with these indices, in the given order."""
        return Split(
            self.name,
            tuple(self.rows[i] for i in picked),
            self.labels[picked],
            self.inputs,
            tuple(self.texts[i] for i in picked) if self.texts else (),
            None if self.label_bytes is None else self.label_bytes[picked],
            None if self.label_lengths is None else self.label_lengths[picked],
            None if self.word_labels is None else self.word_labels[picked],
            None if self.links is None else self.links.at(picked),
        )

    def truth(self, task: Task) -> Truth:
        """True answers of the judged units."""
        return replace(task.truth(self.labels, self.label_lengths), links=self.links)

    def relabelled(self, answers: NDArray[np.int64]) -> Split:
        """Return the same rows with other labels for the judged units, [u]."""
        if self.label_lengths is None:
            labels = self.labels.copy()
            if labels.size == answers.size:
                return replace(self, labels=answers.reshape(labels.shape))
            if answers.size > len(self):  # vectors
                return replace(self, labels=answers)
            labels[:, 0] = answers  # the other columns say what rows are labels of
            return replace(self, labels=labels)
        labels = self.labels.copy()
        labels[labels != NO_LABEL] = answers
        return replace(self, labels=labels)

    def joined(self, other: Split) -> Split:
        """Append the rows of another split; texts, and links of its rows, are dropped.

        If the other rows have no labels, theirs are blank in the shape of this split's labels.
        """
        theirs, lengths, own = other.labels, self.label_lengths, self.labels
        if theirs.ndim < own.ndim or theirs.dtype != own.dtype:
            blank = np.nan if own.dtype.kind == "f" else NO_LABEL
            theirs = np.full((len(other), *own.shape[1:]), blank, dtype=own.dtype)
        if lengths is not None:
            given = other.label_lengths
            more = np.zeros(len(other), dtype=np.int64) if given is None else given
            rows = [*_unpadded(self.labels, lengths), *_unpadded(theirs, more)]
            labels, lengths = padded_labels(rows)
        else:
            labels = np.concatenate((self.labels, theirs))
        links = None if self.links is None else self.links.followed_by(len(other))
        return Split(
            self.name, self.rows + other.rows, labels, self.inputs, label_lengths=lengths, links=links
        )

    def fingerprint(self, *, labels: bool = True) -> str:
        """Hexadecimal SHA-256 of all rows, including labels unless excluded."""
        digest = hashlib.sha256()
        for row in self.rows:
            for spec in self.inputs:
                array = np.ascontiguousarray(row[spec.name])
                digest.update(f"{spec.name}{array.dtype}{array.shape}".encode())
                digest.update(array.tobytes())
        for name, array in self._link_arrays().items():
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        if labels:
            digest.update(np.ascontiguousarray(self.labels).tobytes())
            if self.label_lengths is not None:
                digest.update(self.label_lengths.tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write rows and labels to an .npz file without pickle; texts are not saved."""
        arrays: dict[str, Array] = {LABELS_KEY: self.labels, **self._link_arrays()}
        for name in _OF_LABELS:
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        for spec in self.inputs:
            columns = [row[spec.name] for row in self.rows]
            arrays[f"flat.{spec.name}"] = (
                np.concatenate(columns) if columns else np.empty(0, dtype=spec.dtype)
            )
            arrays[f"lengths.{spec.name}"] = np.array([len(column) for column in columns], dtype=np.int64)
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def _link_arrays(self) -> dict[str, Array]:
        if self.links is None:
            return {}
        return {f"{_LINKS}{name}": array for name, array in self.links.arrays().items()}

    @classmethod
    def without_labels(
        cls, name: str, rows: tuple[Row, ...], inputs: tuple[InputSpec, ...], texts: tuple[Text, ...] = ()
    ) -> Split:
        """Make a split of rows with unknown labels."""
        return cls(name, rows, np.full(len(rows), NO_LABEL, dtype=np.int64), inputs, texts)

    @classmethod
    def load(cls, path: Path, name: str, inputs: tuple[InputSpec, ...]) -> Split:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            columns = {
                spec.name: np.split(
                    stored[f"flat.{spec.name}"], np.cumsum(stored[f"lengths.{spec.name}"])[:-1]
                )
                for spec in inputs
            }
            labels = stored[LABELS_KEY]
            more = {name: stored.get(name) for name in _OF_LABELS}
            linked = {name.removeprefix(_LINKS): stored[name] for name in stored if name.startswith(_LINKS)}
        rows = tuple({spec.name: columns[spec.name][i] for spec in inputs} for i in range(len(labels)))
        return cls(name, rows, labels, inputs, **more, links=Links(**linked) if linked else None)


def _unpadded(labels: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [row[:length] for row, length in zip(labels, lengths, strict=True)]


def with_placed_labels(split: Split, words: NDArray[np.int64], places: NDArray[np.int64]) -> Split:
    """Return the rows with a label at one position of each word, and `NO_LABEL` at all others.

    Args:
        words: label of each word, [n, w].
        places: its position in the row, [n, w]; -1 if it has none.
    """
    lengths = split.lengths
    labels = np.full((len(split), lengths.max(initial=0)), NO_LABEL, dtype=np.int64)
    row, word = np.nonzero((places >= 0) & (words != NO_LABEL))
    labels[row, places[row, word]] = words[row, word]
    return replace(split, labels=labels, label_lengths=lengths, word_labels=words)
