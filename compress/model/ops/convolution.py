"""Quantized convolution as a torch operator that matches ONNX Runtime's arithmetic bit for bit.

Shapes: b = batch, c = input channels, o = output channels, k = kernel, of one or two dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.model.ops.linear import quantized

__all__ = ["int8_static_conv", "pad_edges"]


def pad_edges(x: Tensor, padding: Sequence[int]) -> Tensor:
    """Pad spatial dimensions with zeros: amounts before each, then after each, as in ONNX."""
    before, after = padding[: len(padding) // 2], padding[len(padding) // 2 :]
    # F.pad takes both ends of the last dimension first.
    return F.pad(x, [each for ends in reversed([*zip(before, after, strict=True)]) for each in ends])


@torch.library.custom_op("modelpress::int8_static_conv", mutates_args=())
def int8_static_conv(
    x: Tensor,
    qdata: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor,
    x_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve activations with int8 weights; scales and zero points of inputs and outputs are fixed.

    Inputs and outputs beyond their ranges are clipped; outputs are quantized too, because ONNX Runtime's fast
    kernel requires it. Padding is exactly 0.

    Args:
        x: float32 [b, c, ...].
        qdata: int8 [o, c / groups, k...].
        scale: float32 [o].
        bias: int32 [o], in steps of x_scale * scale, or None.
        x_scale: float32 [].
        x_zero_point: uint8 [].
        y_scale: float32 [], of the outputs.
        y_zero_point: uint8 [], of the outputs.
        stride: of each spatial dimension.
        padding: before each spatial dimension, then after each.
        dilation: of each spatial dimension.

    Returns:
        float32 [b, o, ...].
    """
    spatial = len(stride)
    centred = quantized(x, x_scale, x_zero_point.float()) - x_zero_point.float()
    convolve = F.conv1d if spatial == 1 else F.conv2d
    # float64 holds these sums exactly, in any order of summation.
    sums = convolve(
        pad_edges(centred, padding).double(),
        qdata.double(),
        None if bias is None else bias.double(),
        list(stride),
        0,
        list(dilation),
        groups,
    )
    factors = (x_scale * scale / y_scale).reshape(-1, *[1] * spatial)
    zero_point = y_zero_point.float()
    return (((sums.float() * factors).round() + zero_point).clamp(0, 255) - zero_point) * y_scale


@int8_static_conv.register_fake
def _(
    x: Tensor,
    qdata: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    x_scale: Tensor,
    x_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    spatial = len(stride)
    sizes = [
        (x.shape[2 + axis] + padding[axis] + padding[spatial + axis] - dilation[axis] * (kernel - 1) - 1)
        // stride[axis]
        + 1
        for axis, kernel in enumerate(qdata.shape[2:])
    ]
    return x.new_empty((x.shape[0], qdata.shape[0], *sizes))
