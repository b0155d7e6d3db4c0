"""Load on the machine from other processes while something is timed.

Other load is measured in CPU time: what all processes used of the cores available to this process, less what
this process and its children used. Time that a hypervisor gave to other machines ("steal") counts as other
load. A suspended job uses no CPU time and does not count. /proc is read once per round, which takes less than
a millisecond.

Counters have a resolution of 10 ms, so each reading covers at least the last quarter of a second; periods
shorter than a tenth of a second are not judged.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.system.cores import quota_directories, throttled_seconds

__all__ = [
    "Disturbance",
    "Load",
    "LoadMonitor",
    "Reading",
    "disturbance_of",
    "read_counters",
    "wait_until_quiet",
]

_BUSY = 0.15  # share of the cores; an idle desktop uses less than a tenth
_THROTTLED = 0.02  # share of the time
_WINDOW_S = 0.25
_SHORTEST_S = 0.1
_LOOK_S = 0.5


@dataclass(frozen=True)
class Reading:
    """Counters at one moment, in seconds since a fixed moment.

    Attributes:
        wall_s: wall clock.
        busy_s: CPU time of all processes on these cores, including time stolen by a hypervisor.
        own_s: CPU time of this process and of its finished children.
        throttled_s: time that this process was paused by its container's CPU quota.
        cores: cores that this process may run on, ignoring any quota.
    """

    wall_s: float
    busy_s: float
    own_s: float
    throttled_s: float
    cores: int


Counters = Callable[[], Reading]
"""Reads the current counters; replaceable in tests."""


@dataclass(frozen=True)
class Load:
    """Load on the machine during some period.

    Attributes:
        used_by_others: share of the cores used by other processes, in [0, 1].
        used: share of the cores used in total.
        throttled: share of the time that this process was paused by its container's CPU quota.
    """

    used_by_others: float = 0.0
    used: float = 0.0
    throttled: float = 0.0

    @property
    def is_throttled(self) -> bool:
        """Whether the container's quota paused this process noticeably."""
        return self.throttled > _THROTTLED

    @property
    def is_disturbed(self) -> bool:
        """Whether a time measured during this period does not represent a quiet machine.

        Other load matters little while half of the cores are idle: each thread then has a physical core to
        itself.
        """
        return self.is_throttled or (self.used_by_others > _BUSY and self.used > 0.5)


class LoadMonitor:
    """Monitors the load since the last look, or over the last quarter of a second if that is longer."""

    def __init__(self, counters: Counters | None = None) -> None:
        self._read = read_counters() if counters is None else counters
        self._readings = deque([self._read()])

    def look(self) -> Load:
        """Return the load since the last look; all zeros if the period was too short to judge."""
        now = self._read()
        while len(self._readings) > 1 and now.wall_s - self._readings[1].wall_s >= _WINDOW_S:
            self._readings.popleft()
        then = self._readings[0]
        self._readings.append(now)
        seconds = now.wall_s - then.wall_s
        if seconds < _SHORTEST_S:
            return Load()
        room = seconds * now.cores
        busy = (now.busy_s - then.busy_s) / room
        others = busy - (now.own_s - then.own_s) / room
        return Load(
            used_by_others=max(others, 0.0),
            used=busy,
            throttled=max((now.throttled_s - then.throttled_s) / seconds, 0.0),
        )


def read_counters(root: Path = Path("/")) -> Counters:
    """Return a reader of this machine's counters; cgroups are searched below `root`."""
    import psutil

    groups = quota_directories(root)
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def read() -> Reading:
        each = psutil.cpu_times(percpu=True)
        mine = [each[index] for index in allowed if index < len(each)] or each
        ours = os.times()
        return Reading(
            wall_s=time.perf_counter(),
            busy_s=sum(map(_busy_s, mine)),
            own_s=time.process_time() + ours.children_user + ours.children_system,
            throttled_s=throttled_seconds(directories=groups) if groups else 0.0,
            cores=len(mine),
        )

    return read


def _busy_s(times: Any) -> float:
    """Busy time of one core; on Linux `user` already includes guest time."""
    names = ("user", "nice", "system", "irq", "softirq", "steal", "interrupt", "dpc")
    return float(sum(getattr(times, name, 0.0) for name in names))


def wait_until_quiet(
    seconds: float,
    *,
    threads: int,
    counters: Counters | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until other load would not disturb timing with `threads` threads; return False on timeout.

    Args:
        seconds: maximum wait, provided that `sleep` really sleeps.
    """
    read = read_counters() if counters is None else counters
    monitor, cores = LoadMonitor(read), read().cores
    for _ in range(math.ceil(seconds / _LOOK_S)):
        sleep(_LOOK_S)
        load = monitor.look()
        if not replace(load, used=load.used_by_others + threads / cores).is_disturbed:
            return True
    return False


@dataclass(frozen=True)
class Disturbance:
    """How much other load, or a CPU quota, disturbed the timed rounds.

    Attributes:
        rounds: disturbed rounds that count, because there were too few quiet ones.
        throttled: of these, rounds in which the container's quota paused this process.
        used_by_others: mean share of the cores used by other processes in the rounds that count.
    """

    rounds: int = 0
    throttled: int = 0
    used_by_others: float = 0.0


def disturbance_of(loads: list[Load]) -> Disturbance:
    """Summarize the loads of the rounds that count."""
    return Disturbance(
        rounds=sum(load.is_disturbed for load in loads),
        throttled=sum(load.is_throttled for load in loads),
        used_by_others=sum(load.used_by_others for load in loads) / max(len(loads), 1),
    )
