"""Linear layers and tables with 4 or 8 bits in groups that share a scale.

Shapes as in `compress.model.ops.linear`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from compress.model.layers.quantized import EmbeddingModule, LinearModule
from compress.model.ops import linear as ops

__all__ = ["Int4Embedding", "Int4Linear", "Int8GroupLinear", "SharedEmbedding"]


def _stored(values: Tensor, bits: int, *, signed: bool) -> Tensor:
    """Storage format of integers: unsigned, and with 4 bits two per byte."""
    unsigned = (values + 2 ** (bits - 1) if signed else values).to(torch.uint8)
    return ops.pack_int4(unsigned) if bits == 4 else unsigned


class _GroupLinear(LinearModule):
    bits: ClassVar[int]
    zero_point: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        group_size: int = 32,
        zero_points: bool = False,
        int8_activations: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.group_size = group_size
        self.int8_activations = int8_activations
        groups = -(-in_features // group_size)
        # All zeros: each integer is stored plus half the range.
        zero = 0x88 if self.bits == 4 else 0x80
        self.register_buffer(
            "qdata",
            torch.full((out_features, groups, group_size * self.bits // 8), zero, dtype=torch.uint8),
        )
        self.register_buffer("scale", torch.ones(out_features, groups))
        stored = -(-groups * self.bits // 8)
        self.register_buffer(
            "zero_point",
            torch.full((out_features, stored), zero, dtype=torch.uint8) if zero_points else None,
        )

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            "group_size": self.group_size,
            "zero_points": self.zero_point is not None,
            "int8_activations": self.int8_activations,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., i] to [..., o]."""
        y: Tensor = ops.weight_only_linear(
            x, self.qdata, self.scale, self.zero_point, self.bias, self.bits, self.int8_activations
        )
        return y

    def zero_points_(self, zero_point: Tensor) -> Self:
        """Set zero points, whole numbers [o, g] in the range of the unsigned integers. Before `fill_`."""
        if self.zero_point is None:
            raise ValueError(f"{type(self).__name__} was created without zero points")
        unsigned = zero_point.to(torch.uint8)
        self.zero_point = ops.pack_int4(unsigned) if self.bits == 4 else unsigned
        return self

    def _layout(self, values: Tensor) -> Tensor:
        packed = _stored(values, self.bits, signed=self.zero_point is None)
        return packed.reshape(len(values), -1, self.group_size * self.bits // 8)  # [o, g, h]

    def dequantize(self) -> Tensor:
        """Float weight, [o, i]."""
        groups = ops.dequantize_groups(self.qdata, self.scale, self.zero_point, self.bits)
        return groups.flatten(1)[:, : self.in_features]


class Int4Linear(_GroupLinear):
    """4-bit weights with a scale per output and group of inputs; float or int8 activations.

    Buffers: qdata uint8 [o, g, h], scale [o, g], zero_point uint8 [o, ceil(g / 2)] or None, bias [o] or None.
    """

    kind: ClassVar[str] = "int4_linear"
    bits: ClassVar[int] = 4


class Int8GroupLinear(_GroupLinear):
    """8-bit weights with a scale per output and group of inputs; float or int8 activations.

    Buffers: qdata uint8 [o, g, h], scale [o, g], zero_point uint8 [o, g] or None, bias [o] or None.
    """

    kind: ClassVar[str] = "int8_group_linear"
    bits: ClassVar[int] = 8


class Int4Embedding(EmbeddingModule):
    """A 4-bit table with a scale per row and group of columns.

    Buffers: qdata uint8 [v, g h], scale [v, g], zero_point uint8 [v, ceil(g / 2)] or None.
    """

    kind: ClassVar[str] = "int4_embedding"
    zero_point: Tensor | None

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        group_size: int = 32,
        zero_points: bool = False,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.group_size = group_size
        groups = -(-embedding_dim // group_size)
        self.register_buffer(
            "qdata", torch.full((num_embeddings, groups * group_size // 2), 0x88, dtype=torch.uint8)
        )
        self.register_buffer("scale", torch.ones(num_embeddings, groups))
        stored = -(-groups // 2)
        self.register_buffer(
            "zero_point",
            torch.full((num_embeddings, stored), 0x88, dtype=torch.uint8) if zero_points else None,
        )

    def config(self) -> dict[str, Any]:
        return {
            **super().config(),
            "group_size": self.group_size,
            "zero_points": self.zero_point is not None,
        }

    def forward(self, ids: Tensor) -> Tensor:
        """Map [...] to [..., d]."""
        rows: Tensor = ops.int4_embedding(ids, self.qdata, self.scale, self.zero_point, self.embedding_dim)
        return rows

    def zero_points_(self, zero_point: Tensor) -> Self:
        """Set zero points, whole numbers [v, g] in [0, 15]. Call before `fill_`."""
        if self.zero_point is None:
            raise ValueError("Int4Embedding was created without zero points")
        self.zero_point = ops.pack_int4(zero_point)
        return self

    def _layout(self, values: Tensor) -> Tensor:
        return _stored(values, 4, signed=self.zero_point is None)

    def dequantize(self) -> Tensor:
        """Float table, [v, d]."""
        every_row = torch.arange(self.num_embeddings, device=self.qdata.device)
        return self.forward(every_row)


class SharedEmbedding(EmbeddingModule):
    """A table stored as the weight of a linear layer that is tied to it (an output layer).

    Modules: linear, the layer with its buffers; the model also has it in its own place.
    """

    kind: ClassVar[str] = "shared_embedding"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        bits: int = 4,
        **settings: Any,
    ) -> None:
        """Make a table with its own linear layer.

        Args:
            bits: 4 or 8.
            settings: further arguments of the linear layer, except its sizes.
        """
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        kind = Int4Linear if bits == 4 else Int8GroupLinear
        self.linear: _GroupLinear = kind(embedding_dim, num_embeddings, **settings)

    @classmethod
    def of(cls, linear: Int4Linear | Int8GroupLinear, padding_idx: int | None = None) -> SharedEmbedding:
        """Make a table that shares an existing layer."""
        settings = {name: each for name, each in linear.config().items() if not name.endswith("_features")}
        made = cls(1, linear.in_features, padding_idx, linear.bits, **settings)
        made.num_embeddings, made.linear = linear.out_features, linear
        return made

    def config(self) -> dict[str, Any]:
        settings = {k: v for k, v in self.linear.config().items() if not k.endswith("_features")}
        return {**super().config(), "bits": self.linear.bits, **settings}

    def forward(self, ids: Tensor) -> Tensor:
        """Map [...] to [..., d]."""
        linear = self.linear
        rows: Tensor = ops.group_embedding(
            ids, linear.qdata, linear.scale, linear.zero_point, linear.bits, self.embedding_dim
        )
        return rows

    def dequantize(self) -> Tensor:
        """Float table, [v, d]."""
        return self.linear.dequantize()
