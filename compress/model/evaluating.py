"""Use a module for inference only: eval mode for a while, and a copy in float32."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["evaluating", "in_float32"]

_OTHER_FLOATS = (torch.float16, torch.bfloat16, torch.float64)


@contextlib.contextmanager
def evaluating(module: nn.Module, device: str | None = None) -> Iterator[None]:
    """Put a module in eval mode; on exit restore the mode of each of its modules.

    Args:
        device: where the module is meanwhile, and then on the CPU; None leaves it where it is.
    """
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        if device is not None:
            module.to(device)
        yield
    finally:
        if device is not None:
            module.to("cpu")
        for each, mode in modes:
            each.training = mode


def in_float32(module: nn.Module) -> nn.Module:
    """Return the module, or a copy in float32 if it has parameters of another float type.

    16-bit weights made by a stage are buffers of its own layers, which already compute in float32.
    """
    if not any(each.dtype in _OTHER_FLOATS for each in module.parameters()):
        return module
    return copy.deepcopy(module).float()
