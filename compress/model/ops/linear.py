"""Quantized layers as torch operators whose eager implementations match ONNX Runtime's arithmetic.

Each operator is one node for torch.export, and `export.lowering` turns it into the corresponding kernel. The
int8 operators and the embeddings equal ONNX Runtime bit for bit; `weight_only_linear` sums floats in another
order than the kernel, and agrees to about 1e-6 of the largest output. Convolutions are in
`compress.model.ops.convolution`. None has a gradient: a backward pass through one raises.

Shapes: ... = leading dimensions, i = input features, o = output features, g = groups of inputs that share a
scale, v = rows of an embedding table, d = embedding width, h = bytes of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "dequantize_groups",
    "group_embedding",
    "int4_embedding",
    "int8_dynamic_linear",
    "int8_embedding",
    "int8_fitted_linear",
    "int8_static_linear",
    "int8_tensor_linear",
    "pack_int4",
    "quantized",
    "rounded_groups",
    "tensor_steps",
    "token_integers",
    "unpack_int4",
    "weight_only_linear",
    "widened",
]

# Avoids division by zero for an all-zero token; anything larger would coarsen tokens of small values.
SMALLEST_TOKEN_SCALE = 1e-30
HALF_RANGE = 127.5


def pack_int4(unsigned: Tensor) -> Tensor:
    """Pack integers in [0, 15] two per byte, low nibble first; an odd last one is paired with 0.

    Args:
        unsigned: integers, [..., n].

    Returns:
        uint8 [..., ceil(n / 2)].
    """
    even = F.pad(unsigned, (0, unsigned.shape[-1] % 2)).to(torch.uint8)
    return even[..., 0::2] | (even[..., 1::2] << 4)


def unpack_int4(packed: Tensor) -> Tensor:
    """Undo `pack_int4`: uint8 [..., n] to uint8 [..., 2 n] in [0, 15]."""
    nibbles = torch.stack((packed & 15, packed >> 4), dim=-1)  # [..., n, 2]
    return nibbles.flatten(-2)


@torch.library.custom_op("modelpress::int8_dynamic_linear", mutates_args=())
def int8_dynamic_linear(x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply int8 weights with activations quantized here, with one scale per token.

    A token's scale depends on that token alone, so its output doesn't depend on padding or on the rest of the
    batch. The products are scaled by the weights first and by the token second: in the other order ONNX
    Runtime 1.32 fuses them with the bias and gives a wrong result.

    Args:
        x: float32 [..., i].
        qdata: int8 [i, o], the kernel's layout.
        scale: float32 [o].
        bias: float32 [o] or None.

    Returns:
        float32 [..., o].
    """
    q, token_scale = token_integers(x)
    y = _integer_product(q - 128, qdata).float() * scale * token_scale
    return y if bias is None else y + bias


def token_integers(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize each token with its own scale, around 128.

    Args:
        x: float32 [..., i].

    Returns:
        Whole numbers in [0, 255], [..., i], and their scales [..., 1].
    """
    token_scale = (x.abs().amax(-1, keepdim=True) / HALF_RANGE).clamp(min=SMALLEST_TOKEN_SCALE)
    return (x / token_scale).round().clamp(-128, 127) + 128, token_scale


def _integer_product(q: Tensor, qdata: Tensor) -> Tensor:
    """Multiply whole numbers q of int8 [..., i] with int8 qdata [i, o]; int32 sums, [..., o]."""
    flat = q.flatten(0, -2)  # [t, i]
    if q.device.type == "cpu":
        products = torch._int_mm(_row_major(flat.to(torch.int8)), _row_major(qdata))
    else:  # elsewhere _int_mm requires aligned shapes; float64 holds these sums exactly for any shape
        products = (flat.double() @ qdata.double()).to(torch.int32)
    return products.reshape(*q.shape[:-1], qdata.shape[1])


def _row_major(matrix: Tensor) -> Tensor:
    """Copy a matrix to its canonical strides if needed: with others `_int_mm` reads past its end.

    torch ignores the stride of a dimension of size 1, so `contiguous` doesn't change it: a transposed [n, 1]
    has strides (1, 1), and torch 2.14's product reads unrelated memory.
    """
    if matrix.stride() == (matrix.shape[1], 1):
        return matrix
    return torch.empty(matrix.shape, dtype=matrix.dtype).copy_(matrix)


@torch.library.custom_op("modelpress::int8_fitted_linear", mutates_args=())
def int8_fitted_linear(
    x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None, zero_point: int
) -> Tensor:
    """As `int8_dynamic_linear`, with a zero point that fits the inputs of this layer instead of 128.

    Args:
        zero_point: in [0, 255].

    Returns:
        float32 [..., o].
    """
    token_scale = fitted_scale(x, zero_point)
    sums = _asymmetric_product(x, qdata, token_scale, qdata.new_tensor(zero_point, dtype=torch.float32))
    y = sums.float() * scale * token_scale
    return y if bias is None else y + bias


def fitted_scale(x: Tensor, zero_point: int | Tensor) -> Tensor:
    """Smallest scale of each token that clips no value of [..., i]: [..., 1], or [..., z] for z points."""
    above = x.amax(-1, keepdim=True) / (255.5 - zero_point)
    below = x.amin(-1, keepdim=True) / -(zero_point + 0.5)
    return torch.maximum(above, below).clamp(min=SMALLEST_TOKEN_SCALE)


@int8_fitted_linear.register_fake
def _(x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None, zero_point: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], qdata.shape[1]))


@int8_dynamic_linear.register_fake
def _(x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], qdata.shape[1]))


@torch.library.custom_op("modelpress::int8_tensor_linear", mutates_args=())
def int8_tensor_linear(x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply int8 weights with activations quantized here, all with one scale and zero point.

    The arithmetic of ONNX's DynamicQuantizeLinear: the range contains 0 and the whole batch, so outputs
    depend on the rest of the batch.

    Args, returns: as `int8_dynamic_linear`.
    """
    x_scale, zero_point = tensor_steps(x)
    y = _asymmetric_product(x, qdata, x_scale, zero_point).float() * (x_scale * scale)
    return y if bias is None else y + bias


def tensor_steps(x: Tensor) -> tuple[Tensor, Tensor]:
    """Choose one scale and zero point, both [], for a tensor, like ONNX's DynamicQuantizeLinear."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    x_scale = (high - low) / 255
    x_scale = torch.where(x_scale == 0, torch.ones_like(x_scale), x_scale)
    return x_scale, (-low / x_scale).round().clamp(0, 255)


@int8_tensor_linear.register_fake
def _(x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], qdata.shape[1]))


@torch.library.custom_op("modelpress::int8_static_linear", mutates_args=())
def int8_static_linear(
    x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None, x_scale: Tensor, x_zero_point: Tensor
) -> Tensor:
    """Multiply int8 weights with activations whose scale and zero point are fixed.

    Values outside their range are clipped. The bias is added to the sums, as an integer.

    Args:
        x: float32 [..., i].
        qdata: int8 [i, o], the kernel's layout.
        scale: float32 [o].
        bias: int32 [o], in steps of x_scale * scale, or None.
        x_scale: float32 [].
        x_zero_point: uint8 [].

    Returns:
        float32 [..., o].
    """
    sums = _asymmetric_product(x, qdata, x_scale, x_zero_point.float())
    return (sums if bias is None else sums + bias).float() * (x_scale * scale)


@int8_static_linear.register_fake
def _(
    x: Tensor, qdata: Tensor, scale: Tensor, bias: Tensor | None, x_scale: Tensor, x_zero_point: Tensor
) -> Tensor:
    return x.new_empty((*x.shape[:-1], qdata.shape[1]))


def quantized(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Quantize to whole numbers from 0 to 255, like QuantizeLinear; result and zero point are float32."""
    return ((x / scale).round() + zero_point).clamp(0, 255)


def _asymmetric_product(x: Tensor, qdata: Tensor, x_scale: Tensor, zero_point: Tensor) -> Tensor:
    """Quantize x to uint8 and sum (q - zero point) times the weights: int32 [..., o]."""
    q = quantized(x, x_scale, zero_point)
    # The product takes signed integers: sum (q - z) w = sum (q - 128) w + (128 - z) sum w, all exact.
    column_sums = qdata.sum(0, dtype=torch.int32)  # [o]
    return _integer_product(q - 128, qdata) + (128 - zero_point).to(torch.int32) * column_sums


@torch.library.custom_op("modelpress::weight_only_linear", mutates_args=())
def weight_only_linear(
    x: Tensor,
    qdata: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bias: Tensor | None,
    bits: int,
    int8_activations: bool = False,
) -> Tensor:
    """Multiply activations with 4-bit or 8-bit weights that share a scale in groups of inputs.

    If i is not a multiple of the group size the last group is padded; the padding is never multiplied.

    Args:
        x: float32 [..., i].
        qdata: uint8 [o, g, h], with 4 bits as from `pack_int4`.
        scale: float32 [o, g].
        zero_point: uint8, with 8 bits [o, g], with 4 bits packed [o, ceil(g / 2)]; None: half the range.
        bias: float32 [o] or None.
        bits: 4 or 8.
        int8_activations: whether activations are rounded to 8 bits in the same groups (`rounded_groups`), so
            that products are of integers.

    Returns:
        float32 [..., o].
    """
    groups = dequantize_groups(qdata, scale, zero_point, bits)  # [o, g, group size]
    weight = groups.flatten(1)[:, : x.shape[-1]]  # [o, i]
    return F.linear(rounded_groups(x, groups.shape[-1]) if int8_activations else x, weight, bias)


def rounded_groups(x: Tensor, size: int) -> Tensor:
    """Round to multiples of each group's largest magnitude / 127, like MatMulNBits; [..., i] to [..., i].

    Each token's groups have their own steps, so outputs don't depend on the rest of the batch.
    """
    padded = F.pad(x, (0, -x.shape[-1] % size))
    groups = padded.reshape(*x.shape[:-1], -1, size)  # [..., g, size]
    top = groups.abs().amax(-1, keepdim=True)
    steps = (groups * torch.where(top == 0, top, 127 / top)).round()
    rounded: Tensor = (steps * (top / 127)).flatten(-2)[..., : x.shape[-1]]
    return rounded


def dequantize_groups(qdata: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int) -> Tensor:
    """Dequantize qdata [..., g, h] with scale [..., g]: [..., g, group size]."""
    values = (unpack_int4(qdata) if bits == 4 else qdata).float()
    if zero_point is None:
        return (values - 2.0 ** (bits - 1)) * scale.unsqueeze(-1)
    zeros = unpack_int4(zero_point)[..., : scale.shape[-1]] if bits == 4 else zero_point
    return (values - zeros.float().unsqueeze(-1)) * scale.unsqueeze(-1)


@weight_only_linear.register_fake
def _(
    x: Tensor,
    qdata: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bias: Tensor | None,
    bits: int,
    int8_activations: bool = False,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], qdata.shape[0]))


@torch.library.custom_op("modelpress::int8_embedding", mutates_args=())
def int8_embedding(ids: Tensor, qdata: Tensor, scale: Tensor) -> Tensor:
    """Look up rows of an int8 table; only those rows are dequantized.

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
def int4_embedding(
    ids: Tensor, qdata: Tensor, scale: Tensor, zero_point: Tensor | None, width: int
) -> Tensor:
    """Look up rows of a 4-bit table whose columns share a scale in groups.

    Args:
        ids: int64 [...].
        qdata: uint8 [v, g h], as from `pack_int4`; whole groups, so it may be wider than the table.
        scale: float32 [v, g].
        zero_point: uint8 [v, ceil(g / 2)], packed; None: 8.
        width: d.

    Returns:
        float32 [..., d].
    """
    packed = qdata[ids].reshape(*ids.shape, scale.shape[1], -1)  # [..., g, h]
    rows = dequantize_groups(packed, scale[ids], None if zero_point is None else zero_point[ids], 4)
    return rows.flatten(-2)[..., :width].contiguous()


@int4_embedding.register_fake
def _(ids: Tensor, qdata: Tensor, scale: Tensor, zero_point: Tensor | None, width: int) -> Tensor:
    return scale.new_empty((*ids.shape, width))


@torch.library.custom_op("modelpress::group_embedding", mutates_args=())
def group_embedding(
    ids: Tensor, qdata: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int, width: int
) -> Tensor:
    """Look up rows of a linear layer's weight, in the format of `weight_only_linear`.

    Args:
        ids: int64 [...].
        qdata: uint8 [v, g, h].
        scale: float32 [v, g].
        zero_point: uint8, with 8 bits [v, g], with 4 bits packed [v, ceil(g / 2)]; None: half the range.
        bits: 4 or 8.
        width: d.

    Returns:
        float32 [..., d].
    """
    zeros = None if zero_point is None else zero_point[ids]
    rows = dequantize_groups(qdata[ids], scale[ids], zeros, bits)
    return rows.flatten(-2)[..., :width].contiguous()


@group_embedding.register_fake
def _(ids: Tensor, qdata: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int, width: int) -> Tensor:
    return scale.new_empty((*ids.shape, width))


@torch.library.custom_op("modelpress::widened", mutates_args=())
def widened(qdata: Tensor) -> Tensor:
    """Convert a weight of 16-bit floats to float32, exactly."""
    return qdata.float()


@widened.register_fake
def _(qdata: Tensor) -> Tensor:
    return qdata.new_empty(qdata.shape, dtype=torch.float32)
