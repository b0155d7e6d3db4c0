from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compress.data.split import Split
from compress.errors import MeasureError
from compress.measure.rows import resolve_sequence, steady_batch
from compress.tasks import InputSpec


def test_steady_batch_repeats_short_rows_and_cuts_long_ones_without_padding(token_split):
    batch = steady_batch(token_split, 3, 4)
    assert batch["input_ids"].tolist() == [[1, 1, 2, 1], [2, 2, 1, 2], [3, 3, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1] * 4] * 3
    assert batch["input_ids"].dtype == np.int64


def test_steady_batch_starts_again_when_rows_run_out(token_split):
    batch = steady_batch(token_split, 5, 1)
    assert batch["input_ids"][:, 0].tolist() == [1, 2, 3, 1, 1]


def test_steady_batch_leaves_an_input_of_fixed_length_as_it_is():
    inputs = (InputSpec("sizes", "float32", (3,)), InputSpec("input_ids", "int64", ("s",)))
    row = {"sizes": np.ones(3, dtype=np.float32), "input_ids": np.array([5, 6])}
    split = Split("test", (row,), np.array([0]), inputs)
    assert resolve_sequence(split, None) == 2
    batch = steady_batch(split, 1, 5)
    assert batch["sizes"].shape == (1, 3)
    assert batch["input_ids"].tolist() == [[5, 6, 5, 6, 5]]


def test_resolve_sequence_takes_the_one_length_that_all_rows_have(feature_split):
    assert resolve_sequence(feature_split, None) == 3
    assert resolve_sequence(feature_split, 3) == 3


def test_rows_of_a_fixed_shape_have_no_sequence(feature_split):
    fixed = replace(feature_split, inputs=(replace(feature_split.inputs[0], shape=(3, 2)),))
    assert resolve_sequence(fixed, None) is None
    assert resolve_sequence(fixed, 3) is None  # what earlier versions called its sequence
    assert steady_batch(fixed, 2, None)["features"].shape == (2, 3, 2)


def test_resolve_sequence_refuses_another_length_than_the_patches_have(feature_split):
    with pytest.raises(MeasureError, match=r"measure\.sequence: 16 .*'features' .* 3 "):
        resolve_sequence(feature_split, 16)


def test_resolve_sequence_rounds_the_usual_length_up_to_a_multiple_of_8(make_tokens):
    # 19 rows of 10 tokens and one of 40: the 95th percentile interpolates to 11.5, so 16.
    split = make_tokens(*[[1] * 10] * 19, [1] * 40, labels=[0] * 20)
    assert resolve_sequence(split, None) == 16


def test_resolve_sequence_never_exceeds_the_longest_row(make_tokens):
    split = make_tokens([1] * 9, [1] * 10, labels=[0, 0])
    assert resolve_sequence(split, None) == 10


def test_resolve_sequence_takes_any_length_for_token_ids(token_split):
    assert resolve_sequence(token_split, 512) == 512
