"""Answers row by row as short text: there and back, and what is no such text is refused."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from compress.measure.answers import pack_answers, unpack_answers


@pytest.mark.parametrize("classes", [[], [0], [0, 1, 1, 0, 2], [0, 65_536, 2**31]])
def test_packing_is_undone(classes):
    given = np.array(classes, dtype=np.int64)
    found = unpack_answers(pack_answers(given))
    assert found.dtype == np.int64 and np.array_equal(found, given)


@pytest.mark.parametrize("shape", [(0,), (5,), (5, 1), (5, 3)])
def test_floats_keep_their_bits_and_shape(shape):
    given = np.random.default_rng(0).normal(0, 1, shape)
    found = unpack_answers(pack_answers(given))
    assert found.dtype == np.float64 and found.shape == given.shape and np.array_equal(found, given)


def test_a_thousand_answers_are_a_few_hundred_letters():
    draw = np.random.default_rng(0)
    assert len(pack_answers(draw.integers(0, 2, 1000))) < 400


@pytest.mark.parametrize(
    "text",
    [
        "no base64!",
        base64.b64encode(b"not deflated").decode(),
        pack_answers(np.arange(500))[:40],
        base64.b64encode(zlib.compress(b"\0\0\0")).decode(),
        "float64:" + base64.b64encode(zlib.compress(b"\0" * 12)).decode(),
        "float64[0]:" + base64.b64encode(zlib.compress(b"\0" * 8)).decode(),
        "float64[3]:" + base64.b64encode(zlib.compress(b"\0" * 16)).decode(),
    ],
)
def test_other_text_is_refused(text):
    with pytest.raises(ValueError):
        unpack_answers(text)


def test_a_short_text_that_unpacks_to_very_much_is_refused(monkeypatch):
    import compress.measure.answers as module

    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    with pytest.raises(ValueError):
        unpack_answers(pack_answers(np.zeros(10_000, dtype=np.int64)))
