"""Token-by-token decoding: latency of files with a key/value cache, and the size of that cache.

Shapes: b = batch, p = past tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from compress.data.past import empty_past, past_of_present
from compress.data.split import Batch
from compress.errors import MeasureError
from compress.measure.latency import Round, Rounds, summarize, time_in_turns
from compress.measure.results import LatencyComparison
from compress.measure.runtimes.session import Session
from compress.timing import Setting

__all__ = ["cache_bytes_per_token", "compare_decoding"]


def cache_bytes_per_token(session: Session) -> int:
    """Bytes that each token of one row adds to the key/value cache."""
    fed = empty_past(session.get_inputs(), 1)
    return sum(array.shape[1] * array.shape[3] * array.itemsize for array in fed.values())


def compare_decoding(
    baseline: Session,
    candidate: Session,
    prompt: Batch,
    setting: Setting,
    rounds: Rounds,
    *,
    on_round: Callable[[Round], None] | None = None,
) -> LatencyComparison:
    """Time decoding one token after a prompt in both files; the past does not grow while timing.

    Args:
        prompt: rows of p tokens without padding; the last token is the one that is timed.
        setting: of the prompt and the sessions, for the result; its sequence is p.

    Returns:
        Times per call; throughput is tokens per second over all rows.
    """
    before, after = (_one_token(session, prompt) for session in (baseline, candidate))
    return summarize(time_in_turns(before, after, rounds, on_round=on_round), setting, seed=rounds.seed)


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
