"""Linear and embedding layers that hold integers: what the quantize stages put into a model.

They are made from shapes alone, so a saved state_dict can be loaded into them, and have no parameter: nothing here
can be trained. There is deliberately no `weight`: code that would multiply with it must fail, not go on in float.

Shapes as in `compress.model.ops`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compress.model import ops

__all__ = ["QUANTIZED_KINDS", "Int4Embedding", "Int4Linear", "Int8Embedding", "Int8Linear", "QuantizedModule"]


class QuantizedModule(nn.Module):
    """A layer with integer weights.

    Class attributes:
        kind: its name in a bundle's structure.json.
    """

    kind: ClassVar[str]
    qdata: Tensor
    scale: Tensor

    def config(self) -> dict[str, Any]:
        """Keyword arguments that make an empty layer of this shape."""
        raise NotImplementedError

    def dequantize(self) -> Tensor:
        """The float weight, in the shape that the float layer has it."""
        raise NotImplementedError

    def fill_(self, qdata: Tensor, scale: Tensor) -> None:
        """Take integers and scales; their shapes and types must be those of the empty layer."""
        for name, new in (("qdata", qdata), ("scale", scale)):
            empty: Tensor = getattr(self, name)
            if new.shape != empty.shape or new.dtype != empty.dtype:
                raise ValueError(
                    f"{type(self).__name__}.{name} takes {empty.dtype} {list(empty.shape)}, "
                    f"not {new.dtype} {list(new.shape)}"
                )
            setattr(self, name, new.detach())

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return ", ".join(f"{key}={value}" for key, value in self.config().items())


class _QuantizedLinear(QuantizedModule):
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    def config(self) -> dict[str, Any]:
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
        }


class Int8Linear(_QuantizedLinear):
    """int8 weights with a scale per output, times activations quantized per token as they come.

    Buffers: qdata int8 [i, o] (transposed against nn.Linear, as the kernel takes it), scale [o], bias [o] or none.
    """

    kind: ClassVar[str] = "int8_linear"

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("qdata", torch.zeros(in_features, out_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """[..., i] to [..., o]."""
        return ops.int8_dynamic_linear(x, self.qdata, self.scale, self.bias)

    def dequantize(self) -> Tensor:
        """[o, i]."""
        return (self.qdata.float() * self.scale).t().contiguous()


class Int4Linear(_QuantizedLinear):
    """Weights of 4 bits with a scale per output and group of inputs, times float activations.

    Buffers: qdata uint8 [o, g, h], scale [o, g], bias [o] or none.
    """

    kind: ClassVar[str] = "int4_linear"
    group_size: ClassVar[int] = ops.GROUP_SIZE

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        groups = -(-in_features // self.group_size)
        # 0x88 is two zeros: each nibble is stored plus 8.
        self.register_buffer(
            "qdata", torch.full((out_features, groups, self.group_size // 2), 0x88, dtype=torch.uint8)
        )
        self.register_buffer("scale", torch.ones(out_features, groups))

    def forward(self, x: Tensor) -> Tensor:
        """[..., i] to [..., o]."""
        return ops.int4_linear(x, self.qdata, self.scale, self.bias)

    def dequantize(self) -> Tensor:
        """[o, i]."""
        return (ops.unpack_int4(self.qdata) * self.scale.unsqueeze(-1)).flatten(1)[:, : self.in_features]


class _QuantizedEmbedding(QuantizedModule):
    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        # Some models ask their embedding for it; the padding row is a row like any other when nothing is trained.
        self.padding_idx = padding_idx

    def config(self) -> dict[str, Any]:
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
        }


class Int8Embedding(_QuantizedEmbedding):
    """A table of int8 with a scale per row. Buffers: qdata int8 [v, d], scale [v, 1]."""

    kind: ClassVar[str] = "int8_embedding"

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.register_buffer("qdata", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(num_embeddings, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """[...] to [..., d]."""
        return ops.int8_embedding(ids, self.qdata, self.scale)

    def dequantize(self) -> Tensor:
        """[v, d]."""
        return self.qdata.float() * self.scale


class Int4Embedding(_QuantizedEmbedding):
    """A table of 4 bits with a scale per row and group of columns. Buffers: qdata uint8 [v, g h], scale [v, g]."""

    kind: ClassVar[str] = "int4_embedding"
    group_size: ClassVar[int] = ops.GROUP_SIZE

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        groups = -(-embedding_dim // self.group_size)
        self.register_buffer(
            "qdata", torch.full((num_embeddings, groups * self.group_size // 2), 0x88, dtype=torch.uint8)
        )
        self.register_buffer("scale", torch.ones(num_embeddings, groups))

    def forward(self, ids: Tensor) -> Tensor:
        """[...] to [..., d]."""
        return ops.int4_embedding(ids, self.qdata, self.scale, self.embedding_dim)

    def dequantize(self) -> Tensor:
        """[v, d]."""
        return ops.int4_embedding(
            torch.arange(self.num_embeddings, device=self.qdata.device), self.qdata, self.scale, self.embedding_dim
        )


QUANTIZED_KINDS: dict[str, type[QuantizedModule]] = {
    layer.kind: layer for layer in (Int4Embedding, Int4Linear, Int8Embedding, Int8Linear)
}
