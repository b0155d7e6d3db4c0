"""LSTMs: their integers, for the kernel that quantizes activations dynamically.

ONNX Runtime has one for LSTMs only (DynamicQuantizeLSTM), and none with ranges chosen in advance. No second
moments of hidden states are gathered, so weights are rounded to nearest or clipped, without error
compensation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.errors import StageError
from compress.quantize.integers.choose import Algorithm, integers_of

if TYPE_CHECKING:
    from torch import nn

    from compress.model.layers.recurrent import Int8LSTM
    from compress.quantize.integers.grid import Grid

__all__ = ["int8_lstm_of", "objection_to"]


def objection_to(layer: nn.RNNBase) -> str:
    """Why a recurrent layer can't be quantized; empty if it can."""
    if layer.mode != "LSTM":
        kind = "GRU" if layer.mode == "GRU" else "RNN"
        return f"ONNX Runtime has no int8 kernel for {kind}, only for LSTM"
    if layer.proj_size:
        return f"ONNX Runtime's int8 LSTM does not support a projection (proj_size: {layer.proj_size})"
    return ""


def int8_lstm_of(name: str, layer: nn.LSTM, grid: Grid, algorithm: Algorithm) -> Int8LSTM:
    """Make the int8 layer of an LSTM; one scale for each unit of each gate.

    Args:
        name: of the layer, for messages.
        algorithm: as in `integers_of`, with mse in place of gptq and auto_round; all inputs have equal
            weight.

    Raises:
        StageError: weights are not finite.
    """
    from compress.model.layers.recurrent import Int8LSTM, suffix

    new = Int8LSTM(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        layer.bias,
        layer.batch_first,
        layer.bidirectional,
    )
    for place in range(layer.num_layers):
        for direction in range(new.directions):
            end = suffix(place, direction)
            for part in ("ih", "hh"):
                try:
                    values, steps = integers_of(
                        getattr(layer, f"weight_{part}_{end}").detach(),
                        grid,
                        "mse" if algorithm in ("gptq", "auto_round") else algorithm,
                    )
                except StageError as error:
                    raise StageError(f"{name}: {error}") from error
                new.fill_part_(part, place, direction, values, steps.scale[:, 0])
            if layer.bias:
                biases = (getattr(layer, f"bias_{part}_{end}") for part in ("ih", "hh"))
                new.fill_bias_(place, direction, *biases)
    return new
