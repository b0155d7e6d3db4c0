"""Bias correction: make the quantized layer's mean output equal the exact layer's.

Nagel et al. 2019, arXiv 1906.04721, section 4.2: with E = W' - W the outputs change by E x, on average by
E mean(x), which is subtracted from the bias. No cost at inference.
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
        quantized_weight: the dequantized weights, [o, i].
        bias: [o]; None: the layer has no bias, and needs one now.
        mean_input: over all tokens, [i].

    Returns:
        [o]; float32, or float64 if the weight is.

    Raises:
        StageError: a value is not finite.
    """
    check_finite(weight, "weights")
    check_finite(quantized_weight, "quantized weights")
    check_finite(mean_input, "mean inputs")
    exact = weight.detach().double()
    # float64: the result is a difference of nearly equal numbers, and o i products cost nothing.
    moved = (exact - quantized_weight.detach().double()) @ mean_input.double()  # [o]
    if bias is not None:
        check_finite(bias, "biases")
        moved = moved + bias.detach().double()
    return moved if weight.dtype == exact.dtype else moved.float()
