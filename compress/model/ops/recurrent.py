"""Quantized LSTM as a torch operator whose eager implementation is ONNX Runtime's DynamicQuantizeLSTM.

Derived from its sources (contrib_ops/cpu/quantization/dynamic_quantize_lstm.cc, core/providers/cpu/rnn), and
checked with 1.32, which equals 1.23: both products are of integers, uint8 activations with int8 weights; gate
activations are float.

- The inputs of all steps and sequences of a call are quantized together, with one scale and zero point, like
  DynamicQuantizeLinear. So outputs depend on the rest of the batch and on padding.
- The state is quantized at each step, with one scale and zero point for all sequences that a thread works on:
  the whole batch with one thread, or with a batch of at most 4 and more than 256 hidden units; otherwise each
  of t threads takes ceil(b / t) sequences. So for batches of 2 or more the rounding depends on the number of
  threads. Here it is that of one thread; for batch 1 all are the same.
- int32 sums are scaled by activation scale times weight scale; the state's are added to the inputs', the bias
  last.

Up to there it is equal bit for bit. Sigmoid and tanh approximations differ from torch's by about 1e-7, which
occasionally rounds an integer of the next state the other way.

Shapes: s = steps, b = batch, d = directions (1 or 2), i = inputs, n = hidden units; gates are in ONNX's
order: input, output, forget, cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.model.ops.linear import quantized, tensor_steps

__all__ = ["int8_lstm"]


@torch.library.custom_op("modelpress::int8_lstm", mutates_args=())
def int8_lstm(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    scale_ih: Tensor,
    scale_hh: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer over a sequence, forward, and backward if there are two directions.

    Args:
        x: float32 [s, b, i].
        weight_ih: int8 [d, i, 4 n], of the inputs.
        weight_hh: int8 [d, n, 4 n], of the state.
        scale_ih: float32 [d, 4 n].
        scale_hh: float32 [d, 4 n].
        bias: float32 [d, 8 n], of the inputs, then of the state; or None.
        h0: float32 [d, b, n], the hidden state before the first step; None: zeros.
        c0: float32 [d, b, n], the cell state before the first step; None: zeros.

    Returns:
        Hidden states of all steps [s, d, b, n], and hidden and cell state after the last, [d, b, n].
    """
    directions, hidden = weight_hh.shape[:2]
    none = x.new_zeros(directions, x.shape[1], hidden)
    h0, c0 = (none if each is None else each for each in (h0, c0))
    made = []
    for k in range(directions):
        y, h, c = _one_direction(
            x.flip(0) if k else x,
            (weight_ih[k].double(), scale_ih[k]),
            (weight_hh[k].double(), scale_hh[k]),
            None if bias is None else bias[k],
            (h0[k], c0[k]),
        )
        made.append((y.flip(0) if k else y, h, c))
    ys, hs, cs = zip(*made, strict=True)
    return torch.stack(ys, dim=1), torch.stack(hs), torch.stack(cs)


@int8_lstm.register_fake
def _(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    scale_ih: Tensor,
    scale_hh: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    directions, hidden = weight_hh.shape[:2]
    state = (directions, x.shape[1], hidden)
    return x.new_empty((x.shape[0], *state)), x.new_empty(state), x.new_empty(state)


_Weight = tuple[Tensor, Tensor]  # whole numbers as float64 [i, 4 n], and their scales [4 n]


def _one_direction(
    x: Tensor, read: _Weight, told: _Weight, bias: Tensor | None, state: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Map [s, b, i] and the initial state, two of [b, n], to [s, b, n] and the final state."""
    h, c = state
    from_inputs = _scaled_product(x, *read)  # [s, b, 4 n]
    offset = None if bias is None else bias[: bias.numel() // 2] + bias[bias.numel() // 2 :]
    states = []
    for gates in from_inputs:
        gates = gates + _scaled_product(h, *told)
        if offset is not None:
            gates = gates + offset
        enter, leave, keep, cell = gates.chunk(4, dim=-1)
        c = c * keep.sigmoid() + enter.sigmoid() * cell.tanh()
        h = c.tanh() * leave.sigmoid()
        states.append(h)
    return torch.stack(states), h, c


def _scaled_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Quantize x [..., i] as a whole and multiply; float64 holds the integer sums exactly."""
    x_scale, zero_point = tensor_steps(x)
    sums = (quantized(x, x_scale, zero_point) - zero_point).double() @ weight
    return sums.float() * (x_scale * scale)
