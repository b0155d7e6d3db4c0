"""Number of cores this process may use: its CPU affinity, limited by the CPU quota of its control group.

A container with a quota sees all cores of its host. Threads beyond the quota do not run more: all are stopped
together until the next period begins, which is slower than fewer threads and makes timings erratic.
The quota is read from cgroup version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`) of the process's group
and all groups above it: Linux documentation, cgroup-v2.rst ("CPU") and sched-bwc.rst.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_cores", "quota_cores", "quota_directories", "throttled_seconds"]

_ROOT = Path("/")
_ROUNDING = 1e-6


def available_cores(root: Path = _ROOT) -> int:
    """Number of cores this process may use: those of its affinity, limited by the whole cores of its quota.

    Args:
        root: directory that contains /proc and the mounted cgroups; set by tests.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores(root)
    return cores if quota is None else min(cores, quota)


def quota_cores(root: Path = _ROOT) -> int | None:
    """Whole cores of the smallest CPU quota that applies to this process, at least 1; None if there is none.

    A quota of 1.5 cores counts as 1: of two busy threads, each would be stopped for a quarter of the time.
    """
    quotas = [quota for directory in quota_directories(root) if (quota := _quota(directory)) is not None]
    return max(1, math.floor(min(quotas) + _ROUNDING)) if quotas else None


def throttled_seconds(root: Path = _ROOT, directories: list[Path] | None = None) -> float:
    """Total time this process's group and those above it were throttled, since they exist.

    Args:
        directories: from `quota_directories`, if the caller has them.
    """
    total = 0.0
    for directory in quota_directories(root) if directories is None else directories:
        counts = dict(re.findall(r"^(\w+) (\d+)$", _text(directory / "cpu.stat"), re.MULTILINE))
        if counts.get("nr_throttled", "0") != "0":
            # Microseconds in version 2, nanoseconds in version 1.
            total += int(counts.get("throttled_usec", 0)) / 1e6 + int(counts.get("throttled_time", 0)) / 1e9
    return total


def quota_directories(root: Path = _ROOT) -> list[Path]:
    """Directories of this process's control groups that may have a CPU quota, each with its ancestors."""
    paths = dict(_own_groups(_text(root / "proc/self/cgroup")))
    found: list[Path] = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not dash or len(fields) < 5 or len(kind) < 3:
            continue
        version = {"cgroup2": 2, "cgroup": 1}.get(kind[0])
        if version is None or version not in paths or (version == 1 and "cpu" not in kind[2].split(",")):
            continue
        mount = root / _unescaped(fields[4]).lstrip("/")
        own = mount / _below(paths[version], _unescaped(fields[3]))
        if not own.is_dir():  # a path outside of what this container sees
            own = mount
        found += [each for each in (own, *own.parents) if each == mount or mount in each.parents]
    return list(dict.fromkeys(found))


def _own_groups(text: str) -> Iterator[tuple[int, str]]:
    """(cgroup version, path of this process), from lines like `4:cpu,cpuacct:/a`."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon and number == "0" and not controllers:
            yield 2, path
        elif colon and "cpu" in controllers.split(","):
            yield 1, path


def _below(path: str, mounted: str) -> str:
    """A group's path relative to the mounted one; empty if it is outside."""
    mounted = mounted.rstrip("/")
    if ".." in path.split("/") or not (path == mounted or path.startswith(f"{mounted}/")):
        return ""
    return path[len(mounted) :].lstrip("/")


def _quota(directory: Path) -> float | None:
    """Cores that a group may use on average; None if it has no quota."""
    found = re.match(r"(\d+) (\d+)", _text(directory / "cpu.max"))
    if found is not None:
        quota, period = map(int, found.groups())
    else:
        try:
            quota = int(_text(directory / "cpu.cfs_quota_us"))
            period = int(_text(directory / "cpu.cfs_period_us"))
        except ValueError:  # there is no such file
            return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    """Text of a small file; empty if it does not exist or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    """Undo mountinfo's octal escapes: `\\040` is a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), text)
