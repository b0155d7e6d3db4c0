"""The time of one more token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compress.errors import MeasureError
from compress.measure.decoding import cache_bytes_per_token, compare_decoding
from compress.measure.latency import Rounds
from compress.timing import Setting


class _Value:
    def __init__(self, name: str, shape: list[Any]) -> None:
        self.name, self.shape = name, shape


class _Decoder:
    """Says how many tokens it was given, and remembers them."""

    def __init__(self) -> None:
        self.seen: list[dict[str, tuple[int, ...]]] = []

    def get_inputs(self) -> list[_Value]:
        past = [_Value(f"past_key_values.0.{part}", ["b", 2, "p", 4]) for part in ("key", "value")]
        return [_Value("input_ids", ["b", "s"]), _Value("attention_mask", ["b", "t"]), *past]

    def get_outputs(self) -> list[_Value]:
        names = ("logits", "present.0.key", "present.0.value")
        return [_Value(name, []) for name in names]

    def run(self, names: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.seen.append({name: array.shape for name, array in feed.items()})
        rows, new = feed["input_ids"].shape
        before = feed["past_key_values.0.key"].shape[2]
        assert feed["attention_mask"].shape == (rows, before + new)
        kept = np.zeros((rows, 2, before + new, 4), np.float32)
        return [np.zeros((rows, new, 9), np.float32), kept, kept]


def test_one_more_token_is_timed_behind_the_prompt() -> None:
    ticks = iter(range(0, 10**9, 1000))
    one, other = _Decoder(), _Decoder()
    prompt = {"input_ids": np.ones((2, 6), np.int64), "attention_mask": np.ones((2, 6), np.int64)}
    found = compare_decoding(
        one,
        other,
        prompt,
        Setting(batch=2, sequence=6, threads=1),
        Rounds(2, 1e-6, clock=lambda: next(ticks)),
    )
    assert (found.batch, found.sequence, found.rounds) == (2, 6, 2)
    first, *rest = one.seen
    assert first["input_ids"] == (2, 5) and first["past_key_values.0.key"] == (2, 2, 0, 4)
    assert {each["input_ids"] for each in rest} == {(2, 1)}
    assert {each["past_key_values.0.value"] for each in rest} == {(2, 2, 5, 4)}
    assert cache_bytes_per_token(one) == 2 * 2 * 4 * 4


def test_a_prompt_that_a_file_refuses_is_a_measure_error() -> None:
    class Refuses(_Decoder):
        def run(self, names: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            raise RuntimeError("no")

    prompt = {"input_ids": np.ones((1, 6), np.int64)}
    setting = Setting(batch=1, sequence=6, threads=1)
    with pytest.raises(MeasureError, match="6 tokens.*no"):
        compare_decoding(Refuses(), _Decoder(), prompt, setting, Rounds(1, 0.1))
