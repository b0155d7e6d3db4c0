"""Optimal brain surgeon for structures: remove the cheapest unit, and let the others compensate.

ZipLM (Kurtic, Frantar, Alistarh 2023, arXiv 2302.04089), after Hassibi and Stork 1993. With X the inputs of
a site's consumer W over all tokens and H = X X' / t, removing the columns S costs
    rho_S = tr(W_S (H^-1_SS)^-1 W_S')
of mean squared output error, if the other columns change by -W_S (H^-1_SS)^-1 H^-1_S:. Here the bias is a
column too, with an input that is always 1 and never removed: it absorbs the mean of what is removed.

Shapes: o = output features, i = input features, u = units, d = columns of a unit, t = tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.errors import StageError
from compress.prune.structured.candidates import Candidate

if TYPE_CHECKING:
    from torch import Tensor

    from compress.model.observe.gram import Gram

__all__ = ["least_squares", "remove_one_by_one"]

_DAMPING = 1e-2  # of the mean of H's diagonal: H of few tokens, or of dead neurons, is singular

_REFIT_DAMPING = 1e-3
_WAITING = 64  # columns of updates to collect before applying them


def remove_one_by_one(
    weight: Tensor,
    bias: Tensor | None,
    gram: Gram,
    unit_size: int,
    levels: Sequence[int],
    *,
    output_weights: Tensor | None = None,
) -> list[Candidate]:
    """Remove units one at a time, cheapest first, and record the consumer at the given counts.

    Args:
        weight: [o, u * d].
        bias: [o]; None: the consumer has no bias, and gets none.
        gram: of the consumer's inputs.
        unit_size: d.
        levels: numbers of units to record a candidate at, descending.
        output_weights: weight of each output's squared error, [o]; None: all 1.

    Returns:
        A candidate for each level; its loss is the mean over tokens of the output's weighted squared error.

    Raises:
        StageError: there are no tokens, or they are not finite.
    """
    import torch

    if gram.tokens == 0 or not bool(torch.isfinite(gram.matrix).all()):
        raise StageError("calibration: the inputs have no tokens, or contain NaN or infinity")
    features = weight.shape[1]
    moments = (gram.matrix / gram.tokens).double()  # [i + 1, i + 1]
    offset = torch.zeros(len(weight)) if bias is None else bias
    dense = torch.cat((weight, offset[:, None]), 1)  # [o, i + 1]
    scale = torch.ones(len(weight)) if output_weights is None else output_weights.clamp(min=1e-30).sqrt()
    if bias is None:  # no constant column: a mean can't be compensated
        moments[-1, :-1] = moments[:-1, -1] = 0
    damped = moments.clone()
    damped.diagonal()[:-1] += _DAMPING * float(moments.diagonal()[:-1].mean()) + 1e-12
    inverse = torch.linalg.inv(damped).float()  # [i + 1, i + 1]
    # Output weights scale rows of the consumer; H doesn't change.
    surgery = _Surgery(dense * scale[:, None], (inverse + inverse.T) / 2, unit_size)
    candidates = []
    for level in levels:
        while surgery.units > level:
            surgery.remove_cheapest()
        kept, remaining = surgery.state()
        full = torch.zeros_like(dense)
        full[:, surgery.columns()] = remaining
        error = full.double() - dense * scale[:, None]
        loss = float(((error @ moments) * error).sum())
        remaining = remaining / scale[:, None]
        candidates.append(
            Candidate(
                kept,
                0.0 if len(kept) * unit_size == features else max(0.0, loss),
                remaining[:, :-1].clone(),
                None if bias is None else remaining[:, -1].clone(),
            )
        )
    return candidates


def least_squares(gram: Gram, kept: Sequence[int], unit_size: int) -> tuple[Tensor, Tensor]:
    """Least-squares fit of the consumer to the targets from the inputs of the kept units alone.

    Args:
        gram: of the uncut inputs, with targets.
        kept: units that are kept.

    Returns:
        weight, [o, i] of the kept units, and bias, [o].

    Raises:
        StageError: there are no tokens, or they are not finite.
    """
    from compress.model.cutting.units import unit_features

    return gram.solve(unit_features(kept, unit_size), damping=_REFIT_DAMPING)


class _Surgery:
    """The consumer and the inverse of H while units are removed.

    Updates of the inverse are collected, because one large product is faster than many small ones; the part
    that the next choice needs (its diagonal blocks) is kept up to date. From time to time the removed columns
    are dropped, so that late steps are cheap.
    """

    def __init__(self, weight: Tensor, inverse: Tensor, unit_size: int) -> None:
        import torch

        self.weight, self.inverse, self.size = weight, inverse, unit_size
        self.bias_column = weight.shape[1] - 1
        self.names = torch.arange(self.bias_column // unit_size)  # unit of each column block, [u]
        self._begin()

    def _begin(self) -> None:
        import torch

        units, size = len(self.names), self.size
        self.alive = torch.ones(units, dtype=torch.bool)
        self.waiting: list[Tensor] = []  # the true inverse is inverse - sum of w w'; [i + 1, d] each
        blocks = self.inverse[:-1, :-1].reshape(units, size, units, size)
        self.diagonal = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()  # [u, d, d]

    @property
    def units(self) -> int:
        """Number of remaining units."""
        return int(self.alive.sum())

    def remove_cheapest(self) -> None:
        """Remove the unit with the least rho, and compensate."""
        import torch

        unit = int(torch.where(self.alive, self._costs(), torch.inf).argmin())
        columns = slice(unit * self.size, (unit + 1) * self.size)
        across = self.inverse[:, columns].clone()  # [i + 1, d]
        if self.waiting:
            waiting = torch.cat(self.waiting, 1)
            across -= waiting @ waiting[columns].T
        factor = torch.linalg.cholesky(across[columns])  # [d, d]
        half = torch.linalg.solve_triangular(factor, across.T, upper=False)  # [d, i + 1]
        move = torch.linalg.solve_triangular(factor, self.weight[:, columns].T, upper=False)  # [d, o]
        self.weight -= move.T @ half
        self.weight[:, columns] = 0
        rows = half[:, :-1].T.reshape(len(self.names), self.size, self.size)  # [u, d, d]
        self.diagonal -= rows @ rows.transpose(1, 2)
        self.waiting.append(half.T)
        self.alive[unit] = False
        if len(self.waiting) * self.size >= _WAITING:
            self._settle()

    def _costs(self) -> Tensor:
        import torch

        if self.size == 1:
            power = self.weight[:, :-1].square().sum(0)  # [u]
            return power / self.diagonal[:, 0, 0].clamp(min=1e-30)
        units, size = len(self.alive), self.size
        own = torch.where(self.alive[:, None, None], self.diagonal, torch.eye(size))  # [u, d, d]
        columns = self.weight[:, :-1].reshape(-1, units, size).permute(1, 2, 0)  # [u, d, o]
        costs: Tensor = (columns * torch.linalg.solve(own, columns)).sum((1, 2))  # [u]
        return costs

    def _settle(self) -> None:
        """Apply the collected updates to the inverse, and drop removed columns."""
        import torch

        waiting = torch.cat(self.waiting, 1)
        columns = self._live_columns()
        self.weight = self.weight[:, columns].contiguous()
        self.inverse = self.inverse[columns][:, columns] - waiting[columns] @ waiting[columns].T
        self.names = self.names[self.alive]
        self._begin()

    def _live_columns(self) -> Tensor:
        import torch

        live = self.alive.repeat_interleave(self.size)
        return torch.cat((live, torch.ones(1, dtype=torch.bool))).nonzero()[:, 0]

    def columns(self) -> Tensor:
        """Remaining columns of the uncut consumer (bias last), [i + 1]."""
        import torch

        from compress.model.cutting.units import unit_features

        return torch.cat((unit_features(self.state()[0], self.size), torch.tensor([self.bias_column])))

    def state(self) -> tuple[tuple[int, ...], Tensor]:
        """Remaining units, and the consumer's columns of them with the bias last, [o, i + 1]."""
        return tuple(self.names[self.alive].tolist()), self.weight[:, self._live_columns()]
