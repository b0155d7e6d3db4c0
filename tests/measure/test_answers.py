"""Answers row by row as short text: there and back, and what is no such text is refused."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest

from compress.measure.answers import pack_classes, unpack_classes


@pytest.mark.parametrize("classes", [[], [0], [0, 1, 1, 0, 2], [0, 65_536, 2**31]])
def test_packing_is_undone(classes):
    given = np.array(classes, dtype=np.int64)
    found = unpack_classes(pack_classes(given))
    assert found.dtype == np.int64 and np.array_equal(found, given)


def test_a_thousand_answers_are_a_few_hundred_letters():
    draw = np.random.default_rng(0)
    assert len(pack_classes(draw.integers(0, 2, 1000))) < 400


@pytest.mark.parametrize(
    "text",
    [
        "no base64!",
        base64.b64encode(b"not deflated").decode(),
        pack_classes(np.arange(500))[:40],
        base64.b64encode(zlib.compress(b"\0\0\0")).decode(),
    ],
)
def test_other_text_is_refused(text):
    with pytest.raises(ValueError):
        unpack_classes(text)


def test_a_short_text_that_unpacks_to_very_much_is_refused(monkeypatch):
    import compress.measure.answers as module

    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    with pytest.raises(ValueError):
        unpack_classes(pack_classes(np.zeros(10_000, dtype=np.int64)))
