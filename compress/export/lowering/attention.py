"""ONNX translation of scaled dot-product attention with PyTorch's mask semantics.

PyTorch returns 0 for a query that may attend to no key, as in an all-padding row. The exporter's translation
returns the mean of all values for a Boolean mask (it adds the smallest float, which swamps the scores), and
NaN for a float mask of -inf. ONNX Runtime's Attention (opset 23) rejects a mask with one row for all queries.

Shapes: b = batch, h = heads, q = queries, t = keys, d = head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset21 as op
from onnxscript import opset23 as op23
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention as standard

from compress.export.lowering.nodes import constant_of, producer

__all__ = ["attention_table", "mask_with_infinity_"]

_SMALLEST = float(np.finfo(np.float32).min)
Value = Any  # a tensor of the graph under construction


def attention_table(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Map PyTorch's attention to its translation, for `torch.onnx.export`."""
    return {torch.ops.aten.scaled_dot_product_attention.default: _operator if opset >= 23 else _formula}


def _formula(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Attention as products and a softmax; `mask_with_infinity_` later fixes Boolean masks."""
    y = standard(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if attn_mask is None or attn_mask.dtype == ir.DataType.BOOL:
        return y
    largest = op.ReduceMax(attn_mask, op.Constant(value_ints=[-1]), keepdims=1)  # [..., q, 1]
    seen = op.Greater(largest, op.Constant(value_float=-float("inf")))
    return op.Where(seen, y, op.Constant(value_float=0.0))


def _operator(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """A single Attention, which returns 0 for a query without visible keys (ONNX Runtime 1.32).

    It treats the smallest float as "masked", whereas PyTorch just adds it, so half of it is used instead.
    """
    if dropout_p or any(len(each.shape) != 4 for each in (query, key, value)):
        return _formula(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    one_row = attn_mask is not None and 1 in attn_mask.shape[-2:]
    if attn_mask is not None and attn_mask.dtype != ir.DataType.BOOL:
        smallest = op.Constant(value_float=_SMALLEST)
        half = op.Constant(value_float=_SMALLEST / 2)
        attn_mask = op.Where(op.Equal(attn_mask, smallest), half, attn_mask)
    if one_row:
        lengths = op.Concat(op.Shape(query, start=2, end=3), op.Shape(key, start=2, end=3), axis=0)
        attn_mask = op.Expand(attn_mask, lengths)  # [..., q, t]
    y, *_ = op23.Attention(query, key, value, attn_mask, scale=scale, is_causal=is_causal)
    return y


def mask_with_infinity_(model: ir.Model) -> None:
    """Mask scores with -inf instead of the smallest float wherever NaN is then replaced by 0, in place.

    Matches Softmax(scores + Where(mask, 0, smallest)) whose result p is read by Where(IsNaN(p), 0, p).
    """
    for node in list(model.graph):
        if node.op_type == "Softmax" and any(user.op_type == "IsNaN" for user, _ in node.outputs[0].uses()):
            add = producer(node.inputs[0], "Add")
            for mask in () if add is None else add.inputs:
                _mask_with_infinity_(producer(mask, "Where"))


def _mask_with_infinity_(where: ir.Node | None) -> None:
    if where is None or [constant_of(each) for each in where.inputs[1:]] != [[0.0], [_SMALLEST]]:
        return
    infinite = ir.node("Constant", [], {"value": ir.tensor(np.asarray(-np.inf, dtype=np.float32))})
    assert where.graph is not None
    where.graph.insert_before(where, infinite)
    where.replace_input_with(2, infinite.outputs[0])
