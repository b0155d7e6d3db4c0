"""Trainable versions of quantized layers: float weights behind the exact layer that will be exported.

Forward: weights are rounded to their integers, and the exported layer computes the output, bit for bit.
Backward: the gradient of the float product at the dequantized values, straight through the rounding (Bengio
et al. 2013, arXiv 1308.3432), except for values outside the range of the integers, which don't affect the
output. Pruned weights, exactly 0, stay 0.

torchao's fake quantizers are not used: they choose scales in every step, tokens with a zero point and
symmetric groups by a rule that clips, which differ from our layers (a test compares), and they multiply in
float; the trained model would not be the exported one.

Shapes: ... = leading dimensions, i = input features, o = output features, v = rows of a table, d = its width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.model.layers.int8 import Int8Linear
from compress.model.layers.quantized import LinearModule, QuantizedModule
from compress.quantize.integers.choose import Integers
from compress.quantize.integers.grid import Grid, Steps, dequantize, per_input, round_to

__all__ = ["TrainableEmbedding", "TrainableLinear"]

# Rounding moves a value by at most half a step; the rest is the error of the division.
_HALF_A_STEP = 0.5001


class _Trainable(nn.Module):
    """Base: a float weight, and the fixed steps of its integers."""

    weight: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def _begin_(self, weight: Tensor, integers: Integers) -> None:
        """Start with the float weights, or the dequantized integer where rounding would give another one."""
        self._grid: Grid = integers.grid
        self.register_buffer("scale", integers.steps.scale.detach().clone())
        zero_point = integers.steps.zero_point
        self.register_buffer("zero_point", None if zero_point is None else zero_point.detach().clone())
        weight = weight.detach()
        same = round_to(weight, integers.steps, integers.grid) == integers.values
        near = dequantize(integers.values, integers.steps, integers.grid)
        self.weight = nn.Parameter(torch.where(same, weight, near))

    def _integers(self) -> Integers:
        steps = Steps(self.scale, self.zero_point)
        return Integers(self._grid, round_to(self.weight, steps, self._grid), steps)


class TrainableLinear(_Trainable, nn.Linear):
    """A trainable linear layer whose output equals its exported layer's."""

    pruned: Tensor | None

    def __init__(
        self,
        layer: nn.Linear,
        integers: Integers,
        bias: Tensor | None,
        make: Callable[[nn.Linear, Integers, Tensor | None], LinearModule],
    ) -> None:
        """Start as the exported layer of these integers.

        Args:
            layer: the float layer; left unchanged.
            bias: [o], or None.
            make: makes the exported layer.
        """
        super().__init__(layer.in_features, layer.out_features, bias is not None, device="meta")
        self._make = make
        self._begin_(layer.weight, integers)
        pruned = layer.weight.detach() == 0
        self.register_buffer("pruned", pruned if bool(pruned.any()) else None)
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone())

    def exported(self) -> LinearModule:
        """The quantized layer with the current weights."""
        return self._make(self, self._integers(), self.bias).to(self.weight.device).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., i] to [..., o], float32."""
        y: Tensor = _Answer.apply(x, self.weight, self.bias, self)
        return y

    def free(self, near: Tensor) -> Tensor:
        """Mask of trainable weights, bool [o, i]: within half a step of `near`, the dequantized ones."""
        step = per_input(self.scale, self.in_features, self._grid)
        within = (self.weight - near).abs() <= _HALF_A_STEP * step
        return within if self.pruned is None else within & ~self.pruned


class _Answer(torch.autograd.Function):
    """The exported layer's output, with the gradient of the float product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: TrainableLinear) -> Tensor:
        exported, given = layer.exported(), x.float()  # bf16 under autocast
        near = exported.dequantize()
        multiplied, within = _as_multiplied(exported, given)
        ctx.save_for_backward(multiplied, within, near, layer.free(near))
        ctx.dtype = x.dtype
        answer: Tensor = exported(given)
        return answer

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        multiplied, within, near, free = ctx.saved_tensors
        flat = gradient.float().flatten(0, -2)  # [t, o]
        to_x = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = gradient.float() @ near
            to_x = (to_x if within is None else to_x * within).to(ctx.dtype)
        to_weight = flat.t() @ multiplied.flatten(0, -2) * free
        if ctx.needs_input_grad[2]:
            to_bias = flat.sum(0)
        return to_x, to_weight, to_bias, None


def _as_multiplied(layer: LinearModule, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The dequantized inputs that a layer multiplies, and a mask of those within its range; None: all."""
    if not isinstance(layer, Int8Linear):
        return x, None
    integers, scale, zero_point = layer.activations(x)
    near = (integers - zero_point) * scale
    return near, (x - near).abs() <= _HALF_A_STEP * scale


class TrainableEmbedding(_Trainable, nn.Embedding):
    """A trainable table whose output equals its exported table's; only the rows looked up are rounded."""

    def __init__(
        self,
        layer: nn.Embedding,
        integers: Integers,
        make: Callable[[nn.Embedding, Integers], QuantizedModule],
    ) -> None:
        """Start as the exported table of these integers.

        Args:
            layer: the float table; left unchanged.
            make: makes the exported table.
        """
        super().__init__(layer.num_embeddings, layer.embedding_dim, layer.padding_idx, device="meta")
        self._make = make
        self._begin_(layer.weight, integers)

    def exported(self) -> QuantizedModule:
        """The quantized table with the current weights."""
        return self._make(self, self._integers()).to(self.weight.device).eval()

    def forward(self, ids: Tensor) -> Tensor:
        """Map [...] to [..., d], float32."""
        rows = F.embedding(ids, self.weight, self.padding_idx)
        flat = rows.detach().flatten(0, -2)  # [t, d]
        zero_point = None if self.zero_point is None else self.zero_point[ids].flatten(0, -2)
        steps = Steps(self.scale[ids].flatten(0, -2), zero_point)
        near = dequantize(round_to(flat, steps, self._grid), steps, self._grid)
        free = (flat - near).abs() <= _HALF_A_STEP * per_input(steps.scale, flat.shape[1], self._grid)
        # The difference is exactly 0; it only adds the gradient.
        return near.view_as(rows) + (rows - rows.detach()) * free.view_as(rows)
