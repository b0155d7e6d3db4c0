"""What is measured of language models beyond the share of right tokens: perplexity, and a token at a time.

Perplexity is exp of the mean loss a token, and tells models of one tokenizer apart; bits per byte is the same
loss by the bytes of text, and compares across tokenizers. Every row is answered on its own, from an empty
past, so that early tokens of a row are guessed with little to go by: figures hold for this row length.
Shapes: n = rows, b = batch, s = positions of a row, v = tokens of the vocabulary, p = tokens before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.past import empty_past, is_past, past_of_present
from compress.data.split import Array, Batch, Split
from compress.errors import MeasureError
from compress.measure.accuracy import mean_interval
from compress.measure.latency import Clock, Round, summarize, time_in_turns
from compress.measure.process.watch import Watch
from compress.measure.results import Interval, Language, LanguageModel, LatencyComparison
from compress.measure.runtimes.session import Session
from compress.task import LABELS_KEY

__all__ = ["RowLosses", "cache_bytes_per_token", "compare_decoding", "compare_losses", "is_decoder"]

_LN2 = math.log(2)
_MOST_HALF = 20.0  # of an interval, in nats a token: one row bounds nothing, and JSON has no infinity


class RowLosses:
    """Collects the mean loss of each row, in nats a token, while `accuracy.predict` answers them in order."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.float64]] = []

    def add(self, logits: Array, batch: Batch) -> None:
        """Take the logits [b s, v] of a batch with its labels [b, s]."""
        labels = batch[LABELS_KEY]
        top = logits.max(axis=-1, keepdims=True)
        total = np.exp(logits - top).sum(axis=-1, dtype=np.float64)
        chosen = np.take_along_axis(logits, labels.reshape(-1, 1), axis=-1)
        losses = np.log(total) - (chosen - top)[:, 0].astype(np.float64)
        self._parts.append(losses.reshape(labels.shape).mean(axis=1))

    @property
    def values(self) -> NDArray[np.float64]:
        """Of all rows, [n]."""
        return np.concatenate(self._parts)


def is_decoder(session: Session) -> bool:
    """Whether an open file keeps the keys and values of tokens before."""
    return any(is_past(value.name) for value in session.get_inputs())


def cache_bytes_per_token(session: Session) -> int:
    """Bytes that one more token of one row adds to the keys and values of a decoder's file."""
    fed = empty_past(session.get_inputs(), 1)
    return sum(array.shape[1] * array.shape[3] * array.itemsize for array in fed.values())


def compare_losses(
    baseline: RowLosses,
    candidate: RowLosses,
    test: Split,
    cache_bytes: tuple[int, int],
    decode: tuple[LatencyComparison, ...],
) -> Language:
    """Sum up two models' losses on the same rows.

    Args:
        cache_bytes: of baseline and candidate, a token.
        decode: their times a token.
    """
    before, after = baseline.values, candidate.values
    tokens = test.answers.size
    text_bytes = None if test.label_bytes is None else int(test.label_bytes.sum())

    def model(losses: NDArray[np.float64], cache: int) -> LanguageModel:
        loss = float(losses.mean())
        return LanguageModel(
            loss=loss,
            perplexity=math.exp(min(loss, 700.0)),
            bits_per_byte=None if not text_bytes else loss * tokens / _LN2 / text_bytes,
            cache_bytes_per_token=cache,
        )

    value = float((after - before).mean())
    low, high = mean_interval(after - before)
    low, high = max(low, value - _MOST_HALF), min(high, value + _MOST_HALF)
    return Language(
        rows=len(test),
        tokens=tokens,
        text_bytes=text_bytes or 0,
        baseline=model(before, cache_bytes[0]),
        candidate=model(after, cache_bytes[1]),
        perplexity_ratio=Interval(value=_exp(value), low=_exp(low), high=_exp(high)),
        decode=decode,
    )


def _exp(value: float) -> float:
    return math.exp(max(min(value, 700.0), -700.0))


def compare_decoding(
    baseline: Session,
    candidate: Session,
    prompt: Batch,
    *,
    threads: int,
    rounds: int,
    seconds: float,
    seed: int,
    on_round: Callable[[Round], None] | None = None,
    clock: Clock | None = None,
    watch: Watch | None = None,
) -> LatencyComparison:
    """Time one more token after a prompt that both have read; the past does not grow while that is timed.

    Args:
        prompt: rows of p tokens without padding; the last of them is the token that is timed.

    Returns:
        Times of a call; `sequence` is p, and the throughput is tokens a second of all rows together.
    """
    calls = [_one_token(session, prompt) for session in (baseline, candidate)]
    rows, length = prompt["input_ids"].shape
    options: dict[str, Any] = {} if clock is None else {"clock": clock}
    timed = time_in_turns(*calls, rounds=rounds, seconds=seconds, on_round=on_round, watch=watch, **options)
    return summarize(timed, batch=rows, sequence=length, threads=threads, seed=seed)


def _one_token(session: Session, prompt: Batch) -> Callable[[], object]:
    ids = prompt["input_ids"]
    names = [value.name for value in session.get_outputs()]
    read = {
        "input_ids": ids[:, :-1],
        "attention_mask": np.ones_like(ids[:, :-1]),
        **empty_past(session.get_inputs(), len(ids)),
    }
    wanted = {value.name for value in session.get_inputs()}
    try:
        outputs = dict(
            zip(names, session.run(None, {k: v for k, v in read.items() if k in wanted}), strict=True)
        )
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise MeasureError(f"ONNX Runtime fails on a prompt of {ids.shape[1]} tokens: {error}") from error
    step = {"input_ids": ids[:, -1:], "attention_mask": np.ones_like(ids), **past_of_present(outputs)}
    feed = {name: array for name, array in step.items() if name in wanted}
    return lambda: session.run(None, feed)
