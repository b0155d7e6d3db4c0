"""Placeholder for a removed sub-layer: computes nothing.

A sub-layer adds its output to the residual stream. Without units that output is the same for every position:
the bias of its last projection, which is kept.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["Removed"]


class Removed(nn.Module):
    """Replaces a removed module and returns a constant or its input.

    Args:
        returns: `input`: the first argument, unchanged; `bias`: one vector for all positions, [features].
        features: length of that vector; 0 with `input`.
        as_tuple: return (value, None), like attention modules that also return their weights.
    """

    def __init__(
        self, returns: Literal["input", "bias"], *, features: int = 0, as_tuple: bool = False
    ) -> None:
        super().__init__()
        self.returns, self.features, self.as_tuple = returns, features, as_tuple
        if returns == "bias":
            self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, *inputs: Any, **_: Any) -> Any:
        """Return the value; further arguments (masks, caches) are ignored."""
        value: Tensor = self.bias if self.returns == "bias" else inputs[0]
        return (value, None) if self.as_tuple else value

    def config(self) -> dict[str, Any]:
        """Constructor arguments, as plain data."""
        return {"returns": self.returns, "features": self.features, "as_tuple": self.as_tuple}
