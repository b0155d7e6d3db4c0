"""Likeness of units: which heads of a layer write the same thing into the residual stream.

Linear CKA, Kornblith et al. 2019, arXiv 1905.00414, eq. 3 and sec. 3, of the heads' contributions
Y_i = X_i W_i^T, from the covariance of X alone: ||Y_i^T Y_j||_F^2 = tr(G_i C_ij G_j C_ij^T), G = W^T W.
Shapes: t = tokens, h = heads, d = columns of a head, m = width of the residual stream, b = batch,
s = sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.split import Split
from compress.model.calls import logits, to_tensors
from compress.model.structure import Site
from compress.task import ROW_INDEX_KEY, Task

__all__ = ["linear_cka", "unit_likeness"]


def linear_cka(covariance: Tensor, weight: Tensor, unit_size: int) -> Tensor:
    """Compare the contributions of units.

    Args:
        covariance: of the consumer's input, centred (any factor), [h*d, h*d].
        weight: the consumer's, [m, h*d].
        unit_size: d.

    Returns:
        [h, h], symmetric, in [0, 1]; the diagonal is 1, or 0 for a unit that adds nothing but a constant.
    """
    units = len(covariance) // unit_size
    blocks = covariance.double().reshape(units, unit_size, units, unit_size).transpose(1, 2)  # [h, h, d, d]
    columns = weight.double().reshape(-1, units, unit_size)
    gram = torch.einsum("mip,miq->ipq", columns, columns)  # [h, d, d]
    inner = torch.einsum("ipq,ijqr,jrk,ijpk->ij", gram, blocks, gram, blocks).clamp(min=0)
    scale = inner.diagonal().sqrt()
    alike = inner / (scale[:, None] * scale[None, :]).clamp(min=1e-300)
    return torch.where(scale[:, None] * scale[None, :] > 0, alike, 0.0).clamp(0, 1).float()


def unit_likeness(
    model: nn.Module,
    sites: Sequence[Site],
    split: Split,
    task: Task,
    *,
    batch_size: int = 32,
    device: str = "cpu",
) -> tuple[list[Tensor], int]:
    """Compare the units of each site over the unpadded tokens of all rows.

    Returns:
        One tensor [h, h] a site, on the CPU; and how many tokens were seen.
    """
    model = model.to(device).eval()
    lengths = torch.tensor([row[split.inputs[0].name].shape[0] for row in split.rows])
    sums = [_Moments() for _ in sites]
    real = torch.empty(0)

    def watch(moments: _Moments) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            moments.add_(_tokens(inputs[0], real))

        return hook

    handles = [
        model.get_submodule(site.consumer).register_forward_pre_hook(watch(moments))
        for site, moments in zip(sites, sums, strict=True)
    ]
    try:
        with torch.inference_mode():
            for batch in split.batches(batch_size):
                of_batch = lengths[torch.from_numpy(batch[ROW_INDEX_KEY])]
                real = torch.arange(int(of_batch.max())) < of_batch[:, None]  # [b, s]
                logits(model, to_tensors(batch, task.input_names, device))
    finally:
        for handle in handles:
            handle.remove()
        model.to("cpu")
    found = []
    for site, moments in zip(sites, sums, strict=True):
        weight = model.get_submodule(site.consumer).weight
        assert isinstance(weight, Tensor)
        found.append(linear_cka(moments.covariance(), weight.detach(), site.unit_size))
    return found, max((moments.count for moments in sums), default=0)


def _tokens(x: Tensor, real: Tensor) -> Tensor:
    """Take the vectors that are no padding: [b, s, u*d] -> [t, u*d]; all, where x has another sequence."""
    if x.shape[:-1] == real.shape:
        return x[real.to(x.device)].cpu()
    return x.flatten(0, -2).cpu()


class _Moments:
    """Sums of vectors and of their products, in double precision."""

    def __init__(self) -> None:
        self.count, self.total, self.products = 0, torch.zeros(1), torch.zeros(1)

    def add_(self, x: Tensor) -> None:
        x = x.double()
        self.count += len(x)
        self.total = self.total + x.sum(0)
        self.products = self.products + x.T @ x

    def covariance(self) -> Tensor:
        mean = self.total / self.count
        return self.products / self.count - torch.outer(mean, mean)
