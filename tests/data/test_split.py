from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from compress.data import DigitsData, FileData, Split, collate
from compress.data.labels import padded_labels
from compress.tasks import NO_LABEL, InputSpec, flat_truth

IDS = InputSpec("input_ids", "int64", ("sequence_length",), 9)
MASK = InputSpec("attention_mask", "int64", ("sequence_length",))
FEATURES = InputSpec("features", "float32", ("patches", 2))


def _row(length: int, patches: int = 1) -> dict[str, np.ndarray]:
    return {
        "input_ids": np.arange(length, dtype=np.int64),
        "attention_mask": np.ones(length, dtype=np.int64),
        "features": np.full((patches, 2), length, dtype=np.float32),
    }


def _split() -> Split:
    rows = (_row(1, 3), _row(3, 1), _row(2, 2))
    return Split("train", rows, np.array([0, 1, 0]), (IDS, MASK, FEATURES))


def test_collate_fills_shorter_rows_at_their_end_with_each_inputs_own_pad_value() -> None:
    batch = collate([_row(1), _row(3)], (IDS, MASK))
    assert batch["input_ids"].tolist() == [[0, 9, 9], [0, 1, 2]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_collate_pads_the_first_of_several_dimensions() -> None:
    batch = collate([_row(5, 1), _row(6, 2)], (FEATURES,))
    assert batch["features"].tolist() == [[[5, 5], [0, 0]], [[6, 6], [6, 6]]]
    assert batch["features"].dtype == np.float32


def test_split_comes_back_from_its_file_though_inputs_differ_in_length(tmp_path: Path) -> None:
    split = _split()
    split.save(tmp_path / "rows.npz")
    loaded = Split.load(tmp_path / "rows.npz", "train", split.inputs)
    assert loaded.fingerprint() == split.fingerprint()
    assert len(loaded) == 3


def test_split_without_rows_comes_back_from_its_file(tmp_path: Path) -> None:
    split = Split("test", (), np.empty(0, dtype=np.int64), (IDS, FEATURES))
    split.save(tmp_path / "rows.npz")
    loaded = Split.load(tmp_path / "rows.npz", "test", split.inputs)
    assert (len(loaded), list(loaded.batches(2))) == (0, [])
    assert loaded.fingerprint() == split.fingerprint()


def test_batches_keep_the_order_or_shuffle_by_seed() -> None:
    split = _split()
    assert [batch["labels"].tolist() for batch in split.batches(2)] == [[0, 1], [0]]
    orders = [
        [b["row_index"].tolist() for b in split.batches(1, shuffle_seed=seed)] for seed in (1, 1, 2, 3, 4)
    ]
    assert orders[0] == orders[1]
    assert any(order != orders[0] for order in orders[2:])


def test_take_draws_by_seed_and_returns_all_where_there_are_fewer() -> None:
    split = _split()
    assert split.take(2, seed=0).fingerprint() == split.take(2, seed=0).fingerprint()
    assert len(split.take(2, seed=0)) == 2
    assert split.take(5, seed=0) is split


def test_by_length_moves_labels_and_texts_with_their_rows() -> None:
    split = _split()
    ordered = split.by_length()
    places = [next(i for i, row in enumerate(split.rows) if row is each) for each in ordered.rows]
    assert sorted(places) == list(range(len(split)))
    assert ordered.labels.tolist() == split.labels[places].tolist()
    assert ordered.texts == tuple(split.texts[i] for i in places if split.texts)


def test_fractions_that_leave_nothing_to_train_on_are_refused_only_where_both_are_drawn() -> None:
    with pytest.raises(ValidationError, match="validation_fraction.*test_fraction.*below 1"):
        DigitsData(validation_fraction=0.5, test_fraction=0.5)
    given = FileData(train=Path("a.csv"), test=Path("b.csv"), validation_fraction=0.9)
    assert given.validation_fraction == 0.9


def test_shuffled_batches_hold_every_row_once_and_rows_of_like_length() -> None:
    inputs = (InputSpec("input_ids", "int64", ("sequence_length",)),)
    lengths = np.random.default_rng(0).integers(1, 60, 1000)
    rows = tuple({"input_ids": np.zeros(length, dtype=np.int64)} for length in lengths)
    split = Split("train", rows, np.zeros(1000, dtype=np.int64), inputs)

    def padded(seed: int | None) -> int:
        return sum(batch["input_ids"].size for batch in split.batches(8, shuffle_seed=seed))

    seen = np.concatenate([batch["row_index"] for batch in split.batches(8, shuffle_seed=1)])
    assert sorted(seen) == list(range(1000))
    other = np.concatenate([batch["row_index"] for batch in split.batches(8, shuffle_seed=2)])
    assert not np.array_equal(seen, other)
    assert padded(1) < 1.1 * lengths.sum() < padded(None)
    ordered = split.by_length()
    assert [len(row["input_ids"]) for row in ordered.rows] == sorted(lengths)
    assert sum(batch["input_ids"].size for batch in ordered.batches(8)) <= padded(1)


def test_batches_of_tokens_hold_as_many_rows_as_fit_padded_and_one_at_the_least() -> None:
    inputs = (InputSpec("x", "int64", ("s",)),)
    rows = tuple({"x": np.arange(length)} for length in (2, 2, 3, 3, 9, 1))
    split = Split("train", rows, np.zeros(6, np.int64), inputs)
    shapes = [batch["x"].shape for batch in split.token_batches(6)]
    # 3 rows of up to 3 would fill 9 positions; 9 is more than 6, and stands alone.
    assert shapes == [(2, 2), (2, 3), (1, 9), (1, 1)]
    assert [i for batch in split.token_batches(6) for i in batch["row_index"].tolist()] == list(range(6))


def _ragged() -> Split:
    rows = tuple({"ids": np.arange(length)} for length in (2, 4, 1))
    labels, lengths = padded_labels([np.array([1, 0]), np.array([2, NO_LABEL, 0, 1]), np.array([1])])
    return Split("train", rows, labels, (InputSpec("ids", "int64", ("s",)),), label_lengths=lengths)


def test_ragged_labels_are_padded_to_the_longest_of_a_batch() -> None:
    batches = [batch["labels"].tolist() for batch in _ragged().at(np.array([0, 2, 1])).batches(2)]
    assert batches == [[[1, 0], [1, NO_LABEL]], [[2, NO_LABEL, 0, 1]]]


def test_ragged_labels_without_a_label_are_not_judged() -> None:
    split = _ragged()
    truth = flat_truth(split.labels, split.label_lengths)
    assert truth.labels.tolist() == [1, 0, 2, 0, 1, 1] and truth.lengths.tolist() == [2, 3, 1]
    again = split.relabelled(truth.labels + 5)
    assert (
        flat_truth(again.labels, again.label_lengths).labels.tolist() == [6, 5, 7, 5, 6, 6]
        and again.labels[1, 1] == NO_LABEL
    )


def test_ragged_labels_survive_a_file_and_a_join(tmp_path: Path) -> None:
    split = _ragged()
    split.save(tmp_path / "rows.npz")
    again = Split.load(tmp_path / "rows.npz", "train", split.inputs)
    assert again.fingerprint() == split.fingerprint()
    both = split.at(np.array([2])).joined(Split.without_labels("more", split.rows[:2], split.inputs))
    truth = flat_truth(both.labels, both.label_lengths)
    assert truth.labels.tolist() == [1] and truth.lengths.tolist() == [1, 0, 0]


def test_rows_of_several_labels_stay_so_beside_rows_without_labels() -> None:
    rows = tuple({"ids": np.arange(2)} for _ in range(2))
    inputs = (InputSpec("ids", "int64", ("s",)),)
    split = Split("train", rows, np.array([[0, 1, 1], [1, 0, 0]]), inputs)
    both = split.joined(Split.without_labels("more", rows[:1], inputs))
    assert both.labels.tolist() == [[0, 1, 1], [1, 0, 0], [NO_LABEL] * 3]
