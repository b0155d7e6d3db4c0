"""AutoRound: learn how the weights of a block are rounded and clipped, by the sign of the gradient.

Cheng et al. 2023, arXiv 2309.05516. The integers of a weight are clamp(round(W / s + V) + z, low, high): V in
[-1/2, 1/2] moves each weight to one of its two neighbours, and s and z follow from the group's range, whose
ends are multiplied by factors up to 1. V and the factors are learned for all linear layers of a block
together, to minimize the mean squared error of the block's output, without labels. Rounding has the gradient
of the identity; each step has the size of the learning rate, which falls linearly to 0. The block reads what
the quantized blocks before it give, and is to answer as in the float model.

Shapes: o = output features, i = input features, g = groups of i, s = inputs of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.quantize.integers.grid import (
    Grid,
    Steps,
    as_integers,
    dequantize,
    fit_steps,
    per_input,
)

__all__ = ["Call", "learned_integers"]

STEPS = 200
LEAST_FACTOR = 0.05  # of a range; 0 would make all weights of a group equal


@dataclass(frozen=True)
class Call:
    """A call of a block, and the output to be met.

    Attributes:
        run: calls the block on these rows; gradients flow to its weights.
        output: of the float model, [..., d].
        counts: 1 where a position counts, 0 for padding: [..., 1]; None: all count.
    """

    run: Callable[[], Tensor]
    output: Tensor
    counts: Tensor | None


def learned_integers(
    layers: Mapping[str, nn.Linear],
    grid_of: Callable[[str], Grid],
    calls: Sequence[Call],
    *,
    steps: int = STEPS,
    learning_rate: float | None = None,
    seed: int = 0,
) -> dict[str, tuple[Tensor, Steps]]:
    """Choose the integers of the linear layers of a block.

    Args:
        layers: by name, in eval mode; their weights are unchanged afterwards.
        calls: of the block, with its inputs.
        steps: of the learning, one call each, in an order drawn anew each time all have been used.
        learning_rate: of the first step; None: 1 / steps, with which V can just reach its ends.

    Returns:
        By name: values [o, i], as from `as_integers`, and steps. Those of rounding to nearest if, over all
        calls, the error of these is not smaller.

    Raises:
        StageError: weights or outputs are empty or not finite.
    """
    rate = 1 / steps if learning_rate is None else learning_rate
    parts = {name: _Learned.of(layer.weight, grid_of(name)) for name, layer in layers.items()}
    nearest = {name: part.settled() for name, part in parts.items()}
    before = _error_with(layers, parts, nearest, calls)
    draw = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for at in range(steps):
        order = order or torch.randperm(len(calls), generator=draw).tolist()
        with torch.enable_grad(), _weights(layers, {name: each.weight() for name, each in parts.items()}):
            loss = _error(calls[order.pop()])
        values = [value for part in parts.values() for value in part.values]
        gradients = torch.autograd.grad(loss, values, allow_unused=True)
        for part, triple in zip(parts.values(), zip(*[iter(gradients)] * 3, strict=True), strict=True):
            part.step_(triple, rate * (1 - at / steps))
    found = {name: part.settled() for name, part in parts.items()}
    return found if _error_with(layers, parts, found, calls) < before else nearest


@dataclass
class _Learned:
    """What is learned of one weight.

    Attributes:
        exact: the weight, [o, i].
        low, high: ends of each group's range, [o, g].
        values: V [o, i], and the factors of both ends, [o, g].
    """

    exact: Tensor
    grid: Grid
    low: Tensor
    high: Tensor
    values: list[Tensor]

    @classmethod
    def of(cls, weight: Tensor, grid: Grid) -> _Learned:
        """Start as rounding to nearest."""
        exact = weight.detach().float()
        fit_steps(exact, grid)  # refuses weights that are not finite
        size = grid.group_size or exact.shape[1]
        groups = F.pad(exact, (0, -exact.shape[1] % size)).reshape(len(exact), -1, size)
        low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
        factors = [torch.ones_like(low).requires_grad_() for _ in range(2)]
        return cls(exact, grid, low, high, [torch.zeros_like(exact).requires_grad_(), *factors])

    def steps(self) -> tuple[Tensor, Tensor | None]:
        """Scale and zero point [o, g], differentiable."""
        low, high = self.low * self.values[1], self.high * self.values[2]
        grid = self.grid
        scale = (
            torch.maximum(high / grid.high, low / grid.low) if grid.symmetric else (high - low) / grid.high
        )
        scale = torch.where(scale >= torch.finfo(scale.dtype).tiny, scale, 1.0)
        return scale, None if grid.symmetric else _rounded(-low / scale).clamp(grid.low, grid.high)

    def weight(self) -> Tensor:
        """The dequantized weight, differentiable."""
        scale, zero = self.steps()
        wide = per_input(scale, self.exact.shape[1], self.grid)
        shift = 0.0 if zero is None else per_input(zero, self.exact.shape[1], self.grid)
        whole = _rounded(self.exact / wide + self.values[0]) + shift
        return (whole.clamp(self.grid.low, self.grid.high) - shift) * wide

    def step_(self, gradients: Sequence[Tensor | None], size: float) -> None:
        """Move everything by `size` against the sign of its gradient."""
        with torch.no_grad():
            for value, gradient in zip(self.values, gradients, strict=True):
                if gradient is not None:
                    value.sub_(gradient.sign(), alpha=size)
            self.values[0].clamp_(-0.5, 0.5)
            for factor in self.values[1:]:
                factor.clamp_(LEAST_FACTOR, 1)

    def settled(self) -> tuple[Tensor, Steps]:
        """The integers and steps."""
        with torch.no_grad():
            scale, zero = self.steps()
            features = self.exact.shape[1]
            whole = (self.exact / per_input(scale, features, self.grid) + self.values[0]).round()
            if zero is not None:
                whole = whole + per_input(zero, features, self.grid)
            return as_integers(whole.clamp(self.grid.low, self.grid.high), self.grid), Steps(scale, zero)


def _rounded(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


class _weights:
    """Replaces the layers' weights while open."""

    def __init__(self, layers: Mapping[str, nn.Linear], weights: Mapping[str, Tensor]) -> None:
        self._layers, self._weights = layers, weights

    def __enter__(self) -> None:
        self._kept = {name: layer._parameters["weight"] for name, layer in self._layers.items()}
        for name, layer in self._layers.items():
            layer._parameters["weight"] = self._weights[name]  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        for name, layer in self._layers.items():
            layer._parameters["weight"] = self._kept[name]


def _error(call: Call) -> Tensor:
    off = (call.run().float() - call.output).square()
    if call.counts is None:
        return off.mean()
    return (off * call.counts).sum() / (call.counts.sum() * off.shape[-1])


def _error_with(
    layers: Mapping[str, nn.Linear],
    parts: Mapping[str, _Learned],
    chosen: Mapping[str, tuple[Tensor, Steps]],
    calls: Sequence[Call],
) -> float:
    near = {name: dequantize(*each, parts[name].grid) for name, each in chosen.items()}
    with torch.no_grad(), _weights(layers, near):
        return sum(float(_error(call)) for call in calls)
