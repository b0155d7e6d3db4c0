"""Latency of two ONNX files timed in turns, so that their ratio survives a machine whose speed drifts.

Each round times one file for a while, then the other; who goes first alternates. The speedup is the median
over rounds of the ratio of that round's medians, and its interval a bootstrap of that median.

The interval covers what differs from round to round within this run, and nothing else: not another day, not
another machine, not the choice of rows. Rounds are few, so it is a little narrow: for independent rounds it
holds the true ratio in 94 % of runs with 5 rounds, 88 % with 7, 96 % with 9, but in only 75 % with 3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from compress.alone import alone
from compress.data.split import Batch
from compress.measure.results import Latency, LatencyComparison
from compress.measure.session import Session, answer, feeds

__all__ = [
    "Round",
    "compare_latency",
    "median_interval",
    "medians_in_turns",
    "rounds_in_turns",
    "summarize",
    "time_in_turns",
]

_MIN_CALLS = 3
_RESAMPLES = 4000
_NS_PER_MS = 1e6
_MS_PER_S = 1e3

Clock = Callable[[], int]
"""Nanoseconds since some fixed moment."""


@dataclass(frozen=True)
class Round:
    """Times of each call in one round, in ms."""

    baseline_ms: tuple[float, ...]
    candidate_ms: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median time of the baseline / median time of the candidate."""
        return float(np.median(self.baseline_ms) / np.median(self.candidate_ms))


def compare_latency(
    baseline: Session,
    candidate: Session,
    batch: Batch,
    *,
    sequence: int,
    threads: int,
    rounds: int,
    seconds: float,
    seed: int = 0,
    on_round: Callable[[Round], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> LatencyComparison:
    """Time two open ONNX files on one batch.

    Args:
        baseline: the file that the speedup is relative to.
        candidate: the other one.
        batch: real rows without padding; each session takes the inputs that it has.
        sequence: tokens a row of `batch`, for the result.
        threads: what the sessions were opened with, for the result.
        rounds: how often each is timed.
        seconds: at least so long each time, and at least 3 calls.
        seed: of the bootstrap.
        on_round: told of each round when it is done.
        clock: nanoseconds; a test gives its own.

    Raises:
        MeasureError: if ONNX Runtime fails on this batch.
    """
    baseline_feeds, candidate_feeds = feeds(batch, baseline), feeds(batch, candidate)
    rows = len(next(iter(batch.values())))
    for session in (baseline, candidate):
        answer(session, batch)  # a batch that a file refuses is refused in words, before a clock runs
    timed = time_in_turns(
        lambda: baseline.run(None, baseline_feeds),
        lambda: candidate.run(None, candidate_feeds),
        rounds=rounds,
        seconds=seconds,
        on_round=on_round,
        clock=clock,
    )
    return summarize(timed, batch=rows, sequence=sequence, threads=threads, seed=seed)


def time_in_turns(
    baseline: Callable[[], object],
    candidate: Callable[[], object],
    *,
    rounds: int,
    seconds: float,
    on_round: Callable[[Round], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> list[Round]:
    """Call two functions for `seconds` each in every round; both are first warmed up for as long, untimed."""
    timed = []
    with alone():
        _time_for(baseline, seconds, clock)
        _time_for(candidate, seconds, clock)
        for index in range(rounds):
            if index % 2 == 0:
                first = _time_for(baseline, seconds, clock)
                this = Round(first, _time_for(candidate, seconds, clock))
            else:
                first = _time_for(candidate, seconds, clock)
                this = Round(_time_for(baseline, seconds, clock), first)
            timed.append(this)
            if on_round is not None:
                on_round(this)
    return timed


def medians_in_turns(
    calls: Sequence[Callable[[], object]],
    *,
    rounds: int,
    seconds: float,
    on_round: Callable[[], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> list[float]:
    """Call many functions as `rounds_in_turns` does.

    Returns:
        For each, the median over rounds of its median, in ms.
    """
    timed = rounds_in_turns(calls, rounds=rounds, seconds=seconds, on_round=on_round, clock=clock)
    return [float(np.median(found)) for found in timed]


def rounds_in_turns(
    calls: Sequence[Callable[[], object]],
    *,
    rounds: int,
    seconds: float,
    on_round: Callable[[], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> list[list[float]]:
    """Call many functions for `seconds` each in every round; one round before is a warm-up, untimed.

    Returns:
        For each, its median in each round, in ms.
    """
    medians: list[list[float]] = [[] for _ in calls]
    with alone():
        for index in range(rounds + 1):
            for call, found in zip(calls, medians, strict=True):
                median = float(np.median(_time_for(call, seconds, clock)))
                if index > 0:
                    found.append(median)
            if on_round is not None:
                on_round()
    return medians


def _time_for(call: Callable[[], object], seconds: float, clock: Clock) -> tuple[float, ...]:
    """Time single calls in ms until `seconds` are over and 3 calls are made."""
    times: list[float] = []
    now = clock()
    end = now + int(seconds * 1e9)
    while now < end or len(times) < _MIN_CALLS:
        begin = clock()
        call()
        now = clock()
        # A call within one tick would make a ratio infinite; a tick is 1 ns.
        times.append(max(now - begin, 1) / _NS_PER_MS)
    return tuple(times)


def summarize(
    timed: Sequence[Round], *, batch: int, sequence: int, threads: int, seed: int = 0
) -> LatencyComparison:
    """Turn times into the figures of a report."""
    ratios = [this.ratio for this in timed]
    low, high = median_interval(ratios, seed=seed)
    return LatencyComparison(
        batch=batch,
        sequence=sequence,
        threads=threads,
        baseline=_latency([t for this in timed for t in this.baseline_ms], batch),
        candidate=_latency([t for this in timed for t in this.candidate_ms], batch),
        speedup=float(np.median(ratios)),
        speedup_low=low,
        speedup_high=high,
        rounds=len(timed),
    )


def median_interval(values: Sequence[float], *, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap of the median; of one value, that value."""
    given = np.asarray(values, dtype=np.float64)
    picked = np.random.default_rng(seed).integers(len(given), size=(_RESAMPLES, len(given)))
    medians = np.median(given[picked], axis=1)  # [resamples]
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def _latency(times_ms: Sequence[float], batch: int) -> Latency:
    p05_ms, p25_ms, p50_ms, p75_ms, p95_ms = map(float, np.quantile(times_ms, (0.05, 0.25, 0.5, 0.75, 0.95)))
    return Latency(
        p05_ms=p05_ms,
        p25_ms=p25_ms,
        p50_ms=p50_ms,
        p75_ms=p75_ms,
        p95_ms=p95_ms,
        mean_ms=float(np.mean(times_ms)),
        throughput_per_s=batch * _MS_PER_S / p50_ms,
        calls=len(times_ms),
    )
