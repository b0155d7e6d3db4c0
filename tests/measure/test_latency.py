from __future__ import annotations

import numpy as np
import pytest

from compress.errors import MeasureError
from compress.measure import create_session
from compress.measure.latency import Round, compare_latency, median_interval, summarize, time_in_turns

MS = 1_000_000  # ns


class Machine:
    """A clock that only moves when work is done, on a machine whose speed may drift."""

    def __init__(self, drift=lambda now: 1.0):
        self.now = 0
        self.drift = drift
        self.calls: list[str] = []

    def clock(self) -> int:
        return self.now

    def work(self, name: str, ms: float):
        def call() -> None:
            self.calls.append(name)
            self.now += int(ms * MS * self.drift(self.now))

        return call


class FakeSession:
    """Answers zeros after a planted time."""

    def __init__(self, work):
        self.work = work

    def get_inputs(self):
        return [type("Value", (), {"name": "x"})()]

    def get_outputs(self):
        return [type("Value", (), {"name": "logits"})()]

    def run(self, output_names, input_feed):
        self.work()
        return [np.zeros((len(input_feed["x"]), 2), dtype=np.float32)]


def test_compare_latency_finds_a_planted_factor_of_three():
    machine = Machine()
    found = compare_latency(
        FakeSession(machine.work("baseline", 6)),
        FakeSession(machine.work("candidate", 2)),
        {"x": np.zeros((4, 7))},
        sequence=7,
        threads=1,
        rounds=5,
        seconds=0.03,
        clock=machine.clock,
    )
    assert (found.speedup, found.speedup_low, found.speedup_high) == (3.0, 3.0, 3.0)
    assert (found.batch, found.sequence, found.threads, found.rounds) == (4, 7, 1, 5)
    assert (found.baseline.p50_ms, found.candidate.p50_ms, found.candidate.p95_ms) == (6.0, 2.0, 2.0)
    assert found.candidate.throughput_per_s == 2000.0  # 4 rows in 2 ms
    # 0.03 s hold 5 calls of 6 ms and 15 of 2 ms, in each of 5 rounds.
    assert (found.baseline.calls, found.candidate.calls) == (25, 75)


def test_speedup_survives_a_machine_that_gets_three_times_slower_on_the_way():
    # Within a round both see nearly the same speed, so the ratio holds although the times do not.
    machine = Machine(drift=lambda now: 1 + 2 * min(now / (600 * MS), 1))
    timed = time_in_turns(
        machine.work("baseline", 2),
        machine.work("candidate", 1),
        rounds=9,
        seconds=0.02,
        clock=machine.clock,
    )
    found = summarize(timed, batch=1, sequence=1, threads=1)
    # 20 ms of drift at 2/600 ms stand between the two: at most 7 % a round, and turns alternate around 0.
    assert found.speedup == pytest.approx(2.0, rel=0.07)
    assert found.speedup_low <= 2.0 <= found.speedup_high
    assert max(timed[-1].baseline_ms) > 1.5 * min(timed[0].baseline_ms)


def test_time_in_turns_warms_both_up_and_alternates_who_goes_first():
    machine = Machine()
    time_in_turns(machine.work("b", 5), machine.work("c", 5), rounds=3, seconds=0.001, clock=machine.clock)
    # 3 calls each time, although the first already outlasts 1 ms.
    assert "".join(machine.calls) == "bbbccc" + "bbbccc" + "cccbbb" + "bbbccc"


def test_time_in_turns_reports_each_round():
    machine = Machine()
    seen: list[Round] = []
    timed = time_in_turns(
        machine.work("b", 4),
        machine.work("c", 2),
        rounds=2,
        seconds=0.001,
        on_round=seen.append,
        clock=machine.clock,
    )
    assert seen == timed
    assert [this.ratio for this in seen] == [2.0, 2.0]


def test_a_round_compares_medians_so_that_one_hiccup_does_not_count():
    assert Round((2.0, 2.0, 50.0), (1.0, 1.0, 1.0)).ratio == 2.0


def test_speedup_is_the_median_of_rounds_so_that_one_bad_round_does_not_count():
    rounds = [Round((2.0,) * 3, (1.0,) * 3)] * 4 + [Round((2.0,) * 3, (20.0,) * 3)]
    assert summarize(rounds, batch=1, sequence=1, threads=1).speedup == 2.0


def test_median_interval_is_seeded_and_brackets_the_median():
    values = [1.8, 2.2, 1.9, 2.0, 2.1]
    assert median_interval(values, seed=3) == median_interval(values, seed=3)
    # Of 5 values the resampled median is the smallest one in 5.8 % of cases, more than 2.5 %: the ends are
    # the smallest and the largest value.
    assert median_interval(values, seed=3) == (1.8, 2.2)


def test_median_interval_of_five_rounds_covers_the_truth_in_94_of_100_runs():
    draws = np.random.default_rng(1).normal(2.0, 0.1, size=(400, 5))
    held = sum(low <= 2.0 <= high for low, high in (median_interval(row, seed=0) for row in draws))
    # Smallest to largest of 5 holds the median with 1 - 2 / 2^5 = 93.75 %; 400 runs err by 1.2 points.
    assert held / 400 == pytest.approx(0.9375, abs=0.03)


def test_compare_latency_says_in_words_that_a_model_refuses_the_shape(feature_model):
    session = create_session(feature_model(), threads=1)
    batch = {"features": np.zeros((1, 5, 2), dtype=np.float32)}
    with pytest.raises(MeasureError, match=r"fails on features \[1, 5, 2\]"):
        compare_latency(session, session, batch, sequence=5, threads=1, rounds=1, seconds=0.001)
