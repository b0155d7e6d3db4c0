"""PyTorch takes no more threads than the container's CPU quota allows."""

from __future__ import annotations

import pytest
import torch

from compress.train import threads


@pytest.mark.parametrize(("quota", "before", "after"), [(2, 8, 2), (2, 1, 1), (None, 8, 8)])
def test_threads_are_lowered_to_the_quota_and_never_raised(
    monkeypatch: pytest.MonkeyPatch, quota: int | None, before: int, after: int
) -> None:
    now = [before]
    monkeypatch.setattr(threads, "quota_cores", lambda: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: now.__setitem__(0, count))
    threads.limit_threads_()
    assert now == [after]
