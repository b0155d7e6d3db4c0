"""What ran beside a timing, told from made-up counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from compress.measure.process.monitor import Load, LoadMonitor, Reading, read_counters, wait_until_quiet


def counters(
    seconds: float,
    *,
    own: float = 1.0,
    others: float = 0.0,
    throttled: float = 0.0,
    cores: int = 2,
    last: int = 10**6,
) -> Callable[[], Reading]:
    """Counters read every so many seconds; own and others in cores, others in the first `last` spans only."""

    def readings() -> Iterator[Reading]:
        at = busy = own_s = stopped = 0.0
        number = 0
        while True:
            yield Reading(at, busy, own_s, stopped, cores)
            here = others if number < last else 0.0
            at, own_s, stopped = at + seconds, own_s + own * seconds, stopped + throttled * seconds
            busy += (own + here) * seconds
            number += 1

    return readings().__next__


@pytest.mark.parametrize(
    ("own", "others", "cores", "disturbed"),
    [
        (1.0, 0.0, 2, False),
        (1.0, 0.2, 2, False),  # a tenth of two cores
        (1.0, 0.5, 2, True),
        (1.5, 0.5, 2, True),
        (0.6, 0.4, 1, True),
        (2.0, 24.0, 64, False),  # every thread still has a physical core to itself
        (2.0, 40.0, 64, True),
    ],
)
def test_other_work_disturbs_where_it_takes_cores_that_are_wanted(
    own: float, others: float, cores: int, disturbed: bool
) -> None:
    load = LoadMonitor(counters(0.5, own=own, others=others, cores=cores)).look()
    assert load.used_by_others == pytest.approx(others / cores)
    assert (load.is_disturbed, load.is_throttled) == (disturbed, False)


def test_a_process_that_its_quota_stops_is_disturbed() -> None:
    assert not LoadMonitor(counters(0.5, throttled=0.01)).look().is_disturbed
    load = LoadMonitor(counters(0.5, throttled=0.3)).look()
    assert load.throttled == pytest.approx(0.3)
    assert load.is_throttled and load.is_disturbed


def test_short_rounds_are_judged_by_the_last_quarter_of_a_second() -> None:
    # Counters move in steps of 10 ms: after 60 ms they tell nothing.
    watch = LoadMonitor(counters(0.06, others=1.0, last=4))
    loads = [watch.look() for _ in range(10)]
    assert loads[0] == Load()
    assert [load.is_disturbed for load in loads] == [False] + 6 * [True] + 3 * [False]
    assert loads[9].used_by_others == pytest.approx(0.0)


def test_counters_of_this_machine_go_up() -> None:
    read = read_counters()
    first = read()
    sum(range(300_000))
    second = read()
    assert second.cores == first.cores >= 1
    assert second.wall_s > first.wall_s and second.own_s > first.own_s and second.busy_s >= first.busy_s


def test_waiting_for_a_quiet_machine_ends_when_it_is_quiet_or_time_is_up() -> None:
    slept: list[float] = []

    def wait(last: int, threads: int = 1, others: float = 1.0) -> bool:
        slept.clear()
        read = counters(0.5, own=0.0, others=others, last=last)
        return wait_until_quiet(3, threads=threads, counters=read, sleep=slept.append)

    assert wait(3) and sum(slept) == 1.5
    assert not wait(10**6) and sum(slept) == 3
    assert not wait(10**6, others=0.5, threads=2), "it would be disturbed, though now half of it is idle"
