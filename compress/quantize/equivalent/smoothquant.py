"""SmoothQuant's factors: move the range of large activations into the weights that read them.

Xiao et al. 2022, arXiv 2211.10438, eq. 4: channel j of the activations is divided by
    s_j = max|X_j|^strength / max|W_:j|^(1 - strength)
where it is produced, and multiplied where it is read.
Shapes: m = channels, o = outputs of the readers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.quantize.integers.grid import check_finite

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["smoothquant_factors"]

_LARGEST_FACTOR = 1e5  # clamps both sides, as the paper's code: a larger factor only loses precision


def smoothquant_factors(weight: Tensor, loudest: Tensor, strength: float) -> Tensor:
    """Choose each channel's divisor.

    Args:
        weight: of all readers, [o, m].
        loudest: largest |activation| of each channel, [m].
        strength: 0 evens out the weights, 1 the activations.

    Returns:
        [m]; 1 for a channel that was never active or that is not read.

    Raises:
        StageError: a value is not finite.
    """
    import torch

    check_finite(weight, "weights")
    check_finite(loudest, "activation maxima")
    largest = weight.abs().amax(0)  # [m]
    alive = (loudest > 0) & (largest > 0)
    one = torch.ones_like(largest)
    factors = torch.where(alive, loudest, one) ** strength
    factors = factors / torch.where(alive, largest, one) ** (1 - strength)
    return factors.clamp(1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
