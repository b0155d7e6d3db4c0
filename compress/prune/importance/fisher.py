"""Fisher information of gates: what it costs to remove a set of units, with what they do to each other.

Kwon et al. 2022, arXiv 2204.09656 ("A Fast Post-Training Pruning Framework for Transformers"), sec. 4.1, 4.2.
At a minimum of the loss, removing the units with z = 1 costs about z' F z / 2, with F the Fisher information
of their gates. Of F only the blocks of single sites are known, so that a choice within a site can see that
two units make up for each other or do harm together; between sites the diagonal has to do.
Shapes: n = rows, u = units of a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.errors import StageError
from compress.prune.importance.unit_gates import BatchLoss, gate_gradients

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.structure.sites import Site
    from compress.tasks import Task

__all__ = ["fisher_information", "rearrange"]

_SHORTLIST = 64  # units of either side whose pairs are looked at first
_NOISE = 1e-10  # of the trace: a swap that gains less is rounding of float64, and could be undone for ever


def fisher_information(
    model: nn.Module,
    sites: Sequence[Site],
    split: Split,
    task: Task,
    *,
    batch_size: int = 32,
    device: str = "cpu",
    loss: BatchLoss | None = None,
) -> list[Tensor]:
    """Sum g g' over rows, with g a row's own gradient of its loss for the gates of a site.

    The code of the paper squares gradients of whole mini-batches, which shrink as the batch grows:
    rows cancel out. With rows of their own this is the empirical Fisher information as it is defined, and the
    batch size matters to speed alone.

    Args:
        loss: none is the task's own, on labels.

    Returns:
        One symmetric matrix [u, u] a site, float32 on the CPU; its diagonal is the diagonal Fisher
        information. Nothing else is held: 4 u^2 bytes a site.

    Raises:
        StageError: there are no rows, or a gradient is not a number.
    """
    import torch

    if len(split) == 0:
        raise StageError("calibration: there is no row to take the Fisher information over")
    totals = [torch.zeros(site.units(model), site.units(model)) for site in sites]
    batches = gate_gradients(model, sites, split, task, batch_size=batch_size, device=device, loss=loss)
    for gradients in batches:
        for total, gradient in zip(totals, gradients, strict=True):
            rows = gradient.float()  # [b, u]
            total.addmm_(rows.T, rows)
    return totals


def rearrange(fisher: Tensor, keep: int) -> list[int]:
    """Choose which units stay, so that those that go cost little together: z' F z is small.

    The warm start keeps the largest diagonal. Then, as long as it lowers the cost, the best pair of a kept
    and a removed unit changes places, at most 2 u times; mostly it ends before, where no swap betters it.
    (The paper passes once over the removed units and asks which each should give way to.)

    Args:
        fisher: [u, u], symmetric.
        keep: how many stay, 0..u.

    Returns:
        Indices of the units that stay, ascending.

    Raises:
        StageError: `keep` is out of its range, or the matrix is not square, or holds something that is not a
            number.
    """
    import torch

    units = len(fisher)
    if fisher.shape != (units, units) or not bool(torch.isfinite(fisher).all()):
        raise StageError(f"Fisher information must be a square of numbers, not {list(fisher.shape)}")
    if not 0 <= keep <= units:
        raise StageError(f"units to keep: {keep} is not allowed; 0 to {units}")
    matrix = fisher.double().cpu()
    order = matrix.diagonal().argsort(descending=True, stable=True)
    gone = torch.zeros(units, dtype=torch.bool)
    gone[order[keep:]] = True
    if 0 < keep < units:
        _swap_(matrix, gone)
    return [int(unit) for unit in (~gone).nonzero().flatten()]


def _swap_(matrix: Tensor, gone: Tensor) -> None:
    # With z the indicator of `gone`: z + e_i - e_j costs z'Fz + F_ii + 2(Fz)_i + F_jj - 2(Fz)_j - 2F_ij.
    diagonal = matrix.diagonal()
    least_gain = _NOISE * float(diagonal.sum())
    product = matrix @ gone.double()  # Fz, [u]
    for _ in range(2 * len(matrix)):
        to_remove = diagonal + 2 * product  # of a kept unit: what it adds
        to_restore = diagonal - 2 * product  # of a removed one
        to_remove[gone], to_restore[~gone] = float("inf"), float("inf")
        # The best pair nearly always stands among the best of either side; only the end needs all pairs.
        for limit in (_SHORTLIST, len(matrix)):
            removing, restoring = _best(to_remove, limit), _best(to_restore, limit)
            change = to_remove[removing, None] + to_restore[restoring] - 2 * matrix[removing][:, restoring]
            row, column = divmod(int(change.argmin()), len(restoring))
            if float(change[row, column]) < -least_gain:
                break
        else:
            return
        enters, leaves = int(removing[row]), int(restoring[column])
        gone[enters], gone[leaves] = True, False
        product += matrix[:, enters] - matrix[:, leaves]


def _best(cost: Tensor, limit: int) -> Tensor:
    import torch

    values, units = torch.topk(cost, min(limit, len(cost)), largest=False)
    return units[torch.isfinite(values)]
