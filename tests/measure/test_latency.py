from __future__ import annotations

import numpy as np
import pytest

from compress.errors import MeasureError
from compress.measure import create_session
from compress.measure.latency import (
    Round,
    Rounds,
    compare_latency,
    median_interval,
    rounds_in_turns,
    summarize,
    time_in_turns,
)
from compress.measure.process.monitor import Load
from compress.timing import Setting

MS = 1_000_000  # ns
ONE = Setting(batch=1, sequence=1, threads=1)


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


class PlantedLoad:
    """Returns a planted load at each look, then no load; the first look is before any round."""

    def __init__(self, *shares: float, throttled: float = 0.0):
        self.loads = [Load(), *(Load(share, 0.9, throttled if share else 0.0) for share in shares)]

    def look(self) -> Load:
        return self.loads.pop(0) if self.loads else Load()


def disturbed_run(monitor: PlantedLoad, *, rounds: int = 3, ms: float = 2):
    machine, told = Machine(), []
    timed = time_in_turns(
        machine.work("b", ms),
        machine.work("c", 1),
        Rounds(rounds, 0.001, clock=machine.clock, monitor=monitor),
        on_round=told.append,
    )
    assert sorted(told, key=lambda this: this.number) == timed and len(timed) == rounds
    return summarize(timed, ONE), [this.number for this in timed], machine


def test_rounds_that_other_work_disturbed_are_timed_again():
    found, numbers, machine = disturbed_run(PlantedLoad(0, 0.8, 0, 0))
    assert numbers == [0, 2, 3] and machine.calls.count("b") == 3 + 4 * 3
    assert (found.disturbed_rounds, found.used_by_others) == (0, 0.0)
    assert not found.is_disturbed


def test_on_a_machine_that_stays_busy_the_least_disturbed_of_twice_as_many_rounds_count():
    found, numbers, machine = disturbed_run(PlantedLoad(0.9, 0.5, 0, 0.8, 0.6, 0.7))
    assert numbers == [1, 2, 4] and machine.calls.count("b") == 3 + 6 * 3
    assert (found.disturbed_rounds, found.throttled_rounds) == (2, 0)
    assert found.used_by_others == pytest.approx((0.5 + 0 + 0.6) / 3)
    assert found.is_disturbed


def test_a_quota_that_stops_the_process_is_told_apart():
    found, _, _ = disturbed_run(PlantedLoad(*[0.01] * 6, throttled=0.3))
    assert (found.disturbed_rounds, found.throttled_rounds) == (3, 3)


def test_rounds_are_timed_again_for_about_a_minute_at_most():
    # A round takes 3 * 15 s and a little: the second that is timed again ends after 90 s.
    assert disturbed_run(PlantedLoad(*[0.5] * 4), ms=15_000)[1] == [0, 1, 4]
    found, numbers, machine = disturbed_run(PlantedLoad(*[0.5] * 5), ms=15_000)  # a sixth would be quiet
    assert found.disturbed_rounds == 3 and numbers == [0, 1, 2] and machine.calls.count("b") == 3 + 5 * 3


def test_functions_in_turns_go_there_and_back_and_disturbed_rounds_are_repeated():
    machine = Machine()
    calls = [machine.work(name, ms) for name, ms in (("a", 1), ("b", 2), ("c", 3))]
    ticks = []
    found = rounds_in_turns(
        calls,
        Rounds(2, 0, clock=machine.clock, monitor=PlantedLoad(0.7, 0, 0)),
        on_round=lambda: ticks.append(1),
    )
    # The warm-up, a disturbed round, one back and one there.
    assert "".join(machine.calls[::3]) == "abc" + "abc" + "cba" + "abc"
    assert found.rounds_ms == ((1.0, 1.0), (2.0, 2.0), (3.0, 3.0)) and found.medians_ms == [1.0, 2.0, 3.0]
    assert (found.disturbance.rounds, len(ticks)) == (0, 3)


def test_compare_latency_finds_a_planted_factor_of_three():
    machine = Machine()
    found = compare_latency(
        FakeSession(machine.work("baseline", 6)),
        FakeSession(machine.work("candidate", 2)),
        {"x": np.zeros((4, 7))},
        Setting(batch=4, sequence=7, threads=1),
        Rounds(5, 0.03, clock=machine.clock),
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
        Rounds(9, 0.02, clock=machine.clock),
    )
    found = summarize(timed, ONE)
    # 20 ms of drift at 2/600 ms stand between the two: at most 7 % a round, and turns alternate around 0.
    assert found.speedup == pytest.approx(2.0, rel=0.07)
    assert found.speedup_low <= 2.0 <= found.speedup_high
    assert max(timed[-1].baseline_ms) > 1.5 * min(timed[0].baseline_ms)


def test_time_in_turns_warms_both_up_and_alternates_who_goes_first():
    machine = Machine()
    time_in_turns(machine.work("b", 5), machine.work("c", 5), Rounds(3, 0.001, clock=machine.clock))
    # 3 calls each time, although the first already outlasts 1 ms.
    assert "".join(machine.calls) == "bbbccc" + "bbbccc" + "cccbbb" + "bbbccc"


def test_time_in_turns_reports_each_round():
    machine = Machine()
    seen: list[Round] = []
    timed = time_in_turns(
        machine.work("b", 4),
        machine.work("c", 2),
        Rounds(2, 0.001, clock=machine.clock),
        on_round=seen.append,
    )
    assert seen == timed
    assert [this.ratio for this in seen] == [2.0, 2.0]


def test_a_round_compares_medians_so_that_one_hiccup_does_not_count():
    assert Round((2.0, 2.0, 50.0), (1.0, 1.0, 1.0)).ratio == 2.0


def test_speedup_is_the_median_of_rounds_so_that_one_bad_round_does_not_count():
    rounds = [Round((2.0,) * 3, (1.0,) * 3)] * 4 + [Round((2.0,) * 3, (20.0,) * 3)]
    assert summarize(rounds, ONE).speedup == 2.0


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


def test_compare_latency_names_the_shape_that_a_model_refuses(feature_model):
    session = create_session(feature_model(), threads=1)
    batch = {"features": np.zeros((1, 5, 2), dtype=np.float32)}
    with pytest.raises(MeasureError, match=r"features \[1, 5, 2\]"):
        compare_latency(session, session, batch, ONE, Rounds(1, 0.001))
