"""Multiply-adds of a node and their arithmetic, by operator.

Shapes: b = batch, s = query tokens, t = key tokens, i = input features, h = hidden, o = output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from compress.measure.explain.events import NodeRun, Shape, elements

__all__ = ["Macs", "Node", "PRODUCT_ROLES", "ROLES", "Role", "macs_of", "may_make_products"]

Role = Literal["integer", "low_bit", "float_weight", "activations", "unpacking", "quantizing", "other"]
"""What a node is for.

integer: integer products. low_bit: products with low-bit weights, which are dequantized first (or whose
activations are rounded, block by block). float_weight: products with a float weight, which quantization could
change. activations: products of two activations, which weight quantization does not affect. unpacking:
recomputes the same values from constants in each call. quantizing: rounds activations for integer products
and rescales the results.
"""
PRODUCT_ROLES: tuple[Role, ...] = ("integer", "low_bit", "float_weight", "activations")
ROLES: tuple[Role, ...] = (*PRODUCT_ROLES, "unpacking", "quantizing", "other")

Macs = list[tuple[Role, int]]


@dataclass(frozen=True)
class Node:
    """A node of an optimized graph, with its constant inputs.

    Attributes:
        constants: for each input, the shape of a constant, or None.
        made: whether a constant input is computed from stored constants in each call.
        unpacks: whether all inputs are constant, so that the output is the same in each call.
        graph: number of the containing graph; 0 is the top level.
        holds: numbers of its subgraphs (branches of an If, body of a Loop).
    """

    name: str
    domain: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    constants: tuple[Shape | None, ...]
    made: bool
    unpacks: bool
    graph: int = 0
    holds: tuple[int, ...] = ()


_Rule = Callable[[Node, NodeRun], Macs]


def macs_of(node: Node, run: NodeRun) -> Macs | None:
    """Count a node's multiply-adds.

    Returns:
        (role, count) pairs, weight products first; empty if the shapes do not determine them; None if the
        operator has no products.
    """
    standard = node.kind == "Attention" and node.domain == ""  # ONNX Runtime's own is another operator
    rule = _attention_alone if standard else _RULES.get(node.kind)
    if rule is None:
        return None
    try:
        return rule(node, run)
    except (IndexError, KeyError, TypeError):  # input missing, or a form not covered
        return []


def may_make_products(kind: str) -> bool:
    """Whether an operator kind may have products."""
    return kind in _RULES


def _given(node: Node, run: NodeRun, place: int) -> Shape:
    """Shape of an input: from the file if constant, else from the profile."""
    constant = node.constants[place]
    if constant is not None and not node.made:
        return constant
    # Unpacked scalars and small constants are in the profile too, so index it from the front only.
    before = sum(1 for name in node.inputs[:place] if name)
    return run.inputs[before]


def _float_role(node: Node, *weights: int) -> Role:
    known = any(len(node.constants) > place and node.constants[place] is not None for place in weights)
    return "float_weight" if known else "activations"


def _inner(node: Node, run: NodeRun) -> int:
    """Size of the dimension that a matrix product sums over."""
    a = _given(node, run, 0)
    return a[-2] if node.attributes.get("transA") else a[-1]


def _float_matrix(node: Node, run: NodeRun) -> Macs:
    return [(_float_role(node, 0, 1), elements(run.outputs[0]) * _inner(node, run))]


def _integer_matrix(node: Node, run: NodeRun) -> Macs:
    return [("integer", elements(run.outputs[0]) * _inner(node, run))]


def _low_bit_matrix(node: Node, run: NodeRun) -> Macs:
    return [("low_bit", elements(run.outputs[0]) * int(node.attributes["K"]))]


def _convolution(weight: int, role: Role | None) -> _Rule:
    def rule(node: Node, run: NodeRun) -> Macs:
        kernel = _given(node, run, weight)  # [o, i / groups, ...]
        macs = elements(run.outputs[0]) * math.prod(kernel[1:])
        return [(role or _float_role(node, weight), macs)]

    return rule


def _transposed_convolution(node: Node, run: NodeRun) -> Macs:
    kernel = _given(node, run, 1)  # [i, o / groups, ...]
    return [(_float_role(node, 1), elements(_given(node, run, 0)) * math.prod(kernel[1:]))]


def _recurrent(gates: int, role: Role | None) -> _Rule:
    def rule(node: Node, run: NodeRun) -> Macs:
        length, batch, width = _given(node, run, 0)[-3:]
        hidden = int(node.attributes["hidden_size"])
        directions = 2 if node.attributes.get("direction", b"") == b"bidirectional" else 1
        macs = length * batch * directions * gates * hidden * (width + hidden)
        return [(role or _float_role(node, 1, 2), macs)]

    return rule


def _fused_attention(role: Role | None) -> _Rule:
    """ONNX Runtime's Attention: q, k and v projected from [b, s, i] by one weight, then attended."""

    def rule(node: Node, run: NodeRun) -> Macs:
        batch, tokens, width = _given(node, run, 0)
        projected, values = _given(node, run, 1)[-1], run.outputs[0][-1]
        keys = (projected - values) // 2
        past = run.outputs[1][-2] if len(run.outputs) > 1 else tokens
        made = batch * tokens * width * projected
        return [
            (role or _float_role(node, 1), made),
            ("activations", batch * tokens * past * (keys + values)),
        ]

    return rule


def _attention_alone(node: Node, run: NodeRun) -> Macs:
    """Scores and context for q and k [b, s, h] or [b, heads, s, h / heads]; k may be packed into q."""
    query, out = _given(node, run, 0), run.outputs[0]
    packed = len(node.inputs) < 2 or not node.inputs[1]
    keys = query if packed else _given(node, run, 1)
    tokens = keys[1] if len(keys) == 5 else keys[-2]  # if 5-D: [b, t, heads, 2 or 3, h / heads]
    present = [shape[-2] for shape in run.outputs[1:] if len(shape) == 4]
    per_token = elements(out) + elements(out if packed else query)
    return [("activations", per_token * max(tokens, *present, 0))]


_RULES: dict[str, _Rule] = {
    "MatMul": _float_matrix,
    "FusedMatMul": _float_matrix,
    "TransposeMatMul": _float_matrix,
    "Gemm": _float_matrix,
    "FusedGemm": _float_matrix,
    "MatMulInteger": _integer_matrix,
    "MatMulInteger16": _integer_matrix,
    "MatMulIntegerToFloat": _integer_matrix,
    "DynamicQuantizeMatMul": _integer_matrix,
    "QLinearMatMul": _integer_matrix,
    "QGemm": _integer_matrix,
    "MatMulNBits": _low_bit_matrix,
    "MatMulBnb4": _low_bit_matrix,
    "Conv": _convolution(1, None),
    "FusedConv": _convolution(1, None),
    "NhwcFusedConv": _convolution(1, None),
    "ConvInteger": _convolution(1, "integer"),
    "QLinearConv": _convolution(3, "integer"),
    "ConvTranspose": _transposed_convolution,
    "LSTM": _recurrent(4, None),
    "GRU": _recurrent(3, None),
    "RNN": _recurrent(1, None),
    "DynamicQuantizeLSTM": _recurrent(4, "integer"),
    "Attention": _fused_attention(None),
    "QAttention": _fused_attention("integer"),
    "MultiHeadAttention": _attention_alone,
    "GroupQueryAttention": _attention_alone,
    "Einsum": lambda node, run: [],
}
