"""LSTMs with int8 weights and dynamically quantized activations.

Shapes: s = steps, b = batch, l = layers, d = directions (1 or 2), i = inputs of a layer, n = hidden units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from compress.errors import ModelError
from compress.model.layers.quantized import QuantizedModule
from compress.model.ops.recurrent import int8_lstm

__all__ = ["Int8LSTM", "suffix"]

_States = tuple[Tensor, Tensor]
Part = Literal["ih", "hh"]


def suffix(layer: int, direction: int) -> str:
    """End of torch's weight names: weight_ih_l0, weight_ih_l0_reverse."""
    return f"l{layer}{'_reverse' if direction else ''}"


def _in_onnx_order(rows: Tensor) -> Tensor:
    """Reorder gates [4 n, ...] from torch's (input, forget, cell, output) to input, output, forget, cell."""
    enter, keep, cell, leave = rows.chunk(4)
    return torch.cat([enter, leave, keep, cell])


def _in_torch_order(rows: Tensor) -> Tensor:
    """Undo `_in_onnx_order`."""
    enter, leave, keep, cell = rows.chunk(4)
    return torch.cat([enter, keep, cell, leave])


class Int8LSTM(QuantizedModule):
    """An nn.LSTM with int8 weights and a scale for each unit of each gate.

    Same call and outputs as nn.LSTM, but takes no PackedSequence. It is never trained, so there is no dropout
    between layers. For the rounding of activations see `compress.model.ops.recurrent`.

    Buffers, for each layer l0, l1, ..., in the kernel's layout and order of gates: qdata_ih_l0 int8
    [d, i, 4 n], qdata_hh_l0 int8 [d, n, 4 n], scale_ih_l0 and scale_hh_l0 [d, 4 n], bias_l0 [d, 8 n] or None.
    """

    kind: ClassVar[str] = "int8_lstm"
    int8_activations = True
    of_one_thread: ClassVar[bool] = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        d, gates = self.directions, 4 * hidden_size
        for layer in range(num_layers):
            inputs = d * hidden_size if layer else input_size
            for part, size in (("ih", inputs), ("hh", hidden_size)):
                self.register_buffer(f"qdata_{part}_l{layer}", torch.zeros(d, size, gates, dtype=torch.int8))
                self.register_buffer(f"scale_{part}_l{layer}", torch.ones(d, gates))
            self.register_buffer(f"bias_l{layer}", torch.zeros(d, 2 * gates) if bias else None)

    @property
    def directions(self) -> int:
        """Number of directions: 1, or 2 if bidirectional."""
        return 2 if self.bidirectional else 1

    def forward(
        self, x: Tensor | PackedSequence, hx: _States | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run all layers.

        Args:
            x: [s, b, i]; with batch_first [b, s, i]; a single sequence [s, i].
            hx: hidden and cell state before the first step, [l d, b, n] each, for a single sequence [l d, n];
                None: zeros.

        Returns:
            The last layer's hidden states, [s, b, d n] or in the layout of x; and hidden and cell states
            after the last step, as hx.

        Raises:
            ModelError: x is a PackedSequence.
        """
        if isinstance(x, PackedSequence):
            raise ModelError(
                "an int8 LSTM does not accept a PackedSequence, and neither does ONNX; pass the padded "
                "tensor, or keep the layer float with the stage's `skip`"
            )
        single = x.dim() == 2
        if single:
            x = x.unsqueeze(1)
            hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        elif self.batch_first:
            x = x.transpose(0, 1)
        hs, cs = [], []
        for layer in range(self.num_layers):
            x, h, c = self._layer(layer, x, hx)
            hs.append(h)
            cs.append(c)
        h, c = (each[0] if len(each) == 1 else torch.cat(each) for each in (hs, cs))
        if single:
            return x.squeeze(1), (h.squeeze(1), c.squeeze(1))
        return x.transpose(0, 1) if self.batch_first else x, (h, c)

    def _layer(self, layer: int, x: Tensor, hx: _States | None) -> tuple[Tensor, Tensor, Tensor]:
        """Map [s, b, i] to [s, b, d n] and the states after it, [d, b, n]."""
        rows = slice(layer * self.directions, (layer + 1) * self.directions)
        h0, c0 = (None, None) if hx is None else (hx[0][rows], hx[1][rows])
        held = [
            getattr(self, f"{name}_l{layer}") for name in ("qdata_ih", "qdata_hh", "scale_ih", "scale_hh")
        ]
        y, h, c = int8_lstm(x, *held, getattr(self, f"bias_l{layer}"), h0, c0)
        return y.squeeze(1) if self.directions == 1 else y.transpose(1, 2).flatten(2), h, c

    def flatten_parameters(self) -> None:
        """Do nothing: models call it on an nn.LSTM, to lay out its weights for a GPU."""

    def fill_part_(self, part: Part, layer: int, direction: int, values: Tensor, scale: Tensor) -> Self:
        """Set the integers of one of nn.LSTM's weights.

        Args:
            part: ih: of the inputs; hh: of the state.
            direction: 0, or 1 for the backward direction.
            values: int8 [4 n, i], rows in torch's order of gates.
            scale: float32 [4 n].
        """
        held = getattr(self, f"qdata_{part}_l{layer}")[direction]
        if values.dtype != torch.int8 or values.t().shape != held.shape:
            form = f"{values.dtype} {list(values.shape)}"
            raise ValueError(f"qdata_{part}_l{layer} must be int8 {list(held.t().shape)}, not {form}")
        held.copy_(_in_onnx_order(values).t())
        getattr(self, f"scale_{part}_l{layer}")[direction].copy_(_in_onnx_order(scale))
        return self

    def fill_bias_(self, layer: int, direction: int, inputs: Tensor, state: Tensor) -> Self:
        """Set nn.LSTM's two biases, [4 n] each, in torch's order of gates."""
        both = torch.cat([_in_onnx_order(each.detach()) for each in (inputs, state)])
        getattr(self, f"bias_l{layer}")[direction].copy_(both)
        return self

    def weights(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield each weight by its name in nn.LSTM: int8 [i, 4 n] and scale [4 n], as stored."""
        for layer in range(self.num_layers):
            for direction in range(self.directions):
                for part in ("ih", "hh"):
                    yield (
                        f"weight_{part}_{suffix(layer, direction)}",
                        getattr(self, f"qdata_{part}_l{layer}")[direction],
                        getattr(self, f"scale_{part}_l{layer}")[direction],
                    )

    def dequantize(self) -> Tensor:
        """All weights in one flat row: those of nn.LSTM, [4 n, i] each, in its order."""
        return torch.cat(
            [_in_torch_order((qdata * scale).t()).flatten() for _, qdata, scale in self.weights()]
        )

    def config(self) -> dict[str, Any]:
        """Keyword arguments that make an empty layer of this shape."""
        names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
        return {name: getattr(self, name) for name in names}

    def example(self, draw: torch.Generator) -> Tensor:
        """[2, 3, i], with a row of zeros and an outlier; 2 or 3 sequences, by batch_first."""
        x = torch.randn(2, 3, self.input_size, generator=draw)
        x[0, 0] = 0
        x[1, 1, 0] = 30
        return x

    def alone(self, x: Tensor) -> Tensor:
        """All hidden states, and the states after the last step, in one row."""
        y, (h, c) = self(x)
        return torch.cat([y.flatten(), h.flatten(), c.flatten()])
