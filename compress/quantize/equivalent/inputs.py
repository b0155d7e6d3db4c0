"""Fit how the inputs of linear layers are rounded to what calibration rows give them.

Two things, of which the first costs no time:

- a zero point for each layer: behind GELU nearly all of the range is positive, and the largest features of an
  encoder have a sign that hardly changes;
- SmoothQuant's factors (`smoothquant`) without its folding: behind a LayerNorm whose output a residual reads
  too, as in BERT, features of large values set the steps of a token's other features. They are multiplied
  in front of the layer, one pass over its input, so only where that is small next to the product.

Shapes: t = tokens, i = input features, z = zero points that are tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from compress.quantize.equivalent.smoothquant import smoothquant_factors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.quantize.calibrate import SharedInput
    from compress.stage import Context

__all__ = ["InputFit", "fit_inputs_", "losses_of_zero_points"]


class InputFit(NamedTuple):
    """How a layer's input is rounded: multiplied by factors [i] first, if any, then around a zero point."""

    factors: Tensor | None
    zero_point: int


def fit_inputs_(
    model: nn.Module, places: Sequence[SharedInput], strength: float, rows: Split, context: Context
) -> dict[str, InputFit]:
    """Choose factors and zero points; weights are divided by the factors in place, and outputs stay equal.

    Args:
        model: multiplies inputs itself afterwards, so that algorithms see what will be rounded.
        strength: of smoothquant: 0 evens out the weights, 1 the inputs.
        rows: calibration rows.

    Returns:
        By the names of layers; those that share an input have the same.

    Raises:
        StageError: a layer's input is not finite; the message names it.
    """
    from compress.quantize.calibrate import loudest_of, sums_over_tokens

    scaled = [place for place in places if _has_more_outputs(model, place)]
    loudest = loudest_of(model, scaled, rows, context) if scaled else []
    factors: dict[str, Tensor] = {}
    for place, largest in zip(scaled, loudest, strict=True):
        factors |= dict.fromkeys(place.layers, _scale_(model, place, largest, strength))
    losses = sums_over_tokens(model, places, rows, context, losses_of_zero_points)
    return {
        name: InputFit(factors.get(name), int(loss.argmin()))
        for place, loss in zip(places, losses, strict=True)
        for name in place.layers
    }


def losses_of_zero_points(tokens: Tensor) -> Tensor:
    """Sum over tokens [t, i] of the square of a token's step, for each zero point of 0 to 255: [256]."""
    import torch

    from compress.model.ops.linear import fitted_scale

    ends = torch.stack((tokens.amin(1), tokens.amax(1)), dim=1)  # [t, 2]: all that a step depends on
    return fitted_scale(ends, torch.arange(256)).square().sum(0)  # of [t, z]


def _has_more_outputs(model: nn.Module, place: SharedInput) -> bool:
    """Whether multiplying the input is small next to the product: it is narrower than all outputs."""
    layers: list[nn.Linear] = [model.get_submodule(name) for name in place.layers]  # type: ignore[misc]
    return layers[0].in_features < sum(layer.out_features for layer in layers)


def _scale_(model: nn.Module, place: SharedInput, loudest: Tensor, strength: float) -> Tensor:
    import torch

    layers: list[nn.Linear] = [model.get_submodule(name) for name in place.layers]  # type: ignore[misc]
    weight = torch.cat([layer.weight.detach() for layer in layers])
    divisors = smoothquant_factors(weight, loudest, strength)
    factors = 1 / divisors
    for layer in layers:
        layer.weight = torch.nn.Parameter(layer.weight.detach() * divisors, requires_grad=False)
        layer.register_forward_pre_hook(lambda _, given: (given[0] * factors.to(given[0].device), *given[1:]))
    return factors
