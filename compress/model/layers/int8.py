"""int8 linear layers and tables, with dynamic or fixed activation scales.

Shapes as in `compress.model.ops.linear`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from compress.model.layers.quantized import EmbeddingModule, LinearModule
from compress.model.ops import linear as ops

__all__ = [
    "Int8Embedding",
    "Int8FittedLinear",
    "Int8Linear",
    "Int8StaticLinear",
    "Int8TensorLinear",
    "steps_of_range",
    "with_whole_bias",
]

_LARGEST_BIAS = 2**30  # as an integer: with as much again in products the sum stays within int32


def steps_of_range(low: float, high: float) -> tuple[Tensor, Tensor]:
    """Scale (float32 []) and zero point (uint8 []) of activations in a range, which must contain 0."""
    if not low <= 0 <= high:
        raise ValueError(f"a range of activations must contain 0; got [{low:g}, {high:g}]")
    scale = torch.tensor((high - low) / 255 or 1.0)
    return scale, (-low / scale).round().clamp(0, 255).to(torch.uint8)


def with_whole_bias(
    values: Tensor, scale: Tensor, bias: Tensor, input_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Convert a bias to int32, in steps of its row's products.

    A bias too large for int32 gets larger steps: its row's weights are negligible next to it.

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


class Int8Linear(LinearModule):
    """int8 weights with a scale per output; activations are quantized dynamically per token.

    Buffers: qdata int8 [i, o] (the kernel's layout, nn.Linear's transposed), scale [o], bias [o] or None.
    """

    kind: ClassVar[str] = "int8_linear"
    int8_activations = True

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("qdata", torch.zeros(in_features, out_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., i] to [..., o]."""
        y: Tensor = ops.int8_dynamic_linear(x, self.qdata, self.scale, self.bias)
        return y

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Integers in [0, 255] that represent x [..., i], with their scale and zero point.

        Scale and zero point are float32, [..., 1] or [].
        """
        integers, token_scale = ops.token_integers(x)
        return integers, token_scale, integers.new_tensor(128.0)

    def _layout(self, values: Tensor) -> Tensor:
        return values.t().contiguous()

    def dequantize(self) -> Tensor:
        """Float weight, [o, i]."""
        return (self.qdata.float() * self.scale).t().contiguous()


class Int8FittedLinear(Int8Linear):
    """As `Int8Linear`, with a zero point, and factors of input features, that fit the layer's inputs.

    Buffers: as `Int8Linear`; factors [i], or None. The weights are those of the multiplied inputs.
    """

    kind: ClassVar[str] = "int8_fitted_linear"
    factors: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        zero_point: int = 128,
        has_factors: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.zero_point = zero_point
        self.register_buffer("factors", torch.ones(in_features) if has_factors else None)

    def config(self) -> dict[str, Any]:
        fitted = {"zero_point": self.zero_point, "has_factors": self.factors is not None}
        return super().config() | fitted

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., i] to [..., o]."""
        y: Tensor = ops.int8_fitted_linear(
            self._multiplied(x), self.qdata, self.scale, self.bias, self.zero_point
        )
        return y

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Int8Linear.activations`, of the multiplied inputs."""
        x = self._multiplied(x)
        token_scale, zero_point = ops.fitted_scale(x, self.zero_point), x.new_tensor(float(self.zero_point))
        return ops.quantized(x, token_scale, zero_point), token_scale, zero_point

    def dequantize(self) -> Tensor:
        """Float weight of the inputs as they are, [o, i]."""
        weight = super().dequantize()
        return weight if self.factors is None else weight * self.factors

    def fit_(self, factors: Tensor | None, zero_point: int) -> Self:
        """Set factors [i], or none, and the zero point, in [0, 255]."""
        self.factors = None if factors is None else factors.detach().clone()
        self.zero_point = zero_point
        return self

    def _multiplied(self, x: Tensor) -> Tensor:
        return x if self.factors is None else x * self.factors


class Int8TensorLinear(Int8Linear):
    """int8 weights with a scale per output; activations are quantized dynamically with one scale per call.

    Buffers: as `Int8Linear`.
    """

    kind: ClassVar[str] = "int8_tensor_linear"

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., i] to [..., o]."""
        y: Tensor = ops.int8_tensor_linear(x, self.qdata, self.scale, self.bias)
        return y

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Int8Linear.activations`."""
        x_scale, zero_point = ops.tensor_steps(x)
        return ops.quantized(x, x_scale, zero_point), x_scale, zero_point


class Int8StaticLinear(Int8Linear):
    """int8 weights with a scale per output; activations are quantized with a fixed scale.

    Buffers: qdata int8 [i, o], scale [o], bias int32 [o] in steps of input_scale * scale, or None;
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
        """Map [..., i] to [..., o]."""
        y: Tensor = ops.int8_static_linear(
            x, self.qdata, self.scale, self.bias, self.input_scale, self.input_zero_point
        )
        return y

    def activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Int8Linear.activations`."""
        zero_point = self.input_zero_point.float()
        return ops.quantized(x, self.input_scale, zero_point), self.input_scale, zero_point

    def range_(self, low: float, high: float) -> Self:
        """Set the range of inputs, which must contain 0; values beyond it are clipped. Before `fill_`."""
        self.input_scale, self.input_zero_point = steps_of_range(low, high)
        return self

    def fill_(self, values: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Self:
        """Set weights, scales and bias; see `QuantizedModule.fill_`. The input range must be set before."""
        if scale is not None and bias is not None:
            values, scale, bias = with_whole_bias(values, scale, bias, self.input_scale)
        return super().fill_(values, scale, bias)


class Int8Embedding(EmbeddingModule):
    """An int8 table with a scale per row. Buffers: qdata int8 [v, d], scale [v]."""

    kind: ClassVar[str] = "int8_embedding"

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.register_buffer("qdata", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(num_embeddings))

    def forward(self, ids: Tensor) -> Tensor:
        """Map [...] to [..., d]."""
        rows: Tensor = ops.int8_embedding(ids, self.qdata, self.scale)
        return rows

    def dequantize(self) -> Tensor:
        """Float table, [v, d]."""
        return self.qdata.float() * self.scale.unsqueeze(-1)
