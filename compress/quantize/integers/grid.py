"""The whole numbers that a weight may become, and the scales that lead there and back.

    q = clamp(round(w / scale) + zero_point, low, high)        w' = (q - zero_point) * scale
as ONNX defines QuantizeLinear and DequantizeLinear: round half to even first, then shift. A group is a run of
neighbouring inputs of one output that shares a scale; the last may be shorter than the others.

Every function takes O(o i) time and holds a few tensors of the weight's size.
Shapes: o = output features, i = input features, g = groups of i, s = inputs of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Grid",
    "Steps",
    "as_integers",
    "better_steps",
    "check_finite",
    "dequantize",
    "fit_steps",
    "grouped",
    "per_input",
    "round_to",
    "steps_between",
    "whole_steps",
]


@dataclass(frozen=True)
class Grid:
    """What the integers of a weight may be.

    Attributes:
        bits: 2 to 8.
        group_size: inputs that share a scale; none: the whole row does.
        symmetric: signed integers without a zero point; otherwise unsigned ones with it.
        reduce_range: one bit fewer than would fit.
    """

    bits: int
    group_size: int | None
    symmetric: bool = True
    reduce_range: bool = False

    def __post_init__(self) -> None:
        """Refuse what no integer type or no group can hold."""
        if not 2 <= self.bits - self.reduce_range <= self.bits <= 8:
            raise ValueError(f"{self.bits} bits{' less one' * self.reduce_range}; allowed: 2 to 8")
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"groups of {self.group_size} inputs; allowed: 1 and more, or None")

    @property
    def low(self) -> int:
        """The smallest integer."""
        return -(1 << self.bits - self.reduce_range - 1) if self.symmetric else 0

    @property
    def high(self) -> int:
        """The largest integer."""
        return (1 << self.bits - self.reduce_range) - 1 + self.low


@dataclass(frozen=True)
class Steps:
    """How far apart the values of each group are, and which integer stands for 0.

    Attributes:
        scale: float32 [o, g], finite and positive.
        zero_point: float32 [o, g] of whole numbers that the grid has; none: 0, of a symmetric grid.
    """

    scale: Tensor
    zero_point: Tensor | None


def fit_steps(weight: Tensor, grid: Grid, clip: Tensor | float = 1.0) -> Steps:
    """Choose the smallest scales that clip no weight by more than rounding moves it, half a step.

    Args:
        weight: [o, i].
        clip: keep only this fraction of each group's range, in (0, 1]; a number, or one a group, [o, g].

    Returns:
        Steps whose range holds 0, which is exact.

    Raises:
        StageError: the weights are not all numbers, or there are none.
    """
    groups = grouped(weight, grid)
    return steps_between(groups.amin(2).clamp(max=0) * clip, groups.amax(2).clamp(min=0) * clip, grid)


def steps_between(low: Tensor, high: Tensor, grid: Grid) -> Steps:
    """The smallest scales that reach from low to high.

    Args:
        low: float32 of any shape, 0 or less.
        high: the same shape, 0 or more.

    Returns:
        Steps of that shape; where the range is empty the scale is 1, so that zeros stay zeros.
    """
    import torch

    if grid.symmetric:
        scale = torch.maximum(high / grid.high, low / grid.low)
    else:
        scale = high / grid.high - low / grid.high  # the difference itself may overflow
    # Below the smallest normal number a quotient by the scale has few digits or overflows.
    scale = torch.where(scale >= torch.finfo(scale.dtype).tiny, scale, 1.0)
    if grid.symmetric:
        return Steps(scale, None)
    return Steps(scale, (0 - low / scale).round().clamp(grid.low, grid.high))


def round_to(weight: Tensor, steps: Steps, grid: Grid) -> Tensor:
    """Round each weight to its nearest integer, a half to the even one.

    Args:
        weight: [o, i].

    Returns:
        [o, i], as `as_integers` gives it.

    Raises:
        StageError: the weights are not all numbers, or there are none.
    """
    check_finite(weight, "weights")
    features = weight.shape[1]
    whole = (weight.detach().float() / per_input(steps.scale, features, grid)).round()
    if steps.zero_point is not None:
        whole = whole + per_input(steps.zero_point, features, grid)
    return as_integers(whole.clamp(grid.low, grid.high), grid)


def dequantize(values: Tensor, steps: Steps, grid: Grid) -> Tensor:
    """The weights that integers stand for: [o, i] of any type to float32 [o, i]."""
    whole = values.float()
    if steps.zero_point is not None:
        whole = whole - per_input(steps.zero_point, values.shape[1], grid)
    return whole * per_input(steps.scale, values.shape[1], grid)


def grouped(weight: Tensor, grid: Grid) -> Tensor:
    """A weight as float32 by groups; zeros, which change no scale, fill the last one.

    Args:
        weight: [o, i].

    Returns:
        [o, g, s].

    Raises:
        StageError: the weights are not all numbers, or there are none.
    """
    from torch.nn import functional as F

    check_finite(weight, "weights")
    size = grid.group_size or weight.shape[1]
    padded = F.pad(weight.detach().float(), (0, -weight.shape[1] % size))
    return padded.reshape(len(weight), -1, size)  # [o, g, s]


def whole_steps(groups: Tensor, steps: Steps, grid: Grid) -> Tensor:
    """How many steps from 0 each weight is rounded to: its integer less the zero point, float32.

    Args:
        groups: weights as `grouped` gives them, [o, g, s].

    Returns:
        [o, g, s].
    """
    nearest = (groups / steps.scale.unsqueeze(2)).round()
    if steps.zero_point is None:
        return nearest.clamp(grid.low, grid.high)
    zero_point = steps.zero_point.unsqueeze(2)
    return nearest.clamp(grid.low - zero_point, grid.high - zero_point)


def better_steps(best: Steps, least: Tensor, steps: Steps, losses: Tensor) -> tuple[Steps, Tensor]:
    """For each group the steps of the smaller loss, the first where they are equal, and that loss.

    Args:
        least: what the best so far lose, [o, g].
        losses: what the others lose, [o, g].
    """
    import torch

    better = losses < least
    scale = torch.where(better, steps.scale, best.scale)
    zero_point = None
    if steps.zero_point is not None and best.zero_point is not None:
        zero_point = torch.where(better, steps.zero_point, best.zero_point)
    return Steps(scale, zero_point), torch.where(better, losses, least)


def per_input(per_group: Tensor, features: int, grid: Grid) -> Tensor:
    """Repeat what groups share for each of their inputs: [o, g] to [o, i], or to [o, 1] for whole rows."""
    if grid.group_size is None:
        return per_group
    return per_group.repeat_interleave(grid.group_size, 1)[:, :features]


def as_integers(whole: Tensor, grid: Grid) -> Tensor:
    """Whole numbers of the grid as int8 (symmetric) or uint8 (with zero points), the types of the kernels."""
    import torch

    return whole.to(torch.int8 if grid.symmetric else torch.uint8)


def check_finite(tensor: Tensor, what: str) -> None:
    """Refuse a tensor with nothing in it, or with something that is not a finite number.

    Raises:
        StageError: it is one.
    """
    import torch

    if tensor.numel() == 0:
        raise StageError(f"there are no {what}")
    if not bool(torch.isfinite(tensor).all()):
        raise StageError(f"{what} hold NaN or infinity")
