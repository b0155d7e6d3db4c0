"""Fisher information of gates: the cost of removing a set of units, including their interactions.

Kwon et al. 2022, arXiv 2204.09656 ("A Fast Post-Training Pruning Framework for Transformers"), sec. 4.1, 4.2.
At a minimum of the loss, removing the units with z = 1 costs about z' F z / 2, with F the Fisher information
of their gates. Only the blocks of F within single sites are computed, so a choice within a site accounts for
units that compensate or reinforce each other; between sites only the diagonal is used.
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

_SHORTLIST = 64  # units of either side whose pairs are tried first
_NOISE = 1e-10  # of the trace: a smaller gain is float64 rounding, and such swaps could alternate forever


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
    """Sum g g' over rows, with g one row's gradient of its loss with respect to a site's gates.

    The paper's code squares gradients of whole mini-batches, where rows cancel out, so the values shrink as
    the batch grows. Per-row gradients give the empirical Fisher information as defined; the batch size only
    affects speed.

    Args:
        loss: None means the task's own loss, on labels.

    Returns:
        One symmetric matrix [u, u] per site, float32 on the CPU; its diagonal is the diagonal Fisher
        information. Memory: 4 u^2 bytes per site.

    Raises:
        StageError: there are no rows, or a gradient is not finite.
    """
    import torch

    if len(split) == 0:
        raise StageError("calibration: there are no rows to compute the Fisher information from")
    totals = [torch.zeros(site.units(model), site.units(model)) for site in sites]
    batches = gate_gradients(model, sites, split, task, batch_size=batch_size, device=device, loss=loss)
    for gradients in batches:
        for total, gradient in zip(totals, gradients, strict=True):
            rows = gradient.float()  # [b, u]
            total.addmm_(rows.T, rows)
    return totals


def rearrange(fisher: Tensor, keep: int) -> list[int]:
    """Choose the units to keep so that removing the others together costs little: small z' F z.

    Starts by keeping the largest diagonal entries. Then the best pair of a kept and a removed unit is swapped
    while that lowers the cost, at most 2 u times; usually it stops earlier, when no swap helps. (The paper
    passes once over the removed units and looks for a kept one to replace.)

    Args:
        fisher: [u, u], symmetric.
        keep: number of units to keep, 0..u.

    Returns:
        Indices of the kept units, ascending.

    Raises:
        StageError: `keep` is out of range, or the matrix is not square or not finite.
    """
    import torch

    units = len(fisher)
    if fisher.shape != (units, units) or not bool(torch.isfinite(fisher).all()):
        raise StageError(f"Fisher information must be a square matrix, not {list(fisher.shape)}")
    if not 0 <= keep <= units:
        raise StageError(f"units to keep: got {keep}; allowed: 0 to {units}")
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
        to_remove = diagonal + 2 * product  # of a kept unit: the cost it adds
        to_restore = diagonal - 2 * product  # of a removed unit
        to_remove[gone], to_restore[~gone] = float("inf"), float("inf")
        # The best pair is nearly always among the best of either side; only the last iteration needs all
        # pairs.
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
