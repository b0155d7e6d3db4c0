from __future__ import annotations

import math

import numpy as np
import pytest

from compress.errors import MeasureError
from compress.measure import create_session, predict
from compress.measure.accuracy import accuracy
from compress.tasks import Classification

from .conftest import TOKENS


def test_predict_answers_each_row_alone_and_in_order(token_model, token_split):
    seen = []
    predicted = predict(create_session(token_model(), threads=1), token_split, 1, TOKENS, on_rows=seen.append)
    assert predicted.tolist() == [0, 1, 1, 0]
    assert predicted.dtype == np.int64
    assert seen == [1, 2, 3, 4]


def test_predict_in_padded_batches_agrees_where_the_mask_is_respected(token_model, token_split):
    session = create_session(token_model(), threads=1)
    assert predict(session, token_split, 32, TOKENS).tolist() == [0, 1, 1, 0]


def test_accuracy_tells_that_a_model_without_a_mask_depends_on_padding(token_model, token_split):
    session = create_session(token_model(masked=False), threads=1)
    single, batched = predict(session, token_split, 1, TOKENS), predict(session, token_split, 32, TOKENS)
    # Rows 0, 2 and 3 are padded to 6 tokens, and padding shouts for class 0: row 2 turns from 1 to 0.
    assert single.tolist() == [0, 1, 1, 0]
    assert batched.tolist() == [0, 1, 0, 0]
    found = accuracy(single, batched, token_split, TOKENS)
    assert (found.value, found.correct, found.rows) == (0.75, 3, 4)
    assert (found.batched_value, found.batched_size, found.batched_disagreements) == (0.5, 32, 1)


def test_predict_names_the_row_of_a_nan(token_model, token_split):
    evidence = np.array([[0, 0], [1, 0], [0, 1], [math.nan, 0]], dtype=np.float32)
    session = create_session(token_model(evidence=evidence), threads=1)
    with pytest.raises(MeasureError, match="NaN .*row 2 .*test split"):
        predict(session, token_split, 2, TOKENS)


def test_predict_refuses_a_split_without_rows(token_model, make_tokens):
    with pytest.raises(MeasureError, match="test split has no rows"):
        predict(create_session(token_model(), threads=1), make_tokens(labels=[]), 1, TOKENS)


def test_predict_refuses_an_answer_of_another_width(token_model, token_split):
    three = Classification((), ("zero", "one", "two"))
    with pytest.raises(MeasureError, match=r"shape \[1, 2\]"):
        predict(create_session(token_model(), threads=1), token_split, 1, three)
