"""Precision of a training: bf16 if requested, or if the device has hardware for it.

Decided from device features and model widths, never from timing, so that the same recipe on the same machine
always gives the same weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["use_bf16"]

_WIDE = 256  # narrower products are too short to amortize the casts
_AMPERE = 8  # first compute capability with bf16 tensor cores


def use_bf16(module: nn.Module, config: TrainConfig, device: str) -> bool:
    """Whether to use bf16: if requested, or (auto) if the device has bf16 units and the model is wide."""
    if config.precision != "auto":
        return config.precision == "bf16"
    return _has_matrix_units(device) and _is_wide(module)


def _has_matrix_units(device: str) -> bool:
    """Whether bf16 products have dedicated units: NVIDIA's tensor cores, or AMX.

    AVX-512 BF16 alone gains too little to justify lower precision by default.
    """
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device)[0] >= _AMPERE
    return bool(torch.cpu._is_amx_tile_supported())


def _is_wide(module: nn.Module) -> bool:
    """Whether most weights are in matrices with both dimensions wide."""
    sizes = [(each.shape[0], each.numel() // each.shape[0]) for each in module.parameters() if each.numel()]
    wide = sum(rows * columns for rows, columns in sizes if min(rows, columns) >= _WIDE)
    return 2 * wide > sum(rows * columns for rows, columns in sizes)
