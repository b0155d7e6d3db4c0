"""AutoRound of a model, block by block, from a calibration pass that resumes after each block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from compress.quantize.integers.grid import Grid, Steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.model.observe.relay import Relay
    from compress.quantize.calibrate import SharedInput
    from compress.stage import Context

__all__ = ["Learned"]


class Learned:
    """The learned integers of the layers in a model's blocks; requested in the order of the model."""

    def __init__(
        self,
        model: nn.Module,
        places: Sequence[SharedInput],
        grid_of: Callable[[str], Grid],
        relay: Relay,
        context: Context,
    ) -> None:
        """Find the layers of each block; those that are called more than once are in none."""
        self._relay, self._grid_of, self._context = relay, grid_of, context
        named = {name: model.get_submodule(name) for each in places if not each.again for name in each.layers}
        inside = [set(block.modules()) for block in relay.blocks]
        self._layers: list[dict[str, Any]] = [
            {name: layer for name, layer in named.items() if layer in each} for each in inside
        ]
        self._outputs: list[Tensor] = []  # of the float model's last settled block, a batch each
        self._done = 0
        self._found: dict[str, tuple[Tensor, Steps]] = {}

    def integers_of(self, place: SharedInput) -> dict[str, tuple[Tensor, Steps]]:
        """By layer; empty if the place is in no block."""
        numbers = [at for at, layers in enumerate(self._layers) if place.name in layers]
        if not numbers:
            return {}
        while self._done <= numbers[0]:
            self._learn(self._done)
            self._done += 1
        return {name: self._found.pop(name) for name in place.layers}

    def _learn(self, number: int) -> None:
        import torch

        from compress.quantize.integers.auto_round import Call, learned_integers

        block, calls = self._relay.blocks[number], []
        for index, (given, named, mask) in enumerate(self._relay.arguments_of(number)):
            run = partial(_output, block, given, named)
            exact = (
                run
                if not self._outputs
                else partial(_output, block, *_moved(given, named, self._outputs[index]))
            )
            with torch.no_grad():
                calls.append(Call(run, exact(), _counts(mask)))
        self._outputs = [call.output for call in calls]
        layers = self._layers[number]
        if layers:
            self._found |= learned_integers(layers, self._grid_of, calls, seed=self._context.seed)


def _output(block: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    found: Any = block(*given, **named)
    return found[0] if isinstance(found, tuple) else found  # type: ignore[no-any-return]


def _moved(
    given: tuple[Any, ...], named: dict[str, Any], hidden: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with other hidden states, which are the first of them."""
    if given:
        return (hidden, *given[1:]), named
    first, *_ = named
    return given, named | {first: hidden}


def _counts(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.unsqueeze(-1).float()
