"""The ladder: each file beside the first and the one before it, on the rows as it reads them."""

from __future__ import annotations

import numpy as np
import pytest

from compress.errors import MeasureError
from compress.measure.ladder import Step, measure_ladder
from compress.measure.latency import Rounds
from compress.progress import Silent
from compress.timing import Setting

from .conftest import TOKENS

# Evidence of each token for class 0 and class 1, [v, c]: the second file takes token 3 for class 0, the third
# takes everything for class 1 and its tokens have other numbers.
WRONG_ON_3 = np.array([[9, 0], [1, 0], [0, 1], [2, 0]], dtype=np.float32)
ALL_ONE = np.array([[0, 1], [0, 1]], dtype=np.float32)


def ladder(steps, **changed):
    setting = Setting(batch=2, sequence=4, threads=1)
    return measure_ladder(steps, setting, Rounds(5, 1e-4), **{"progress": Silent(), **changed})


def test_rungs_by_hand(token_model, token_split, make_tokens):
    smaller = make_tokens([1, 1, 0], [0, 0, 1, 0, 0, 0], [0], [1], labels=token_split.labels.tolist())
    steps = [
        Step("original", token_model("a.onnx"), token_split, TOKENS, stages=0),
        Step("prune/heads", token_model("b.onnx", evidence=WRONG_ON_3), token_split, TOKENS),
        Step("prune/vocabulary", token_model("c.onnx", evidence=ALL_ONE), smaller, TOKENS),
    ]
    first, second, third = ladder(steps)
    # The first answers 0 1 1 0, the second 0 1 0 0, the third 1 1 1 1; right is 0 1 1 1.
    assert [x.name for x in (first, second, third)] == ["original", "prune/heads", "prune/vocabulary"]
    assert [x.accuracy for x in (first, second, third)] == [0.75, 0.5, 0.75]
    assert [x.agreement for x in (first, second, third)] == [1.0, 0.75, 0.5]
    assert [x.change.value for x in (first, second, third)] == [0.0, -0.25, 0.25]
    assert (third.change.gained, third.change.lost, third.change.rows, third.rows) == (2, 1, 4, 4)
    assert [x.stages for x in (first, second, third)] == [0, 1, 1]
    assert first.speedup.value == first.gain.value == 1.0
    assert third.file_bytes == steps[2].onnx.stat().st_size < first.file_bytes
    for rung in (second, third):
        for ratio in (rung.speedup, rung.gain):
            assert 0 < ratio.low <= ratio.value <= ratio.high
    assert second.speedup == second.gain, "the original is the one before it"


def test_many_rows_are_drawn_alike_for_every_file(token_model, make_tokens, monkeypatch):
    import compress.measure.ladder as module

    monkeypatch.setattr(module, "_MOST_ROWS", 10)
    labels = [i % 2 for i in range(40)]
    rows = make_tokens(*[[1 + label] for label in labels], labels=labels)  # all right by the first file
    path = token_model()
    found = ladder([Step("original", path, rows, TOKENS), Step("again", path, rows, TOKENS)])
    assert [rung.rows for rung in found] == [10, 10]
    assert [rung.accuracy for rung in found] == [1.0, 1.0] and found[1].agreement == 1.0


def test_a_file_that_cannot_be_opened_is_an_error(token_model, token_split, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no ONNX")
    with pytest.raises(MeasureError, match=r"broken.onnx"):
        ladder(
            [
                Step("original", token_model(), token_split, TOKENS),
                Step("broken", broken, token_split, TOKENS),
            ]
        )
