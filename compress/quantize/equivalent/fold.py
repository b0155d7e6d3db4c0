"""Fold batch normalization into the convolution before it: the same outputs from one layer.

In eval mode a BatchNorm scales and shifts each channel by constants. ONNX Runtime folds it into a float Conv
by itself, but not into an integer one, where it costs more than the convolution.
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
    """Fold each BatchNorm that is a convolution's only reader, if both are called once in the forward pass.

    Args:
        model: the convolution gets a new weight and bias; `Removed` replaces the BatchNorm.
        convolutions: names of those that may change.

    Returns:
        Folded names: BatchNorm -> convolution.
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
