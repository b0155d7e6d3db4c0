"""Similarity of units: which heads of a layer write the same thing into the residual stream.

Linear CKA, Kornblith et al. 2019, arXiv 1905.00414, eq. 3 and sec. 3, of the heads' contributions
Y_i = X_i W_i^T, from the covariance of X alone: ||Y_i^T Y_j||_F^2 = tr(G_i C_ij G_j C_ij^T), G = W^T W.
Shapes: t = tokens, h = heads, d = columns of a head, m = width of the residual stream, b = batch,
s = sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.data.split import Split
from compress.model.observe.capture import inputs_of_sites
from compress.model.observe.gram import Gram
from compress.model.structure.sites import Site
from compress.tasks import Task

__all__ = ["linear_cka", "unit_likeness"]


def linear_cka(covariance: Tensor, weight: Tensor, unit_size: int) -> Tensor:
    """Linear CKA between the contributions of all pairs of units.

    Args:
        covariance: centred covariance of the consumer's input, up to a factor, [h*d, h*d].
        weight: the consumer's weight, [m, h*d].
        unit_size: d.

    Returns:
        [h, h], symmetric, in [0, 1]; the diagonal is 1, or 0 for a unit whose contribution is constant.
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
    """Linear CKA between the units of each site, over the unpadded tokens of all rows.

    Returns:
        One tensor [h, h] per site, on the CPU; and the number of tokens seen.
    """
    grams: list[Gram] = []
    for inputs in inputs_of_sites(model, sites, split, task, batch_size=batch_size, device=device):
        if not grams:
            sizes = [len(x.T) + 1 for x in inputs]
            grams = [Gram(torch.zeros(size, size, dtype=torch.float64)) for size in sizes]
        for gram, x in zip(grams, inputs, strict=True):
            gram.add_(x.cpu().double())
    found = []
    for site, gram in zip(sites, grams, strict=True):
        weight = model.get_submodule(site.consumer).weight
        assert isinstance(weight, Tensor)
        found.append(linear_cka(gram.covariance(), weight.detach(), site.unit_size))
    return found, max((gram.tokens for gram in grams), default=0)
