"""PyTorch's thread count, limited to a container's CPU quota."""

from __future__ import annotations

from compress.system.cores import quota_cores

__all__ = ["limit_threads_"]


def limit_threads_() -> None:
    """Lower PyTorch's threads to the CPU quota of this process's control group, if there is one.

    PyTorch counts the host's cores. Threads beyond the quota stall until its next period.
    """
    import torch

    quota = quota_cores()
    if quota is not None and torch.get_num_threads() > quota:
        torch.set_num_threads(quota)
