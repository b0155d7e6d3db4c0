"""A module that is only asked: in evaluation mode for a while, in float32, and afterwards as it was."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["evaluating", "in_float32"]

_OTHER_FLOATS = (torch.float16, torch.bfloat16, torch.float64)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode; afterwards each of its modules is in its own mode again."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode


def in_float32(module: nn.Module) -> nn.Module:
    """Return the module, or a copy in float32 where it has parameters of another float type.

    What a stage stores in 16 bits are buffers of its own layers, which compute in float32 already.
    """
    if not any(each.dtype in _OTHER_FLOATS for each in module.parameters()):
        return module
    return copy.deepcopy(module).float()
