"""Exponential moving average of weights in training, less noisy than the weights of the last step.

average <- d * average + (1 - d) * weights after each optimizer step, starting from the initial weights, with
d = min(decay, (1 + t) / (10 + t)) after t steps, so that early steps are soon forgotten. The warm-up is that
of tf.train.ExponentialMovingAverage (`num_updates`); averaging goes back to Polyak and Juditsky 1992, doi
10.1137/0330046.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Averages of a module's trainable parameters.

    Attributes:
        values: average of each parameter by name, with its shape and device.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start from the current weights.

        Args:
            decay: in (0, 1); 1 / (1 - decay) is about the number of steps that count.
        """
        self._trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self._decay = decay
        self.values: dict[str, Tensor] = {n: each.detach().clone() for n, each in self._trained.items()}

    def update_(self, steps: int) -> None:
        """Update after an optimizer step; `steps` is the number of steps done, including this one."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        for name, parameter in self._trained.items():
            self.values[name].lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Swap the averages into the module within this block; buffers, as of batch norms, are unchanged."""
        self._swap_()
        try:
            yield
        finally:
            self._swap_()

    def _swap_(self) -> None:
        for name, parameter in self._trained.items():
            parameter.data, self.values[name] = self.values[name], parameter.data
