"""Quantized convolutions: int8 weights, and int8 inputs and outputs.

Shapes: b = batch, c = input channels, o = output channels, k = kernel, of one or two dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from compress.model.layers.int8 import steps_of_range, with_whole_bias
from compress.model.layers.quantized import QuantizedModule
from compress.model.ops.convolution import int8_static_conv

__all__ = ["ConvolutionModule", "Int8StaticConv", "convolution_arguments", "edges_of"]


class ConvolutionModule(QuantizedModule):
    """Base of quantized convolutions; `qdata` is [o, c / groups, k...].

    Args:
        kernel_size: of each spatial dimension, one or two.
        padding: zeros before each spatial dimension, then after each.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = list(kernel_size), list(stride)
        self.padding, self.dilation = list(padding), list(dilation)
        self.register_buffer("bias", torch.zeros(out_channels) if bias else None)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that make an empty layer of this shape."""
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": self.bias is not None,
        }

    def example(self, draw: torch.Generator) -> Tensor:
        """[2, c, ...], somewhat larger than the kernel needs, with an outlier."""
        sides = [
            dilation * (size - 1) + 5 for size, dilation in zip(self.kernel_size, self.dilation, strict=True)
        ]
        x = torch.randn(2, self.in_channels, *sides, generator=draw)
        x[1, 0, 0] = 30
        return x

    def _layout(self, values: Tensor) -> Tensor:
        return values.reshape(self.qdata.shape)


class Int8StaticConv(ConvolutionModule):
    """int8 weights with a scale per output channel; inputs and outputs have fixed scales.

    Buffers: qdata int8 [o, c / groups, k...], scale [o], bias int32 [o] in steps of input_scale * scale, or
    None; input_scale and output_scale float32 [], input_zero_point and output_zero_point uint8 [].
    """

    kind: ClassVar[str] = "int8_static_conv"
    int8_activations = True
    input_scale: Tensor
    input_zero_point: Tensor
    output_scale: Tensor
    output_zero_point: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        if bias:
            self.bias = torch.zeros(out_channels, dtype=torch.int32)
        empty = torch.zeros(out_channels, in_channels // groups, *kernel_size, dtype=torch.int8)
        self.register_buffer("qdata", empty)
        self.register_buffer("scale", torch.ones(out_channels))
        for end in ("input", "output"):
            self.register_buffer(f"{end}_scale", torch.ones(()))
            self.register_buffer(f"{end}_zero_point", torch.tensor(128, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, c, ...] to [b, o, ...]."""
        y: Tensor = int8_static_conv(
            x,
            self.qdata,
            self.scale,
            self.bias,
            self.input_scale,
            self.input_zero_point,
            self.output_scale,
            self.output_zero_point,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )
        return y

    def ranges_(self, inputs: tuple[float, float], outputs: tuple[float, float]) -> Self:
        """Set the ranges, which must contain 0; values beyond them are clipped. Call before `fill_`."""
        self.input_scale, self.input_zero_point = steps_of_range(*inputs)
        self.output_scale, self.output_zero_point = steps_of_range(*outputs)
        return self

    def fill_(self, values: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Self:
        """Set weights, scales and bias; see `QuantizedModule.fill_`. The input range must be set before.

        Args:
            values: int8 [o, c / groups * k...].
            scale: float32 [o].
            bias: float32 [o], if the layer has one.
        """
        if scale is not None and bias is not None:
            values, scale, bias = with_whole_bias(values, scale, bias, self.input_scale)
        return super().fill_(values, scale, bias)

    def dequantize(self) -> Tensor:
        """Float weight, [o, c / groups, k...]."""
        return self.qdata.float() * self.scale.reshape(-1, 1, *[1] * len(self.kernel_size))


def edges_of(layer: nn.Conv1d | nn.Conv2d) -> list[int]:
    """Zero padding of a convolution: before each spatial dimension, then after each."""
    if layer.padding == "valid":
        return [0] * 2 * len(layer.kernel_size)
    if layer.padding == "same":
        totals = [step * (size - 1) for size, step in zip(layer.kernel_size, layer.dilation, strict=True)]
        before = [total // 2 for total in totals]
        return [*before, *(total - first for total, first in zip(totals, before, strict=True))]
    return [int(each) for each in (*layer.padding, *layer.padding)]


def convolution_arguments(layer: nn.Conv1d | nn.Conv2d) -> dict[str, Any]:
    """Keyword arguments that make an empty `ConvolutionModule` of a convolution's shape."""
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": list(layer.kernel_size),
        "stride": list(layer.stride),
        "padding": edges_of(layer),
        "dilation": list(layer.dilation),
        "groups": layer.groups,
        "bias": layer.bias is not None,
    }
