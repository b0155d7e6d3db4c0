"""SmoothQuant: move the range of loud activations into the weights that read them.

Xiao et al. 2022, arXiv 2211.10438, eq. 4: channel j of the activations between two linear layers is divided
by
    s_j = max|X_j|^strength / max|W_:j|^(1 - strength)
in the layer that makes it, and multiplied in the layer that reads it. The two cancel only where nothing but a
map that keeps positive factors of each channel stands between them: attention over values, ReLU, nothing at
all; neither GELU, nor a LayerNorm whose output the residual reads too.
Shapes: m = channels between the layers, k = inputs of the producer, o = outputs of the consumer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.errors import StageError
from compress.quantize.grid import check_finite

__all__ = ["smooth_pair"]

# What the paper's code clamps at from below, to both sides: a factor beyond it only loses digits.
_LARGEST_FACTOR = 1e5


def smooth_pair(
    producer_weight: Tensor,
    producer_bias: Tensor | None,
    consumer_weight: Tensor,
    activation_max: Tensor,
    strength: float = 0.5,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Divide what one layer makes and multiply the weights of the layer that reads it.

    Args:
        producer_weight: [m, k].
        producer_bias: [m] or none.
        consumer_weight: [o, m].
        activation_max: largest |activation| of each channel between them, [m].
        strength: 0 evens out the consumer's weights, 1 the activations.

    Returns:
        New producer weight, producer bias (none stays none) and consumer weight, in the types they had. A
        channel that was never active, or that nobody reads, is left as it is.

    Raises:
        StageError: strength is outside of [0, 1], or something isn't a finite number.
    """
    if not 0 <= strength <= 1:
        raise StageError(f"strength is {strength}; allowed: 0 to 1")
    given = {"weights": (producer_weight, consumer_weight), "activation maxima": (activation_max,)}
    for what, tensors in given.items():
        for tensor in tensors:
            check_finite(tensor, what)
    factor = _factors(consumer_weight.detach(), activation_max, strength)  # [m]
    bias = None if producer_bias is None else (producer_bias.detach() / factor).to(producer_bias.dtype)
    return (
        (producer_weight.detach() / factor[:, None]).to(producer_weight.dtype),
        bias,
        (consumer_weight.detach() * factor).to(consumer_weight.dtype),
    )


def _factors(consumer_weight: Tensor, activation_max: Tensor, strength: float) -> Tensor:
    """s of the paper, [m]; 1 where a channel is dead."""
    loudness = activation_max.abs()
    largest = consumer_weight.abs().amax(0)  # [m]
    alive = (loudness > 0) & (largest > 0)
    one = torch.ones_like(largest)
    factor = torch.where(alive, loudness, one) ** strength / torch.where(alive, largest, one) ** (
        1 - strength
    )
    return factor.clamp(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
