"""Layers that store their weights as 16-bit floats and compute in float32.

Nothing else is rounded: weights are widened exactly, and biases stay float32. ONNX Runtime widens a product's
weights once, when the file is loaded, and they then take the memory of float32; of a table only the rows that
are looked up are widened, in each call.

Shapes as in `compress.model.ops.linear` and `compress.model.layers.convolution`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.model.layers.convolution import ConvolutionModule
from compress.model.layers.quantized import EmbeddingModule, LinearModule
from compress.model.ops import linear as ops
from compress.model.ops.convolution import pad_edges

__all__ = ["HalfConv", "HalfEmbedding", "HalfLinear", "HalfType", "half_type"]

HalfType = Literal["float16", "bfloat16"]


def half_type(name: HalfType) -> torch.dtype:
    """The torch type of that name."""
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}[name]


class HalfLinear(LinearModule):
    """Linear layer; buffers: qdata float16 or bfloat16 [o, i], bias float32 [o] or None."""

    kind: ClassVar[str] = "half_linear"

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: HalfType = "float16"
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.dtype = dtype
        self.register_buffer("qdata", torch.zeros(out_features, in_features, dtype=half_type(dtype)))

    def config(self) -> dict[str, Any]:
        """Keyword arguments that make an empty layer of this shape."""
        return {**super().config(), "dtype": self.dtype}

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., i] to [..., o]."""
        return F.linear(x, ops.widened(self.qdata), self.bias)

    def dequantize(self) -> Tensor:
        """Float weight, [o, i]."""
        return self.qdata.float()


class HalfConv(ConvolutionModule):
    """Convolution; buffers: qdata float16 or bfloat16 [o, c / groups, k...], bias float32 [o] or None."""

    kind: ClassVar[str] = "half_conv"

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
        dtype: HalfType = "float16",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.dtype = dtype
        empty = torch.zeros(out_channels, in_channels // groups, *kernel_size, dtype=half_type(dtype))
        self.register_buffer("qdata", empty)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that make an empty layer of this shape."""
        return {**super().config(), "dtype": self.dtype}

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, c, ...] to [b, o, ...]."""
        spatial = len(self.kernel_size)
        before, after = self.padding[:spatial], self.padding[spatial:]
        if before != after:
            x, before = pad_edges(x, self.padding), [0] * spatial
        convolve = F.conv1d if spatial == 1 else F.conv2d
        weight = ops.widened(self.qdata)
        return convolve(x, weight, self.bias, self.stride, before, self.dilation, self.groups)

    def dequantize(self) -> Tensor:
        """Float weight, [o, c / groups, k...]."""
        return self.qdata.float()


class HalfEmbedding(EmbeddingModule):
    """Embedding table; buffers: qdata float16 or bfloat16 [v, d]."""

    kind: ClassVar[str] = "half_embedding"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: HalfType = "float16",
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.dtype = dtype
        self.register_buffer("qdata", torch.zeros(num_embeddings, embedding_dim, dtype=half_type(dtype)))

    def config(self) -> dict[str, Any]:
        """Keyword arguments that make an empty layer of this shape."""
        return {**super().config(), "dtype": self.dtype}

    def forward(self, ids: Tensor) -> Tensor:
        """Map [...] to [..., d]."""
        return F.embedding(ids, self.qdata).float()

    def dequantize(self) -> Tensor:
        """Float table, [v, d]."""
        return self.qdata.float()
