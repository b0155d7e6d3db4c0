"""Taylor importance: first-order change of the loss if a unit's output were set to zero.

Michel et al. 2019, arXiv 1905.10650, sec. 4.1: the mean over rows of |d loss / d gate|, with the gate a
factor 1 on the unit's output.
Shapes: u = units of a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compress.prune.importance.unit_gates import gate_gradients

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.structure.sites import Site
    from compress.tasks import Task

__all__ = ["taylor_importance"]


def taylor_importance(
    model: nn.Module, sites: Sequence[Site], split: Split, task: Task, **options: Any
) -> list[Tensor]:
    """Score each unit of each site; not comparable across sites (divide each site by its L2 norm).

    Args:
        options: passed to `gate_gradients`.

    Returns:
        One tensor [u] per site, on the CPU.
    """
    import torch

    totals = [torch.zeros(site.units(model)) for site in sites]
    for gradients in gate_gradients(model, sites, split, task, **options):
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient.abs().sum(0)
    return [total / len(split) for total in totals]
