"""Bias correction: quantized weights answer the mean input as the exact ones did.

Nagel et al. 2019, arXiv 1906.04721, section 4.2: with E = W' - W the outputs move by E x, on average by
E mean(x), and the bias takes that back. Nothing is added to the work that a layer does.
Shapes: o = output features, i = input features.
"""

from __future__ import annotations

from torch import Tensor

from compress.quantize.integers.grid import check_finite

__all__ = ["corrected_bias"]


def corrected_bias(
    weight: Tensor, quantized_weight: Tensor, bias: Tensor | None, mean_input: Tensor
) -> Tensor:
    """The bias with which the quantized weights have the exact ones' mean output.

    Args:
        weight: [o, i].
        quantized_weight: the weights that the integers stand for, [o, i].
        bias: [o]; none: the layer has none, and needs one now.
        mean_input: over all tokens, [i].

    Returns:
        [o]; float32, or float64 where the weight is.

    Raises:
        StageError: something isn't a finite number.
    """
    check_finite(weight, "weights")
    check_finite(quantized_weight, "quantized weights")
    check_finite(mean_input, "mean inputs")
    exact = weight.detach().double()
    # float64, because o i products are nothing and the difference of near numbers is all there is.
    moved = (exact - quantized_weight.detach().double()) @ mean_input.double()  # [o]
    if bias is not None:
        check_finite(bias, "biases")
        moved = moved + bias.detach().double()
    return moved if weight.dtype == exact.dtype else moved.float()
