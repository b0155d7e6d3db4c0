"""Number of weights in a model, and the bytes that store them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.model.layers.grouped import SharedEmbedding
from compress.model.layers.quantized import QuantizedModule

__all__ = ["stored_bytes", "stored_tensors", "weight_counts"]


def weight_counts(module: nn.Module) -> tuple[int, int]:
    """Count the weights, and the non-zero ones; an integer weight counts as one, scales don't count."""
    tensors: list[Tensor] = []
    seen: set[int] = set()
    for child in module.modules():
        if isinstance(child, QuantizedModule) and not isinstance(child, SharedEmbedding):
            tensors.append(child.dequantize())
            tensors.extend(
                value for name, value in child.named_buffers(recurse=False) if name.startswith("bias")
            )
        for parameter in child.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                tensors.append(parameter)
    with torch.no_grad():
        return sum(t.numel() for t in tensors), sum(int(torch.count_nonzero(t)) for t in tensors)


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and persistent buffers as stored; tensors that share memory count once."""
    return sum(tensor.nbytes for tensor in stored_tensors(module).values())


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and persistent buffers by name; of those that share memory only the first."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in module.state_dict().items():
        found.setdefault(tensor.data_ptr(), (name, tensor))
    return dict(found.values())
