"""Integer grids of weights, and the scales that convert to them and back.

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
    """The allowed integers of a weight.

    Attributes:
        bits: 2 to 8.
        group_size: inputs that share a scale; None: the whole row.
        symmetric: signed integers without a zero point; otherwise unsigned ones with it.
        reduce_range: use one bit fewer than fits.
    """

    bits: int
    group_size: int | None
    symmetric: bool = True
    reduce_range: bool = False

    def __post_init__(self) -> None:
        """Refuse bits and group sizes outside their range."""
        if not 2 <= self.bits - self.reduce_range <= self.bits <= 8:
            raise ValueError(f"{self.bits} bits{' less one' * self.reduce_range}; allowed: 2 to 8")
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size: {self.group_size}; allowed: 1 or more, or None")

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
    """Scale and zero point of each group.

    Attributes:
        scale: float32 [o, g], finite and positive.
        zero_point: float32 [o, g] of whole numbers within the grid; None: 0, for a symmetric grid.
    """

    scale: Tensor
    zero_point: Tensor | None


def fit_steps(weight: Tensor, grid: Grid, clip: Tensor | float = 1.0) -> Steps:
    """Choose the smallest scales that clip no weight by more than half a step, the rounding error.

    Args:
        weight: [o, i].
        clip: keep only this fraction of each group's range, in (0, 1]; a number, or one per group, [o, g].

    Returns:
        Steps whose range contains 0, which is exact.

    Raises:
        StageError: the weights are empty or not finite.
    """
    groups = grouped(weight, grid)
    return steps_between(groups.amin(2).clamp(max=0) * clip, groups.amax(2).clamp(min=0) * clip, grid)


def steps_between(low: Tensor, high: Tensor, grid: Grid) -> Steps:
    """The smallest scales that reach from low to high.

    Args:
        low: float32 of any shape, 0 or less.
        high: the same shape, 0 or more.

    Returns:
        Steps of that shape; an empty range has scale 1, so that zeros stay zeros.
    """
    import torch

    if grid.symmetric:
        scale = torch.maximum(high / grid.high, low / grid.low)
    else:
        scale = high / grid.high - low / grid.high  # the difference itself may overflow
    # Dividing by a subnormal scale is imprecise or overflows.
    scale = torch.where(scale >= torch.finfo(scale.dtype).tiny, scale, 1.0)
    if grid.symmetric:
        return Steps(scale, None)
    return Steps(scale, (0 - low / scale).round().clamp(grid.low, grid.high))


def round_to(weight: Tensor, steps: Steps, grid: Grid) -> Tensor:
    """Round each weight to its nearest integer, half to even.

    Args:
        weight: [o, i].

    Returns:
        [o, i], as from `as_integers`.

    Raises:
        StageError: the weights are empty or not finite.
    """
    check_finite(weight, "weights")
    features = weight.shape[1]
    whole = (weight.detach().float() / per_input(steps.scale, features, grid)).round()
    if steps.zero_point is not None:
        whole = whole + per_input(steps.zero_point, features, grid)
    return as_integers(whole.clamp(grid.low, grid.high), grid)


def dequantize(values: Tensor, steps: Steps, grid: Grid) -> Tensor:
    """Dequantize integers: [o, i] of any type to float32 [o, i]."""
    whole = values.float()
    if steps.zero_point is not None:
        whole = whole - per_input(steps.zero_point, values.shape[1], grid)
    return whole * per_input(steps.scale, values.shape[1], grid)


def grouped(weight: Tensor, grid: Grid) -> Tensor:
    """Split a weight into groups as float32, padding the last one with zeros, which change no scale.

    Args:
        weight: [o, i].

    Returns:
        [o, g, s].

    Raises:
        StageError: the weights are empty or not finite.
    """
    from torch.nn import functional as F

    check_finite(weight, "weights")
    size = grid.group_size or weight.shape[1]
    padded = F.pad(weight.detach().float(), (0, -weight.shape[1] % size))
    return padded.reshape(len(weight), -1, size)  # [o, g, s]


def whole_steps(groups: Tensor, steps: Steps, grid: Grid) -> Tensor:
    """Number of steps from 0 that each weight is rounded to: its integer minus the zero point, float32.

    Args:
        groups: weights as from `grouped`, [o, g, s].

    Returns:
        [o, g, s].
    """
    nearest = (groups / steps.scale.unsqueeze(2)).round()
    if steps.zero_point is None:
        return nearest.clamp(grid.low, grid.high)
    zero_point = steps.zero_point.unsqueeze(2)
    return nearest.clamp(grid.low - zero_point, grid.high - zero_point)


def better_steps(best: Steps, least: Tensor, steps: Steps, losses: Tensor) -> tuple[Steps, Tensor]:
    """For each group the steps with the smaller loss (`best` if equal), and that loss.

    Args:
        least: losses of the best so far, [o, g].
        losses: losses of the other steps, [o, g].
    """
    import torch

    better = losses < least
    scale = torch.where(better, steps.scale, best.scale)
    zero_point = None
    if steps.zero_point is not None and best.zero_point is not None:
        zero_point = torch.where(better, steps.zero_point, best.zero_point)
    return Steps(scale, zero_point), torch.where(better, losses, least)


def per_input(per_group: Tensor, features: int, grid: Grid) -> Tensor:
    """Repeat per-group values for each input: [o, g] to [o, i], or to [o, 1] for whole rows."""
    if grid.group_size is None:
        return per_group
    return per_group.repeat_interleave(grid.group_size, 1)[:, :features]


def as_integers(whole: Tensor, grid: Grid) -> Tensor:
    """Convert whole numbers to int8 (symmetric) or uint8 (with zero points), the types of the kernels."""
    import torch

    return whole.to(torch.int8 if grid.symmetric else torch.uint8)


def check_finite(tensor: Tensor, what: str) -> None:
    """Refuse a tensor that is empty or not finite.

    Raises:
        StageError: it is empty or not finite.
    """
    import torch

    if tensor.numel() == 0:
        raise StageError(f"there are no {what}")
    if not bool(torch.isfinite(tensor).all()):
        raise StageError(f"{what} contain NaN or infinity")
