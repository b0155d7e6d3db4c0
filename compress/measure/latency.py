"""Latency of two ONNX files timed in turns, so that drifting machine speed does not bias their ratio.

Each round times one file for a while, then the other; the order alternates. The speedup is the median over
rounds of the ratio of that round's medians, with a bootstrap interval of that median.

The interval covers only variation between rounds of this run: not another day, another machine, or the choice
of rows. With few rounds it is somewhat narrow: for independent rounds it covers the true ratio in 94 % of
runs with 5 rounds, 88 % with 7, 96 % with 9, but only 75 % with 3.

Other load on the machine is monitored per round. Disturbed rounds are repeated: at most as many extra rounds
as were requested, and for at most a minute. If there are still too few quiet rounds, the least disturbed ones
count too, and the result says how many. The choice of rounds never depends on their times, so it favours
neither file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from compress.data.split import Batch
from compress.measure.process.monitor import Disturbance, Load, LoadMonitor, disturbance_of
from compress.measure.results import Latency, LatencyComparison
from compress.measure.runtimes.session import Session, answer, feeds
from compress.system.exclusive import alone
from compress.timing import Setting

__all__ = [
    "Round",
    "Rounds",
    "Turns",
    "compare_latency",
    "median_interval",
    "rounds_in_turns",
    "summarize",
    "time_in_turns",
]

_MIN_CALLS = 3
_RESAMPLES = 4000
_NS_PER_MS = 1e6
_NS_PER_S = 1e9
_MS_PER_S = 1e3
_MOST_AGAIN_S = 60  # for repeating rounds

T = TypeVar("T")

Clock = Callable[[], int]
"""Returns nanoseconds since a fixed moment."""


@dataclass(frozen=True)
class Rounds:
    """How functions are timed in turns.

    Attributes:
        count: timed rounds.
        seconds: minimum duration per function and round; at least 3 calls.
        seed: of the bootstrap.
        clock: returns nanoseconds; replaceable in tests.
        monitor: other load on the machine; replaceable in tests; None: this machine's.
    """

    count: int
    seconds: float
    seed: int = 0
    clock: Clock = time.perf_counter_ns
    monitor: LoadMonitor | None = None


@dataclass(frozen=True)
class Round:
    """Times of each call in one round, in ms.

    Attributes:
        number: index among all timed rounds.
        load: other load during the round.
    """

    baseline_ms: tuple[float, ...]
    candidate_ms: tuple[float, ...]
    number: int = 0
    load: Load = Load()

    @property
    def ratio(self) -> float:
        """Median baseline time / median candidate time."""
        return float(np.median(self.baseline_ms) / np.median(self.candidate_ms))


@dataclass(frozen=True)
class Turns:
    """Functions that were timed in turns.

    Attributes:
        rounds_ms: for each function, its median in each round that counts.
    """

    rounds_ms: tuple[tuple[float, ...], ...]
    disturbance: Disturbance

    @property
    def medians_ms(self) -> list[float]:
        """For each function, the median over rounds."""
        return [float(np.median(found)) for found in self.rounds_ms]


def compare_latency(
    baseline: Session,
    candidate: Session,
    batch: Batch,
    setting: Setting,
    rounds: Rounds,
    *,
    on_round: Callable[[Round], None] | None = None,
) -> LatencyComparison:
    """Time two open ONNX files on one batch.

    Args:
        baseline: the reference of the speedup.
        candidate: the other file.
        batch: real rows without padding; each session takes the inputs that it needs.
        setting: of the batch and the sessions, for the result.
        on_round: called with each round that counts.

    Raises:
        MeasureError: if ONNX Runtime fails on this batch.
    """
    baseline_feeds, candidate_feeds = feeds(batch, baseline), feeds(batch, candidate)
    for session in (baseline, candidate):
        answer(session, batch)  # reports a refused batch with a clear message before timing starts
    timed = time_in_turns(
        lambda: baseline.run(None, baseline_feeds),
        lambda: candidate.run(None, candidate_feeds),
        rounds,
        on_round=on_round,
    )
    return summarize(timed, setting, seed=rounds.seed)


def time_in_turns(
    baseline: Callable[[], object],
    candidate: Callable[[], object],
    rounds: Rounds,
    *,
    on_round: Callable[[Round], None] | None = None,
) -> list[Round]:
    """Call two functions in every round, after an untimed warm-up of the same length.

    Args:
        on_round: called with each round as soon as it is known to count.

    Returns:
        The requested number of rounds, in the order in which they were timed.
    """

    def timed(number: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if number % 2 == 0:
            first = _time_for(baseline, rounds)
            return first, _time_for(candidate, rounds)
        first = _time_for(candidate, rounds)
        return _time_for(baseline, rounds), first

    def round_of(this: _Timed[tuple[tuple[float, ...], tuple[float, ...]]]) -> Round:
        return Round(*this.found, number=this.number, load=this.load)

    with alone():
        monitor = rounds.monitor or LoadMonitor()
        _time_for(baseline, rounds)
        _time_for(candidate, rounds)
        found = _mostly_quiet(
            timed, rounds, monitor, lambda this: None if on_round is None else on_round(round_of(this))
        )
    return [round_of(this) for this in found]


def rounds_in_turns(
    calls: Sequence[Callable[[], object]],
    rounds: Rounds,
    *,
    on_round: Callable[[], None] | None = None,
) -> Turns:
    """Call several functions in every round, reversing the order every other round.

    An untimed warm-up round comes first.

    Args:
        on_round: called after the warm-up and for each round that counts.
    """

    def timed(number: int) -> list[float]:
        order = range(len(calls)) if number % 2 == 0 else range(len(calls) - 1, -1, -1)
        medians = {index: float(np.median(_time_for(calls[index], rounds))) for index in order}
        return [medians[index] for index in range(len(calls))]

    def advance(this: object = None) -> None:
        if on_round is not None:
            on_round()

    with alone():
        monitor = rounds.monitor or LoadMonitor()
        timed(0)
        advance()
        found = _mostly_quiet(timed, rounds, monitor, advance)
    return Turns(
        tuple(tuple(this.found[index] for this in found) for index in range(len(calls))),
        disturbance_of([this.load for this in found]),
    )


@dataclass(frozen=True)
class _Timed(Generic[T]):
    """A round: its index among all timed rounds, its result, and the other load during it."""

    number: int
    found: T
    load: Load


def _mostly_quiet(
    timed: Callable[[int], T],
    rounds: Rounds,
    monitor: LoadMonitor,
    on_round: Callable[[_Timed[T]], None],
) -> list[_Timed[T]]:
    """Time rounds until enough are quiet, within limits; fill up with the least disturbed ones."""
    monitor.look()  # exclude the warm-up from the first round's load
    quiet: list[_Timed[T]] = []
    disturbed: list[_Timed[T]] = []
    again_since = 0
    for number in range(2 * rounds.count):
        if number == rounds.count:
            again_since = rounds.clock()
        if number > rounds.count and rounds.clock() - again_since > _MOST_AGAIN_S * _NS_PER_S:
            break
        found = timed(number)
        this = _Timed(number, found, monitor.look())
        if this.load.is_disturbed:
            disturbed.append(this)
            continue
        quiet.append(this)
        on_round(this)
        if len(quiet) == rounds.count:
            break
    disturbed.sort(key=lambda this: (this.load.is_throttled, this.load.used_by_others))
    for this in disturbed[: rounds.count - len(quiet)]:
        quiet.append(this)
        on_round(this)
    return sorted(quiet, key=lambda this: this.number)


def _time_for(call: Callable[[], object], rounds: Rounds) -> tuple[float, ...]:
    """Time single calls in ms for the duration of a round, at least 3 calls."""
    times: list[float] = []
    clock = rounds.clock
    now = clock()
    end = now + int(rounds.seconds * _NS_PER_S)
    while now < end or len(times) < _MIN_CALLS:
        begin = clock()
        call()
        now = clock()
        # A call within one clock tick would make a ratio infinite; a tick is 1 ns.
        times.append(max(now - begin, 1) / _NS_PER_MS)
    return tuple(times)


def summarize(timed: Sequence[Round], setting: Setting, *, seed: int = 0) -> LatencyComparison:
    """Compute a report's figures from the timed rounds."""
    ratios = [this.ratio for this in timed]
    low, high = median_interval(ratios, seed=seed)
    disturbance = disturbance_of([this.load for this in timed])
    return LatencyComparison(
        **setting.model_dump(),
        baseline=_latency([t for this in timed for t in this.baseline_ms], setting.batch),
        candidate=_latency([t for this in timed for t in this.candidate_ms], setting.batch),
        speedup=float(np.median(ratios)),
        speedup_low=low,
        speedup_high=high,
        rounds=len(timed),
        disturbed_rounds=disturbance.rounds,
        throttled_rounds=disturbance.throttled,
        used_by_others=disturbance.used_by_others,
    )


def median_interval(values: Sequence[float], *, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the median; for one value, that value."""
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
