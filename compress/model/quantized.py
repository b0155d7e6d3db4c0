"""Linear and embedding layers that hold integers: what the quantize stages put into a model.

Convolutions are in `compress.model.convolution`, 16-bit floats in `compress.model.half`, and
`compress.model.kinds` names all.

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
    "EmbeddingModule",
    "Int4Embedding",
    "Int4Linear",
    "Int8Embedding",
    "Int8GroupLinear",
    "Int8Linear",
    "Int8StaticLinear",
    "Int8TensorLinear",
    "LinearModule",
    "QuantizedModule",
    "steps_of_range",
    "with_whole_bias",
]


_LARGEST_BIAS = 2**30  # as an integer: with as much again in products the sum stays within int32


def _form(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def _stored(values: Tensor, bits: int, *, signed: bool) -> Tensor:
    """Integers as they are kept: unsigned, and those of 4 bits two to a byte."""
    unsigned = (values + 2 ** (bits - 1) if signed else values).to(torch.uint8)
    return ops.pack_int4(unsigned) if bits == 4 else unsigned


def steps_of_range(low: float, high: float) -> tuple[Tensor, Tensor]:
    """Scale (float32 []) and zero point (uint8 []) of activations between two numbers, which must hold 0."""
    if not low <= 0 <= high:
        raise ValueError(f"a range of activations holds 0; [{low:g}, {high:g}] does not")
    scale = torch.tensor((high - low) / 255 or 1.0)
    return scale, (-low / scale).round().clamp(0, 255).to(torch.uint8)


def with_whole_bias(
    values: Tensor, scale: Tensor, bias: Tensor, input_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Make a bias int32, in steps of its row's products.

    A bias beyond the steps of int32 takes larger steps: the weights beside it are below rounding.

    Args:
        values: int8 [o, i].
        scale: float32 [o].
        bias: float32 [o].
        input_scale: float32 [].

    Returns:
        Values, scale and bias, the latter int32 [o].
    """
    least = bias.detach().abs() / (input_scale * _LARGEST_BIAS)
    wider = torch.maximum(scale, least)
    values = (values * (scale / wider).unsqueeze(-1)).round().to(torch.int8)
    return values, wider, (bias.detach() / (input_scale * wider)).round().to(torch.int32)


class QuantizedModule(nn.Module):
    """A layer with weights that are no float32.

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

    def example(self, draw: torch.Generator) -> Tensor:
        """Something that it can be given, for a batch of 2, with what is hard about it."""
        raise NotImplementedError

    def fill_(self, values: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Self:
        """Take what was chosen for this layer, one row for each output or each row of the table.

        Args:
            values: whole numbers [o, i] or [v, d]; with zero points unsigned, else signed; of layers with
                groups padded to whole ones.
            scale: float32, one for each row, or one for each row and group; none for numbers as they are.
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


class LinearModule(QuantizedModule):
    """What linear layers have in common."""

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

    def example(self, draw: torch.Generator) -> Tensor:
        """[2, 3, i], with a row of zeros and an outlier."""
        x = torch.randn(2, 3, self.in_features, generator=draw)
        x[0, 0] = 0
        x[1, 1, 0] = 30
        return x


class Int8Linear(LinearModule):
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

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The integers that x [..., i] is multiplied as, in [0, 255], their scale, and the one that means 0.

        Scale and zero point are float32, [..., 1] or [].
        """
        integers, token_scale = ops.token_integers(x)
        return integers, token_scale, integers.new_tensor(128.0)

    def _layout(self, values: Tensor) -> Tensor:
        return values.t().contiguous()

    def dequantize(self) -> Tensor:
        """[o, i]."""
        return (self.qdata.float() * self.scale).t().contiguous()


class Int8TensorLinear(Int8Linear):
    """int8 weights with a scale per output, times activations quantized as they come with one scale a call.

    Buffers: as `Int8Linear`.
    """

    kind: ClassVar[str] = "int8_tensor_linear"

    def forward(self, x: Tensor) -> Tensor:
        """[..., i] to [..., o]."""
        y: Tensor = ops.int8_tensor_linear(x, self.qdata, self.scale, self.bias)
        return y

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Int8Linear.activations`."""
        x_scale, zero_point = ops.tensor_steps(x)
        return ops.quantized(x, x_scale, zero_point), x_scale, zero_point


class Int8StaticLinear(Int8Linear):
    """int8 weights with a scale per output, times activations quantized with a scale chosen beforehand.

    Buffers: qdata int8 [i, o], scale [o], bias int32 [o] in steps of input_scale * scale, or none;
    input_scale float32 [], input_zero_point uint8 [].
    """

    kind: ClassVar[str] = "int8_static_linear"
    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        if bias:
            self.bias = torch.zeros(out_features, dtype=torch.int32)
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("input_zero_point", torch.tensor(128, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """[..., i] to [..., o]."""
        y: Tensor = ops.int8_static_linear(
            x, self.qdata, self.scale, self.bias, self.input_scale, self.input_zero_point
        )
        return y

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Int8Linear.activations`."""
        zero_point = self.input_zero_point.float()
        return ops.quantized(x, self.input_scale, zero_point), self.input_scale, zero_point

    def range_(self, low: float, high: float) -> Self:
        """Take the range of inputs, which must hold 0; beyond it they are clipped. Before `fill_`."""
        self.input_scale, self.input_zero_point = steps_of_range(low, high)
        return self

    def fill_(self, values: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Self:
        """Take what was chosen; see `QuantizedModule.fill_`. The range of inputs must be known."""
        if scale is not None and bias is not None:
            values, scale, bias = with_whole_bias(values, scale, bias, self.input_scale)
        return super().fill_(values, scale, bias)


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
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.group_size = group_size
        groups = -(-in_features // group_size)
        # Nothing but zeros: each integer is stored plus half the range.
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
        }

    def forward(self, x: Tensor) -> Tensor:
        """[..., i] to [..., o]."""
        y: Tensor = ops.weight_only_linear(x, self.qdata, self.scale, self.zero_point, self.bias, self.bits)
        return y

    def zero_points_(self, zero_point: Tensor) -> Self:
        """Take zero points, whole numbers [o, g] in the range of the unsigned integers. Before `fill_`."""
        if self.zero_point is None:
            raise ValueError(f"{type(self).__name__} was made without zero points")
        unsigned = zero_point.to(torch.uint8)
        self.zero_point = ops.pack_int4(unsigned) if self.bits == 4 else unsigned
        return self

    def _layout(self, values: Tensor) -> Tensor:
        packed = _stored(values, self.bits, signed=self.zero_point is None)
        return packed.reshape(len(values), -1, self.group_size * self.bits // 8)  # [o, g, h]

    def dequantize(self) -> Tensor:
        """[o, i]."""
        groups = ops.dequantize_groups(self.qdata, self.scale, self.zero_point, self.bits)
        return groups.flatten(1)[:, : self.in_features]


class Int4Linear(_GroupLinear):
    """Weights of 4 bits with a scale per output and group of inputs, times float activations.

    Buffers: qdata uint8 [o, g, h], scale [o, g], zero_point uint8 [o, ceil(g / 2)] or none, bias [o] or none.
    """

    kind: ClassVar[str] = "int4_linear"
    bits: ClassVar[int] = 4


class Int8GroupLinear(_GroupLinear):
    """Weights of 8 bits with a scale per output and group of inputs, times float activations.

    Buffers: qdata uint8 [o, g, h], scale [o, g], zero_point uint8 [o, g] or none, bias [o] or none.
    """

    kind: ClassVar[str] = "int8_group_linear"
    bits: ClassVar[int] = 8


class EmbeddingModule(QuantizedModule):
    """What tables have in common."""

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

    def example(self, draw: torch.Generator) -> Tensor:
        """[2, 3] ids, among them the first and the last."""
        ids = torch.randint(self.num_embeddings, (2, 3), generator=draw)
        ids[0, 0], ids[1, 2] = 0, self.num_embeddings - 1
        return ids


class Int8Embedding(EmbeddingModule):
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


class Int4Embedding(EmbeddingModule):
    """A table of 4 bits with a scale per row and group of columns.

    Buffers: qdata uint8 [v, g h], scale [v, g], zero_point uint8 [v, ceil(g / 2)] or none.
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
        """[...] to [..., d]."""
        rows: Tensor = ops.int4_embedding(ids, self.qdata, self.scale, self.zero_point, self.embedding_dim)
        return rows

    def zero_points_(self, zero_point: Tensor) -> Self:
        """Take zero points, whole numbers [v, g] in [0, 15]. Before `fill_`."""
        if self.zero_point is None:
            raise ValueError("Int4Embedding was made without zero points")
        self.zero_point = ops.pack_int4(zero_point)
        return self

    def _layout(self, values: Tensor) -> Tensor:
        return _stored(values, 4, signed=self.zero_point is None)

    def dequantize(self) -> Tensor:
        """[v, d]."""
        every_row = torch.arange(self.num_embeddings, device=self.qdata.device)
        return self.forward(every_row)
