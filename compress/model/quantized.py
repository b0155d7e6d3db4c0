"""Linear and embedding layers that hold integers: what the quantize stages put into a model.

They are made from shapes alone, so a saved state_dict can be loaded into them, and have no parameter: nothing
here can be trained. There is deliberately no `weight`: code that would multiply with it must fail, not go on
in float.

Shapes as in `compress.model.ops`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from compress.model import ops

__all__ = [
    "Int4Embedding",
    "Int4Linear",
    "Int8Embedding",
    "Int8Linear",
    "QUANTIZED_KINDS",
    "QuantizedModule",
]


def _form(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


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

    def fill_(self, values: Tensor, scale: Tensor, bias: Tensor | None = None) -> Self:
        """Take what was chosen for this layer, one row for each output or each row of the table.

        Args:
            values: int8 [o, i] or [v, d]; of layers with 4 bits in [-8, 7] and padded to whole groups.
            scale: float32, one for each row, or one for each row and group.
            bias: float32 [o], of a linear layer that has one.
        """
        for name, new in (("qdata", self._layout(values)), ("scale", scale), ("bias", bias)):
            empty: Tensor | None = getattr(self, name, None)
            if _form(new) != _form(empty):
                raise ValueError(f"{type(self).__name__}.{name} takes {_form(empty)}, not {_form(new)}")
            if new is not None:
                setattr(self, name, new.detach().clone())
        return self

    def _layout(self, values: Tensor) -> Tensor:
        return values

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        """Say what to do where a model reads the float weight that isn't there."""
        if name == "weight":
            raise AttributeError(
                f"{type(self).__name__} has no float weight; a model that reads one itself must keep this "
                "layer float: name it under the stage's `skip`"
            )
        return super().__getattr__(name)

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

    Buffers: qdata int8 [i, o] (the kernel's layout, nn.Linear's transposed), scale [o], bias [o] or none.
    """

    kind: ClassVar[str] = "int8_linear"

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("qdata", torch.zeros(in_features, out_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """[..., i] to [..., o]."""
        y: Tensor = ops.int8_dynamic_linear(x, self.qdata, self.scale, self.bias)
        return y

    def _layout(self, values: Tensor) -> Tensor:
        return values.t().contiguous()

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
        y: Tensor = ops.int4_linear(x, self.qdata, self.scale, self.bias)
        return y

    def _layout(self, values: Tensor) -> Tensor:
        return ops.pack_int4(values).reshape(len(values), -1, self.group_size // 2)  # [o, g, h]

    def dequantize(self) -> Tensor:
        """[o, i]."""
        return (ops.unpack_int4(self.qdata) * self.scale.unsqueeze(-1)).flatten(1)[:, : self.in_features]


class _QuantizedEmbedding(QuantizedModule):
    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        # Some models ask for it; where nothing is trained the padding row is a row like any other.
        self.padding_idx = padding_idx

    def config(self) -> dict[str, Any]:
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
        }


class Int8Embedding(_QuantizedEmbedding):
    """A table of int8 with a scale per row. Buffers: qdata int8 [v, d], scale [v]."""

    kind: ClassVar[str] = "int8_embedding"

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.register_buffer("qdata", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(num_embeddings))

    def forward(self, ids: Tensor) -> Tensor:
        """[...] to [..., d]."""
        rows: Tensor = ops.int8_embedding(ids, self.qdata, self.scale)
        return rows

    def dequantize(self) -> Tensor:
        """[v, d]."""
        return self.qdata.float() * self.scale.unsqueeze(-1)


class Int4Embedding(_QuantizedEmbedding):
    """A table of 4 bits with a scale per row and group. Buffers: qdata uint8 [v, g h], scale [v, g]."""

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
        rows: Tensor = ops.int4_embedding(ids, self.qdata, self.scale, self.embedding_dim)
        return rows

    def _layout(self, values: Tensor) -> Tensor:
        return ops.pack_int4(values)

    def dequantize(self) -> Tensor:
        """[v, d]."""
        every_row = torch.arange(self.num_embeddings, device=self.qdata.device)
        return self.forward(every_row)


QUANTIZED_KINDS: dict[str, type[QuantizedModule]] = {
    layer.kind: layer for layer in (Int4Embedding, Int4Linear, Int8Embedding, Int8Linear)
}
