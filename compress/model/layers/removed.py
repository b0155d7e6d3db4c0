"""What stands in a model where a sub-layer was cut away: nothing is computed, nothing is multiplied by zero.

A sub-layer adds its output to the residual stream. Without units that output is the same for every position:
the bias of its last projection, which stays.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["Removed"]


class Removed(nn.Module):
    """Takes the place of a removed module and answers without computing.

    Args:
        returns: `input`: the first argument as it came; `bias`: one vector for all positions, [features].
        features: length of that vector; 0 with `input`.
        as_tuple: answer (value, None), as attention modules that also return their weights do.
    """

    def __init__(
        self, returns: Literal["input", "bias"], *, features: int = 0, as_tuple: bool = False
    ) -> None:
        super().__init__()
        self.returns, self.features, self.as_tuple = returns, features, as_tuple
        if returns == "bias":
            self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, *inputs: Any, **_: Any) -> Any:
        """Answer; further arguments (masks, caches) don't matter."""
        value: Tensor = self.bias if self.returns == "bias" else inputs[0]
        return (value, None) if self.as_tuple else value

    def config(self) -> dict[str, Any]:
        """Arguments that build it again, as plain data."""
        return {"returns": self.returns, "features": self.features, "as_tuple": self.as_tuple}
