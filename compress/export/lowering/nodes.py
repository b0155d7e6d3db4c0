"""Helpers for the rewrites in this folder: reading and replacing nodes of an ONNX graph."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

__all__ = [
    "SCOPES",
    "SMALL",
    "constant_of",
    "int64",
    "note_scopes_",
    "only_user",
    "permutation",
    "producer",
    "replace_",
    "scopes_of",
    "sizes",
    "take_place_",
    "whole_number",
]

SCOPES = "pkg.torch.onnx.name_scopes"  # exporter's metadata on a node: the modules around it, outermost first
SMALL = 1024  # bytes; smaller tensors may be stored twice
_SLICE = re.compile(r"\.slice\([^)]*\)")


def scopes_of(node: ir.Node) -> list[str]:
    """Names of the modules that a node comes from, outermost first, then its own; empty if not recorded.

    The slice is removed from names of layers called through one (`layers[:30]`).
    """
    noted = node.metadata_props.get(SCOPES)
    return [_SLICE.sub("", str(name)) for name in ast.literal_eval(noted)] if noted else []


def note_scopes_(node: ir.Node, scopes: Sequence[str]) -> None:
    """Record on a node which modules it comes from."""
    if scopes:
        node.metadata_props[SCOPES] = str(list(scopes))


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The producer of a value if it is a standard ONNX node of that type, else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type == op_type else None


def only_user(node: ir.Node, op_type: str) -> ir.Node | None:
    """The only consumer of a node's first output, if it has that type; None if there are others."""
    value = node.outputs[0]
    users = [user for user, _ in value.uses()]
    alone = len(users) == 1 and users[0].op_type == op_type and not value.is_graph_output()
    return users[0] if alone else None


def permutation(transpose: ir.Node) -> list[int]:
    """Dimension order of a Transpose; empty if it has none."""
    return list(transpose.attributes["perm"].as_ints()) if "perm" in transpose.attributes else []


def whole_number(node: ir.Node, name: str, default: int) -> int:
    """Integer attribute of a node."""
    return node.attributes[name].as_int() if name in node.attributes else default


def constant_of(value: ir.Value | None) -> list[float] | None:
    """Values of a small constant; None if the value is not constant, or large."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None or tensor.size > 8 else tensor.numpy().flatten().tolist()


def sizes(value: ir.Value | None, rank: int) -> list[int | str | None] | None:
    """Dimensions of a value of that rank, with names for dynamic ones; None if unknown."""
    if value is None or value.shape is None or len(value.shape) != rank:
        return None
    return [each if isinstance(each, int) else each.value for each in value.shape]


def int64(*values: int) -> ir.Node:
    """Create a 1-D constant."""
    return ir.node("Constant", [], {"value": ir.tensor(np.asarray(values, dtype=np.int64))})


def replace_(old: ir.Node, new: list[ir.Node]) -> None:
    """Replace a node by new ones; the last of them produces its output."""
    assert old.graph is not None
    old.graph.insert_after(old, new)
    (before,), after = old.outputs, new[-1].outputs[0]
    take_place_(before, after)


def take_place_(before: ir.Value, after: ir.Value) -> None:
    """Replace all uses of a value by another, which takes over its name."""
    after.type, after.shape = before.type, before.shape
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    after.name, before.name = before.name, None
