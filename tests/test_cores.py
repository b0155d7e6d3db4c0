"""Cores are counted by affinity and by the CPU quota of a made-up tree of control groups."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.system.cores import available_cores, quota_cores, throttled_seconds

V2 = "26 21 0:24 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 31 0:29 {root} {mount} rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"

MakeTree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> MakeTree:
    """Write /proc/self and files of groups below `tmp_path`."""

    def make(mounts: list[str], groups: str, files: dict[str, str]) -> Path:
        for name, text in {
            "proc/self/mountinfo": "21 1 8:1 / / rw - ext4 /dev/sda rw\n" + "\n".join(mounts) + "\n",
            "proc/self/cgroup": groups,
            **files,
        }.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return make


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 1),  # two threads would both be stopped for a quarter of the time
        ("50000 100000\n", 1),
        ("3200000 100000\n", 8),  # more than there are
        ("", 8),
    ],
)
def test_a_container_of_version_2_has_the_cores_of_its_cpu_max(
    tree: MakeTree, quota: str, cores: int
) -> None:
    mount = V2.format(root="/", mount="/sys/fs/cgroup")
    assert available_cores(tree([mount], "0::/\n", {"sys/fs/cgroup/cpu.max": quota})) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", 8), ("300000\n", 3), ("10000\n", 1)])
def test_a_container_of_version_1_has_the_cores_of_its_cfs_quota(
    tree: MakeTree, quota: str, cores: int
) -> None:
    # As docker mounts it: the path names the host's group, and that group is what is mounted.
    mount = V1.format(root="/docker/abc", mount="/sys/fs/cgroup/cpu,cpuacct")
    folder = "sys/fs/cgroup/cpu,cpuacct"
    groups = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/docker/abc\n"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000\n"}
    assert available_cores(tree([mount], groups, files)) == cores


def test_the_smallest_quota_of_all_groups_above_counts(tree: MakeTree) -> None:
    folder = "sys/fs/cgroup"
    files = {
        f"{folder}/user.slice/job.scope/cpu.max": "400000 100000",
        f"{folder}/user.slice/cpu.max": "300000 100000",
        f"{folder}/other.slice/cpu.max": "100000 100000",
    }
    mount = V2.format(root="/", mount="/sys/fs/cgroup")
    assert quota_cores(tree([mount], "0::/user.slice/job.scope\n", files)) == 3


def test_a_path_outside_of_what_is_mounted_is_that_of_the_mount(tree: MakeTree) -> None:
    mount = V2.format(root="/", mount="/sys/fs/a\\040group")
    files = {"sys/fs/a group/cpu.max": "200000 100000"}
    assert quota_cores(tree([mount], "0::/../../kubepods/pod1\n", files)) == 2


def test_without_control_groups_affinity_alone_counts(tmp_path: Path) -> None:
    assert quota_cores(tmp_path) is None
    assert (available_cores(tmp_path), throttled_seconds(tmp_path)) == (8, 0.0)


def test_time_that_a_group_was_stopped_is_read_in_both_versions(tree: MakeTree) -> None:
    mounts = [
        V2.format(root="/", mount="/sys/fs/cgroup/unified"),
        V1.format(root="/", mount="/sys/fs/cgroup/cpu"),
    ]
    files = {
        "sys/fs/cgroup/unified/a/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 250000\n",
        "sys/fs/cgroup/unified/cpu.stat": "usage_usec 9\n",
        "sys/fs/cgroup/cpu/b/cpu.stat": "nr_periods 9\nnr_throttled 2\nthrottled_time 500000000\n",
        "sys/fs/cgroup/cpu/cpu.stat": "nr_periods 9\nnr_throttled 0\nthrottled_time 0\n",
    }
    assert throttled_seconds(tree(mounts, "4:cpu:/b\n0::/a\n", files)) == 0.75
