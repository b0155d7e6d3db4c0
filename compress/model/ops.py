"""Quantized linear and embedding as torch operators whose eager bodies are ONNX Runtime's arithmetic.

Each operator is one node for torch.export, and `compress.export.lowering` turns it into the kernel that it
imitates. The int8 operators and the embeddings equal ONNX Runtime bit for bit; `int4_linear` sums floats, in
another order than the kernel does, and agrees to about 1e-6 of the largest output.
None has a gradient: a backward pass through one raises.

Shapes: ... = leading dimensions, i = input features, o = output features, g = groups of GROUP_SIZE inputs,
v = rows of an embedding table, d = embedding width, h = GROUP_SIZE / 2 bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "GROUP_SIZE",
    "int4_embedding",
    "int4_linear",
    "int8_dynamic_linear",
    "int8_embedding",
    "pack_int4",
    "unpack_int4",
]

GROUP_SIZE = 32
# An all-zero token must not divide by zero; anything larger than a rounding error would coarsen quiet tokens.
SMALLEST_TOKEN_SCALE = 1e-30
HALF_RANGE = 127.5


def pack_int4(values: Tensor) -> Tensor:
    """Pack integers in [-8, 7] two to a byte, low nibble first, each stored plus 8.

    Args:
        values: integers, [..., 2 n].

    Returns:
        uint8 [..., n].
    """
    unsigned = (values + 8).to(torch.uint8)
    return unsigned[..., 0::2] | (unsigned[..., 1::2] << 4)


def unpack_int4(packed: Tensor) -> Tensor:
    """Undo `pack_int4`: uint8 [..., n] to float32 [..., 2 n] of whole numbers in [-8, 7]."""
    nibbles = torch.stack((packed & 15, packed >> 4), dim=-1)  # [..., n, 2]
    return nibbles.flatten(-2).float() - 8.0


@torch.library.custom_op("modelpress::int8_dynamic_linear", mutates_args=())
def int8_dynamic_linear(x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply int8 weights with activations that are quantized here, each token with its own scale.

    A token's scale depends on that token alone, so an answer doesn't depend on padding or on its batch-mates.
    The products are scaled by the weights first and by the token second: in the other order ONNX Runtime 1.32
    fuses them with the bias and gives a wrong answer.

    Args:
        x: float32 [..., i].
        qdata: int8 [i, o], the layout of the kernel.
        scale: float32 [o].
        bias: float32 [o] or none.

    Returns:
        float32 [..., o].
    """
    token_scale = (x.abs().amax(-1, keepdim=True) / HALF_RANGE).clamp(min=SMALLEST_TOKEN_SCALE)  # [..., 1]
    q = (x / token_scale).round().clamp(-128, 127)
    products = _integer_product(q.flatten(0, -2), qdata).reshape(*x.shape[:-1], qdata.shape[1])  # [..., o]
    y = products * scale * token_scale
    return y if bias is None else y + bias


def _integer_product(q: Tensor, qdata: Tensor) -> Tensor:
    """Multiply whole numbers q [t, i] with int8 qdata [i, o]; the int32 sums rounded to float32, [t, o]."""
    if q.device.type == "cpu":
        return torch._int_mm(q.to(torch.int8), qdata).float()
    # Other devices ask for aligned shapes of _int_mm; float64 holds these sums exactly on any shape.
    return (q.double() @ qdata.double()).float()


@int8_dynamic_linear.register_fake
def _(x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], qdata.shape[1]))


@torch.library.custom_op("modelpress::int4_linear", mutates_args=())
def int4_linear(x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply float activations with weights of 4 bits and one scale for each `GROUP_SIZE` inputs.

    Where i is not a multiple of GROUP_SIZE the last group is padded; the filling is never multiplied.

    Args:
        x: float32 [..., i].
        qdata: uint8 [o, g, h], as `pack_int4` makes it.
        scale: float32 [o, g].
        bias: float32 [o] or none.

    Returns:
        float32 [..., o].
    """
    weight = (unpack_int4(qdata) * scale.unsqueeze(-1)).flatten(1)[:, : x.shape[-1]]  # [o, i]
    return F.linear(x, weight, bias)


@int4_linear.register_fake
def _(x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], qdata.shape[0]))


@torch.library.custom_op("modelpress::int8_embedding", mutates_args=())
def int8_embedding(ids: Tensor, qdata: Tensor, scale: Tensor) -> Tensor:
    """Look up rows of an int8 table; only the rows that are asked for are made float.

    Args:
        ids: int64 [...].
        qdata: int8 [v, d].
        scale: float32 [v].

    Returns:
        float32 [..., d].
    """
    return qdata[ids].float() * scale[ids].unsqueeze(-1)


@int8_embedding.register_fake
def _(ids: Tensor, qdata: Tensor, scale: Tensor) -> Tensor:
    return scale.new_empty((*ids.shape, qdata.shape[1]))


@torch.library.custom_op("modelpress::int4_embedding", mutates_args=())
def int4_embedding(ids: Tensor, qdata: Tensor, scale: Tensor, width: int) -> Tensor:
    """Look up rows of a table of 4 bits with one scale for each `GROUP_SIZE` columns.

    Args:
        ids: int64 [...].
        qdata: uint8 [v, g h], as `pack_int4` makes it; whole groups, so it may be wider than the table.
        scale: float32 [v, g].
        width: d.

    Returns:
        float32 [..., d].
    """
    groups = unpack_int4(qdata[ids]).reshape(*ids.shape, scale.shape[1], GROUP_SIZE)  # [..., g, GROUP_SIZE]
    rows: Tensor = (groups * scale[ids].unsqueeze(-1)).flatten(-2)  # [..., g GROUP_SIZE]
    return rows[..., :width].contiguous()


@int4_embedding.register_fake
def _(ids: Tensor, qdata: Tensor, scale: Tensor, width: int) -> Tensor:
    return scale.new_empty((*ids.shape, width))
