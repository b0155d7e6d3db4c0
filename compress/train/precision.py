"""Which precision a training computes in: bf16 where it is asked for, or where the device is built for it.

Decided by features of the device and by the model's widths, never by a clock: the same recipe on the same
machine gives the same weights, whatever else the machine does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["use_bf16"]

_WIDE = 256  # narrower products are over before casts have paid
_AMPERE = 8  # the first compute capability with bf16 in its tensor cores


def use_bf16(module: nn.Module, config: TrainConfig, device: str) -> bool:
    """Decide on bf16: asked for, or (auto) the device has matrix units for it and the model is wide."""
    if config.precision != "auto":
        return config.precision == "bf16"
    return _has_matrix_units(device) and _is_wide(module)


def _has_matrix_units(device: str) -> bool:
    """Whether bf16 products have units of their own: NVIDIA's tensor cores, or AMX.

    AVX-512 BF16 alone gains too little to give up digits without being asked.
    """
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device)[0] >= _AMPERE
    return bool(torch.cpu._is_amx_tile_supported())


def _is_wide(module: nn.Module) -> bool:
    """Whether most weights are in matrices that are wide both ways."""
    sizes = [(each.shape[0], each.numel() // each.shape[0]) for each in module.parameters() if each.numel()]
    wide = sum(rows * columns for rows, columns in sizes if min(rows, columns) >= _WIDE)
    return 2 * wide > sum(rows * columns for rows, columns in sizes)
