"""What else the machine does while something is timed.

Other work is told from our own by CPU time: what all processes took of the cores that this process may run
on, less what this process and its children took. Time that a hypervisor gave to other machines ("steal")
counts as other work. A suspended job takes no CPU time, and so is none. /proc is read once a round, which
takes less than a millisecond.

Counters move in steps of 10 ms, so a look covers at least the last quarter of a second; what has been watched
for less than a tenth is not judged.
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

__all__ = ["Disturbance", "Load", "Reading", "Watch", "disturbance_of", "read_counters", "wait_until_quiet"]

_BUSY = 0.15  # of the cores; a desktop at rest uses less than a tenth
_THROTTLED = 0.02  # of the time
_WINDOW_S = 0.25
_SHORTEST_S = 0.1
_LOOK_S = 0.5


@dataclass(frozen=True)
class Reading:
    """Counters at one moment, in seconds since some fixed moment.

    Attributes:
        wall_s: of a clock.
        busy_s: CPU time of all processes on these cores, with what a hypervisor gave to others.
        own_s: CPU time of this process and of its children that have ended.
        throttled_s: how long this process was stopped for its container's CPU quota.
        cores: that this process may run on, whatever its quota.
    """

    wall_s: float
    busy_s: float
    own_s: float
    throttled_s: float
    cores: int


Counters = Callable[[], Reading]
"""Reads the counters of now; a test gives its own."""


@dataclass(frozen=True)
class Load:
    """What ran beside this process for a while.

    Attributes:
        used_by_others: share of the cores that other work used, in [0, 1].
        used: share of the cores that was used at all.
        throttled: share of the time that this process was stopped for its container's CPU quota.
    """

    used_by_others: float = 0.0
    used: float = 0.0
    throttled: float = 0.0

    @property
    def is_throttled(self) -> bool:
        """Whether the container's quota stopped this process for more than a moment."""
        return self.throttled > _THROTTLED

    @property
    def is_disturbed(self) -> bool:
        """Whether a time that was taken meanwhile says little of a quiet machine.

        Other work on a machine with many cores does little harm while half of them have nothing to do: each
        thread then has a physical core to itself.
        """
        return self.is_throttled or (self.used_by_others > _BUSY and self.used > 0.5)


class Watch:
    """Tells what ran beside this process since the last look, or for the last quarter of a second."""

    def __init__(self, counters: Counters | None = None) -> None:
        self._read = read_counters() if counters is None else counters
        self._readings = deque([self._read()])

    def look(self) -> Load:
        """What ran beside this process; a Load of zeros if the time was too short to tell."""
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
    """What reads this machine's counters; cgroups are looked for below `root`."""
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
    """Of one core; on Linux guests are in `user` already."""
    names = ("user", "nice", "system", "irq", "softirq", "steal", "interrupt", "dpc")
    return float(sum(getattr(times, name, 0.0) for name in names))


def wait_until_quiet(
    seconds: float,
    *,
    threads: int,
    counters: Counters | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until no other work would disturb a timing of so many threads; say whether that came in time.

    Args:
        seconds: at most, if `sleep` sleeps.
    """
    read = read_counters() if counters is None else counters
    watch, cores = Watch(read), read().cores
    for _ in range(math.ceil(seconds / _LOOK_S)):
        sleep(_LOOK_S)
        load = watch.look()
        if not replace(load, used=load.used_by_others + threads / cores).is_disturbed:
            return True
    return False


@dataclass(frozen=True)
class Disturbance:
    """How far other work, or a CPU quota, disturbed rounds that were timed.

    Attributes:
        rounds: that count, although they were disturbed: fewer quiet ones than asked for came.
        throttled: of these, those in which the container's quota stopped this process.
        used_by_others: mean share of the cores that other work used during the rounds that count.
    """

    rounds: int = 0
    throttled: int = 0
    used_by_others: float = 0.0


def disturbance_of(loads: list[Load]) -> Disturbance:
    """Sum up the loads of the rounds that count."""
    return Disturbance(
        rounds=sum(load.is_disturbed for load in loads),
        throttled=sum(load.is_throttled for load in loads),
        used_by_others=sum(load.used_by_others for load in loads) / max(len(loads), 1),
    )
