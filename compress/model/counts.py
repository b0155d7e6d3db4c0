"""How many numbers a model's weights hold, whatever they are stored as."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.model.quantized import QuantizedModule

__all__ = ["stored_bytes", "weight_counts"]


def weight_counts(module: nn.Module) -> tuple[int, int]:
    """Count the weights, and those that are not zero; an integer weight counts as one, scales don't count."""
    tensors: list[Tensor] = []
    seen: set[int] = set()
    for child in module.modules():
        if isinstance(child, QuantizedModule):
            tensors.append(child.dequantize())
            tensors.extend(value for name, value in child.named_buffers(recurse=False) if name == "bias")
        for parameter in child.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                tensors.append(parameter)
    with torch.no_grad():
        return sum(t.numel() for t in tensors), sum(int(torch.count_nonzero(t)) for t in tensors)


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and kept buffers as they are stored; tensors that share memory count once."""
    storages = {tensor.data_ptr(): tensor for tensor in module.state_dict().values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in storages.values())
