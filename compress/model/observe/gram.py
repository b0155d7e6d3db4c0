"""Second moments of a layer's inputs: all the data that least squares needs.

Shapes: t = tokens, i = input features, o = outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Gram"]


@dataclass
class Gram:
    """Second moments of a consumer's inputs with a 1 appended, accumulated without storing the inputs.

    Attributes:
        matrix: sum over tokens of x x', [i + 1, i + 1], float32.
        cross: sum over tokens of y x', [o, i + 1], if targets y were given.
        tokens: number of tokens.
    """

    matrix: Tensor
    cross: Tensor | None = None
    tokens: int = 0

    def add_(self, inputs: Tensor, targets: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Add tokens: inputs [t, i], targets [t, o], and the weight of each token, [t]."""
        import torch

        ones = torch.ones(len(inputs), 1, dtype=inputs.dtype, device=inputs.device)
        x = torch.cat((inputs, ones), dim=1)  # [t, i + 1]
        weighted = x if weights is None else x * weights[:, None]
        self.matrix.addmm_(weighted.T, x)  # in place: a separate product would be as large as the matrix
        if targets is not None:
            if self.cross is None:
                self.cross = torch.zeros(targets.shape[1], x.shape[1], dtype=x.dtype, device=x.device)
            self.cross.addmm_(targets.T, weighted)
        self.tokens += len(inputs)

    def solve(self, columns: Tensor | None = None, *, damping: float) -> tuple[Tensor, Tensor]:
        """The affine map from the inputs to the targets with the least squared error.

        Args:
            columns: inputs to use, [k]; None: all.
            damping: fraction of the mean of the diagonal to add to it, for dead or duplicate inputs.

        Returns:
            weight, [o, k], and bias, [o], float32.

        Raises:
            StageError: there are no tokens or targets, or they are not finite.
        """
        import torch

        if self.tokens == 0 or self.cross is None or not bool(torch.isfinite(self.matrix).all()):
            raise StageError("calibration: the inputs have no tokens, or contain NaN or infinity")
        last = torch.tensor([len(self.matrix) - 1])
        used = torch.arange(len(self.matrix)) if columns is None else torch.cat((columns, last))
        matrix = (self.matrix[used][:, used] / self.tokens).double()
        matrix.diagonal()[:-1] += damping * float(matrix.diagonal()[:-1].mean()) + 1e-12
        solved = torch.linalg.solve(matrix, (self.cross[:, used] / self.tokens).double().T).T.float()
        return solved[:, :-1].contiguous(), solved[:, -1].contiguous()

    def covariance(self) -> Tensor:
        """Covariance of the inputs, [i, i]."""
        import torch

        moments = self.matrix / self.tokens
        return moments[:-1, :-1] - torch.outer(moments[:-1, -1], moments[-1, :-1])
