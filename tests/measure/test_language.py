"""Losses of rows, perplexity with its interval over rows, and the time of one more token."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from compress.data.split import Split
from compress.errors import MeasureError
from compress.measure.accuracy import accuracy, accuracy_difference, mean_interval
from compress.measure.language import RowLosses, cache_bytes_per_token, compare_decoding, compare_losses
from compress.task import LABELS_KEY, InputSpec

IDS = InputSpec("input_ids", "int64", ("sequence_length",))


def _split(rows: int, length: int, *, label_bytes: int | None = None) -> Split:
    ids = np.arange(rows * length).reshape(rows, length) % 5
    sizes = None if label_bytes is None else np.full(rows, label_bytes)
    return Split("test", tuple({"input_ids": row} for row in ids), ids, (IDS,), label_bytes=sizes)


def _losses(values: list[list[float]]) -> RowLosses:
    """Rows whose tokens have these losses: two classes, the right one (0) with that much log-odds."""
    found = RowLosses()
    for row in values:
        odds = np.log(np.expm1(np.array(row)))  # -log p = loss: the other class is ahead by this
        logits = np.stack([np.zeros(len(row)), odds], axis=-1).astype(np.float32)
        found.add(logits, {LABELS_KEY: np.zeros((1, len(row)), dtype=np.int64)})
    return found


def test_a_row_has_the_mean_loss_of_its_tokens() -> None:
    np.testing.assert_allclose(_losses([[1.0, 3.0], [0.5, 0.5]]).values, [2.0, 0.5], rtol=1e-6)


def test_huge_logits_don_t_overflow() -> None:
    found = RowLosses()
    found.add(np.array([[1e4, 0.0], [0.0, 1e4]], np.float32), {LABELS_KEY: np.array([[0, 0]])})
    assert found.values.tolist() == [5000.0]


def test_perplexity_and_bits_per_byte_are_of_the_same_loss() -> None:
    before, after = _losses([[1.0, 1.0]] * 4), _losses([[1.1, 1.1], [1.3, 1.3], [1.1, 1.1], [1.3, 1.3]])
    found = compare_losses(before, after, _split(4, 2, label_bytes=3), (64, 32), ())
    assert found.baseline.perplexity == pytest.approx(math.e) and found.tokens == 8
    assert found.baseline.bits_per_byte == pytest.approx(8 / 12 / math.log(2))
    assert found.perplexity_ratio.value == pytest.approx(math.exp(0.2))
    low, high = mean_interval(np.array([0.1, 0.3, 0.1, 0.3]))
    assert found.perplexity_ratio.low == pytest.approx(math.exp(low))
    assert found.perplexity_ratio.high == pytest.approx(math.exp(high)) and low < 0.2 < high
    assert (found.baseline.cache_bytes_per_token, found.candidate.cache_bytes_per_token) == (64, 32)


def test_unknown_bytes_give_no_bits_per_byte() -> None:
    found = compare_losses(_losses([[1.0]] * 2), _losses([[1.0]] * 2), _split(2, 1), (1, 1), ())
    assert found.baseline.bits_per_byte is None and found.perplexity_ratio.value == 1


def test_tokens_of_a_row_are_not_independent() -> None:
    # One of ten rows is wrong as a whole: as one of ten, not as fifty of five hundred.
    labels = np.zeros(500, dtype=np.int64)
    wrong = np.repeat(np.arange(10) == 0, 50).astype(np.int64)
    by_row = accuracy_difference(labels, wrong, labels, positions=50)
    by_token = accuracy_difference(labels, wrong, labels)
    assert by_row.value == by_token.value == -0.1 and by_row.unit == "token"
    assert by_row.low < by_token.low - 0.1 and by_row.high > by_token.high
    one = accuracy(wrong, wrong, labels, positions=50)
    assert (one.correct, one.rows, one.units, one.unit) == (450, 10, 500, "token") and one.low < 0.75


def test_equal_answers_are_no_proof() -> None:
    labels = np.zeros(40, dtype=np.int64)
    same = accuracy_difference(labels, labels, labels, positions=10)
    assert same.low < 0 < same.high


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
        one, other, prompt, threads=1, rounds=2, seconds=1e-6, seed=0, clock=lambda: next(ticks)
    )
    assert (found.batch, found.sequence, found.rounds) == (2, 6, 2)
    first, *rest = one.seen
    assert first["input_ids"] == (2, 5) and first["past_key_values.0.key"] == (2, 2, 0, 4)
    assert {each["input_ids"] for each in rest} == {(2, 1)}
    assert {each["past_key_values.0.value"] for each in rest} == {(2, 2, 5, 4)}
    assert cache_bytes_per_token(one) == 2 * 2 * 4 * 4


def test_a_prompt_that_is_refused_is_refused_in_words() -> None:
    class Refuses(_Decoder):
        def run(self, names: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            raise RuntimeError("no")

    prompt = {"input_ids": np.ones((1, 6), np.int64)}
    with pytest.raises(MeasureError, match="ONNX Runtime fails on a prompt of 6 tokens: no"):
        compare_decoding(Refuses(), _Decoder(), prompt, threads=1, rounds=1, seconds=0.1, seed=0)


def test_one_row_bounds_no_perplexity() -> None:
    found = compare_losses(_losses([[1.0]]), _losses([[1.1]]), _split(1, 1), (1, 1), ())
    ratio = found.perplexity_ratio
    assert ratio.low < 1e-6 < 1 < ratio.value < 1e6 < ratio.high < math.inf
