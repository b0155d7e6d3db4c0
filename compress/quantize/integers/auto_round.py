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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.quantize.integers.grid import (
    Grid,
    Steps,
    as_integers,
    dequantize,
    grouped,
    per_input,
    steps_between,
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
    seed: int = 0,
) -> dict[str, tuple[Tensor, Steps]]:
    """Choose the integers of the linear layers of a block.

    Args:
        layers: by name, in eval mode; their weights are unchanged afterwards.
        calls: of the block, with its inputs.
        steps: of the learning, one call each, in an order drawn anew each time all have been used. The first
            moves values by 1 / steps, with which V can just reach its ends.

    Returns:
        By name: values [o, i], as from `as_integers`, and steps. Those of rounding to nearest if, over all
        calls, the error of these is not smaller.

    Raises:
        StageError: weights are empty or not finite.
    """
    parts = {name: _Learned.of(layer.weight, grid_of(name)) for name, layer in layers.items()}
    values = [value for part in parts.values() for value in part.values]
    nearest = {name: part.settled() for name, part in parts.items()}
    before = _error_with(layers, parts, nearest, calls)
    draw = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for at in range(steps):
        order = order or torch.randperm(len(calls), generator=draw).tolist()
        with torch.enable_grad(), _weights(layers, {name: part.weight() for name, part in parts.items()}):
            loss = _error(calls[order.pop()])
        for value, gradient in zip(values, torch.autograd.grad(loss, values, allow_unused=True), strict=True):
            if gradient is not None:
                value.data.sub_(gradient.sign(), alpha=(1 - at / steps) / steps)
        for part in parts.values():
            part.clamp_()
    found = {name: part.settled() for name, part in parts.items()}
    return found if _error_with(layers, parts, found, calls) < before else nearest


@dataclass(frozen=True)
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
    values: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, weight: Tensor, grid: Grid) -> _Learned:
        """Start as rounding to nearest."""
        groups = grouped(weight, grid)
        low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
        shift = torch.zeros_like(weight, dtype=torch.float32).requires_grad_()
        factors = (torch.ones_like(low).requires_grad_(), torch.ones_like(low).requires_grad_())
        return cls(weight.detach().float(), grid, low, high, (shift, *factors))

    def weight(self) -> Tensor:
        """The dequantized weight, differentiable."""
        return dequantize(*self._rounded(), self.grid)

    def settled(self) -> tuple[Tensor, Steps]:
        """The integers and steps."""
        with torch.no_grad():
            whole, steps = self._rounded()
            return as_integers(whole, self.grid), steps

    def clamp_(self) -> None:
        """Bring the values back into their ranges."""
        shift, *factors = self.values
        shift.data.clamp_(-0.5, 0.5)
        for factor in factors:
            factor.data.clamp_(LEAST_FACTOR, 1)

    def _rounded(self) -> tuple[Tensor, Steps]:
        """Whole numbers as floats, and steps; differentiable."""
        shift, of_low, of_high = self.values
        low, grid, features = self.low * of_low, self.grid, self.exact.shape[1]
        steps = steps_between(low, self.high * of_high, grid)
        whole = _round(self.exact / per_input(steps.scale, features, grid) + shift)
        if steps.zero_point is not None:
            steps = Steps(steps.scale, _round(0 - low / steps.scale).clamp(grid.low, grid.high))
            whole = whole + per_input(steps.zero_point, features, grid)  # type: ignore[arg-type]
        return whole.clamp(grid.low, grid.high), steps


def _round(x: Tensor) -> Tensor:
    """Round, with the gradient of the identity."""
    return x + (x.round() - x).detach()


@contextmanager
def _weights(layers: Mapping[str, nn.Linear], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace the layers' weights while open."""
    kept = {name: layer._parameters["weight"] for name, layer in layers.items()}
    for name, layer in layers.items():
        layer._parameters["weight"] = weights[name]  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, layer in layers.items():
            layer._parameters["weight"] = kept[name]


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
