"""Data-parallel training: each process takes its share of a batch, and gradients are summed.

With a mean loss over rows, weighted by the rows of each share, the sum is the whole batch's gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.data.split import Batch
from compress.system.distributed import process_count, process_index, sum_
from compress.tasks import LABELS_KEY

if TYPE_CHECKING:
    from torch import nn

__all__ = ["share_of", "sum_gradients_"]


def share_of(batch: Batch) -> Batch | None:
    """This process's rows of a batch; None if it gets no rows."""
    count = process_count()
    if count == 1:
        return batch
    rows = np.array_split(np.arange(len(batch[LABELS_KEY])), count)[process_index()]
    return {name: array[rows] for name, array in batch.items()} if len(rows) else None


def sum_gradients_(module: nn.Module, loss: float) -> float:
    """Sum the gradients of all processes in each of them; return the sum of their losses.

    A parameter without a gradient in any process keeps None, because AdamW would decay it otherwise.
    """
    if process_count() == 1:
        return loss
    import torch

    trained = [each for each in module.parameters() if each.requires_grad]
    numbers = [*(float(each.grad is not None) for each in trained), loss]
    known = torch.tensor(numbers, dtype=torch.float64, device=trained[0].device)
    sum_([known])
    *counts, total = known.tolist()
    used = [each for each, count in zip(trained, counts, strict=True) if count > 0]
    for each in used:
        if each.grad is None:
            each.grad = torch.zeros_like(each)
    sum_([each.grad for each in used if each.grad is not None])
    return float(total)
