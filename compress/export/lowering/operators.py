"""ONNX translation of each quantized operator: the `custom_translation_table` of `torch.onnx.export`.

Operators are written so that ONNX Runtime has a fast kernel for them, in an order that its fusions keep
correct:

- signed activations are stored as uint8 with zero point 128, because uint8 x int8 is the fast product; the
  integers are the same;
- products are scaled by the weights first and by the token second (the other order is fused into a wrong
  result);
- MatMulNBits and GatherBlockQuantized are written directly: DequantizeLinear before MatMul would be fused
  into a product that quantizes the activations too, and before Gather it would dequantize the whole table on
  every call.

The int8 operators use only standard operators, so that other runtimes can read the files, except the LSTM,
which is an ONNX Runtime kernel (OpenVINO 2026.4 reads it).
MatMulIntegerToFloat would save a pass over the products, worth 1 to 4 % of a whole model: within the noise.

Shapes as in `compress.model.ops.linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset21 as op

import compress.model.ops.convolution  # imported to register their operators
import compress.model.ops.linear as ops
import compress.model.ops.recurrent  # noqa: F401
from compress.export.lowering.contrib import (
    OURS,
    dynamic_quantize_lstm,
    gather_block_quantized,
    matmul_nbits,
    widen,
)

__all__ = ["OPSET_VERSION", "finish_", "translation_table"]

OPSET_VERSION = 21
_INT8_BLOCKS = 4  # accuracy_level of MatMulNBits: 8-bit activations
Value = Any  # a tensor of the graph under construction


def _constant(value: float | int | list[int] | list[list[int]], dtype: type[np.generic]) -> Value:
    return op.Constant(value=ir.tensor(np.asarray(value, dtype=dtype)))


def _int8_dynamic_linear(x: Value, qdata: Value, scale: Value, bias: Value = None) -> Value:
    largest = op.ReduceMax(op.Abs(x), _constant([-1], np.int64), keepdims=1)
    token_scale = op.Max(
        op.Div(largest, _constant(ops.HALF_RANGE, np.float32)),
        _constant(ops.SMALLEST_TOKEN_SCALE, np.float32),
    )
    return _product_by_token(x, token_scale, 128, qdata, scale, bias)


def _int8_fitted_linear(x: Value, qdata: Value, scale: Value, bias: Value, zero_point: int) -> Value:
    last = _constant([-1], np.int64)
    above, below = 255.5 - zero_point, -(zero_point + 0.5)
    token_scale = op.Max(
        op.Div(op.ReduceMax(x, last, keepdims=1), _constant(above, np.float32)),
        op.Div(op.ReduceMin(x, last, keepdims=1), _constant(below, np.float32)),
        _constant(ops.SMALLEST_TOKEN_SCALE, np.float32),
    )
    return _product_by_token(x, token_scale, zero_point, qdata, scale, bias)


def _product_by_token(
    x: Value, token_scale: Value, zero_point: int, qdata: Value, scale: Value, bias: Value
) -> Value:
    zeros = op.ConstantOfShape(op.Shape(token_scale), value=ir.tensor(np.asarray([zero_point], np.uint8)))
    q = op.QuantizeLinear(x, token_scale, zeros, axis=-1, block_size=int(qdata.shape[0]))
    products = op.Cast(op.MatMulInteger(q, qdata, _constant(zero_point, np.uint8)), to=ir.DataType.FLOAT)
    y = op.Mul(op.Mul(products, scale), token_scale)
    return y if bias is None else op.Add(y, bias)


def _int8_tensor_linear(x: Value, qdata: Value, scale: Value, bias: Value = None) -> Value:
    q, x_scale, zero_point = op.DynamicQuantizeLinear(x)
    return _scaled_product(q, zero_point, x_scale, qdata, scale, bias)


def _int8_static_linear(
    x: Value, qdata: Value, scale: Value, bias: Value, x_scale: Value, zero_point: Value
) -> Value:
    """QuantizeLinear and DequantizeLinear around a Gemm, which runtimes turn into an integer product.

    A MatMul would support three dimensions, but its bias is then added in a separate pass; in two dimensions
    ONNX Runtime turns it into a Gemm whose weights are dequantized on every call.
    """
    inputs, outputs = (int(size) for size in qdata.shape)
    q = op.QuantizeLinear(x, x_scale, zero_point)
    leading = len(x.shape) - 1
    if leading != 1:
        q = op.Reshape(q, _constant([-1, inputs], np.int64))
    weight = op.DequantizeLinear(qdata, scale, _constant([0] * outputs, np.int8), axis=1)
    zeros = _constant([0] * outputs, np.int32)
    offset = () if bias is None else (op.DequantizeLinear(bias, op.Mul(x_scale, scale), zeros, axis=0),)
    y = op.Gemm(op.DequantizeLinear(q, x_scale, zero_point), weight, *offset)
    if leading == 1:
        return y
    shape = op.Concat(op.Shape(x, start=0, end=leading), _constant([outputs], np.int64), axis=0)
    return op.Reshape(y, shape)


def _int8_static_conv(
    x: Value,
    qdata: Value,
    scale: Value,
    bias: Value,
    x_scale: Value,
    x_zero_point: Value,
    y_scale: Value,
    y_zero_point: Value,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Value:
    """QuantizeLinear and DequantizeLinear around a Conv and its output, which becomes a QLinearConv.

    ConvInteger would keep the output exact, but takes four times as long as a float Conv.
    """
    outputs = int(qdata.shape[0])
    q = op.QuantizeLinear(x, x_scale, x_zero_point)
    weight = op.DequantizeLinear(qdata, scale, _constant([0] * outputs, np.int8), axis=0)
    zeros = _constant([0] * outputs, np.int32)
    offset = () if bias is None else (op.DequantizeLinear(bias, op.Mul(x_scale, scale), zeros, axis=0),)
    y = op.Conv(
        op.DequantizeLinear(q, x_scale, x_zero_point),
        weight,
        *offset,
        kernel_shape=[int(size) for size in qdata.shape[2:]],
        strides=list(stride),
        pads=list(padding),
        dilations=list(dilation),
        group=groups,
    )
    rounded = op.QuantizeLinear(y, y_scale, y_zero_point)
    return op.DequantizeLinear(rounded, y_scale, y_zero_point)


def _int8_lstm(
    x: Value,
    weight_ih: Value,
    weight_hh: Value,
    scale_ih: Value,
    scale_hh: Value,
    bias: Value,
    h0: Value,
    c0: Value,
) -> tuple[Value, Value, Value]:
    """One kernel per layer, with as many zero points as scales, because a second direction reads them."""
    directions, hidden = (int(size) for size in weight_hh.shape[:2])
    zeros = _constant([[0] * 4 * hidden] * directions, np.int8)
    y, h, c = dynamic_quantize_lstm(
        x,
        weight_ih,
        weight_hh,
        bias,
        None,
        h0,
        c0,
        None,
        scale_ih,
        zeros,
        scale_hh,
        zeros,
        hidden_size=hidden,
        direction="bidirectional" if directions == 2 else "forward",
    )
    return y, h, c


def _scaled_product(
    q: Value, zero_point: Value, x_scale: Value, qdata: Value, scale: Value, bias: Value
) -> Value:
    """Pattern that ONNX Runtime fuses into MatMulIntegerToFloat or DynamicQuantizeMatMul, with its bias."""
    products = op.Cast(op.MatMulInteger(q, qdata, zero_point), to=ir.DataType.FLOAT)
    y = op.Mul(products, op.Mul(x_scale, scale))
    return y if bias is None else op.Add(y, bias)


def _weight_only_linear(
    x: Value,
    qdata: Value,
    scale: Value,
    zero_point: Value,
    bias: Value,
    bits: int,
    int8_activations: bool = False,
) -> Value:
    return matmul_nbits(
        x,
        qdata,
        scale,
        zero_point,
        None,
        bias,
        K=int(x.shape[-1]),
        N=int(qdata.shape[0]),
        bits=bits,
        block_size=int(qdata.shape[2]) * 8 // bits,
        accuracy_level=_INT8_BLOCKS if int8_activations else 0,
    )


def _int8_embedding(ids: Value, qdata: Value, scale: Value) -> Value:
    rows = op.Cast(op.Gather(qdata, ids, axis=0), to=ir.DataType.FLOAT)
    return op.Mul(rows, op.Unsqueeze(op.Gather(scale, ids, axis=0), _constant([-1], np.int64)))


def _int4_embedding(ids: Value, qdata: Value, scale: Value, zero_point: Value, width: int) -> Value:
    return _int4_rows(qdata, ids, scale, zero_point, int(qdata.shape[1]) * 2, int(scale.shape[1]), width)


def _int4_rows(
    qdata: Value, ids: Value, scale: Value, zero_point: Value, stored: int, groups: int, width: int
) -> Value:
    rows = gather_block_quantized(
        qdata,
        ids,
        scale,
        zero_point,
        bits=4,
        block_size=stored // groups,
        gather_axis=0,
        quantize_axis=1,
    )
    return _first_columns(rows, stored, width)


def _first_columns(rows: Value, stored: int, width: int) -> Value:
    if width == stored:
        return rows
    return op.Slice(rows, *(_constant([each], np.int64) for each in (0, width, -1)))


def _group_embedding(
    ids: Value, qdata: Value, scale: Value, zero_point: Value, bits: int, width: int
) -> Value:
    rows, groups, held = (int(size) for size in qdata.shape)
    if bits == 4:  # same bytes, grouped for MatMulNBits, in rows for this operator
        table = op.Reshape(qdata, _constant([rows, groups * held], np.int64))
        return _int4_rows(table, ids, scale, zero_point, groups * held * 2, groups, width)
    values = op.Cast(op.Gather(qdata, ids, axis=0), to=ir.DataType.FLOAT)  # [..., g, h]
    last = _constant([-1], np.int64)
    if zero_point is None:
        zeros: Value = _constant(128.0, np.float32)
    else:
        zeros = op.Unsqueeze(op.Cast(op.Gather(zero_point, ids, axis=0), to=ir.DataType.FLOAT), last)
    steps = op.Unsqueeze(op.Gather(scale, ids, axis=0), last)
    lead = op.Shape(ids)
    flat = op.Reshape(
        op.Mul(op.Sub(values, zeros), steps), op.Concat(lead, _constant([groups * held], np.int64), axis=0)
    )
    return _first_columns(flat, groups * held, width)


def _widened(qdata: Value) -> Value:
    """Placeholder for a Cast (see `finish_`), which the exporter would fold to float32 for small weights."""
    return widen(qdata)


def finish_(model: ir.Model) -> None:
    """Turn the placeholders that prevented the exporter's folding into standard operators, in place."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == OURS:
            node.domain, node.op_type = "", "Cast"
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
    model.opset_imports.pop(OURS, None)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Map each operator of `compress.model.ops` to its translation, for `torch.onnx.export`."""
    modelpress = torch.ops.modelpress
    return {
        modelpress.int8_dynamic_linear.default: _int8_dynamic_linear,
        modelpress.int8_fitted_linear.default: _int8_fitted_linear,
        modelpress.int8_tensor_linear.default: _int8_tensor_linear,
        modelpress.int8_static_linear.default: _int8_static_linear,
        modelpress.int8_static_conv.default: _int8_static_conv,
        modelpress.int8_lstm.default: _int8_lstm,
        modelpress.weight_only_linear.default: _weight_only_linear,
        modelpress.int8_embedding.default: _int8_embedding,
        modelpress.int4_embedding.default: _int4_embedding,
        modelpress.group_embedding.default: _group_embedding,
        modelpress.widened.default: _widened,
    }
