"""Fold batch normalization into the convolution before it: the same answers from one layer.

In evaluation a BatchNorm scales and shifts each channel by numbers that don't depend on the data. ONNX
Runtime folds it into a float Conv by itself, but not into one of integers, where it costs more than the
convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from compress.model.layers.removed import Removed
from compress.quantize.equivalent.uses import uses_of

if TYPE_CHECKING:
    from compress.data.split import Split
    from compress.stage import Context

__all__ = ["fold_norms_"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_FUNCTIONS = (F.batch_norm, torch.batch_norm)


def fold_norms_(
    model: nn.Module, convolutions: Sequence[str], rows: Split, context: Context
) -> dict[str, str]:
    """Fold each BatchNorm that alone reads a convolution's output, both called once in the forward pass.

    Args:
        model: the convolution gets other weights and a bias; `Removed` takes the BatchNorm's place.
        convolutions: names of those that may change.

    Returns:
        Names of what was folded: BatchNorm -> convolution.
    """
    norms = [name for name, module in model.named_modules() if type(module) in _NORMS]
    if not norms or not convolutions:
        return {}
    uses = uses_of(model, convolutions, norms, rows, context)
    folded: dict[str, str] = {}
    for name, sources in uses.sources.items():
        norm: nn.BatchNorm1d | nn.BatchNorm2d = model.get_submodule(name)  # type: ignore[assignment]
        source = sources[0]
        if source is None or len(sources) > 1 or norm.running_mean is None or norm.running_var is None:
            continue
        functions = uses.functions[source]
        if uses.calls[source] > 1 or len(functions) > 1 or functions[0] not in _FUNCTIONS:
            continue
        layer: nn.Conv1d | nn.Conv2d = model.get_submodule(source)  # type: ignore[assignment]
        layer.weight, layer.bias = fuse_conv_bn_weights(
            layer.weight,
            layer.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        model.set_submodule(name, Removed("input"))
        folded[name] = source
    return folded
