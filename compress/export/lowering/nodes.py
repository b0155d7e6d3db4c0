"""Nodes of an ONNX graph, read and replaced: what the rewrites of this folder share."""

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

SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note on a node: the modules around it, outermost first
SMALL = 1024  # bytes of a tensor of which it doesn't matter whether it is stored twice
_SLICE = re.compile(r"\.slice\([^)]*\)")


def scopes_of(node: ir.Node) -> list[str]:
    """The names of the modules that a node comes from, outermost first, and its own; none where not noted.

    Layers that were called by way of a slice (`layers[:30]`) have the names that the model gives them.
    """
    noted = node.metadata_props.get(SCOPES)
    return [_SLICE.sub("", str(name)) for name in ast.literal_eval(noted)] if noted else []


def note_scopes_(node: ir.Node, scopes: Sequence[str]) -> None:
    """Note on a node which modules it comes from."""
    if scopes:
        node.metadata_props[SCOPES] = str(list(scopes))


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node of the standard that makes a value, where it is of that type."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type == op_type else None


def only_user(node: ir.Node, op_type: str) -> ir.Node | None:
    """The one node that reads the first output of another, where it is of that type and nothing else does."""
    value = node.outputs[0]
    users = [user for user, _ in value.uses()]
    alone = len(users) == 1 and users[0].op_type == op_type and not value.is_graph_output()
    return users[0] if alone else None


def permutation(transpose: ir.Node) -> list[int]:
    """The order of dimensions that a Transpose names; empty where it names none."""
    return list(transpose.attributes["perm"].as_ints()) if "perm" in transpose.attributes else []


def whole_number(node: ir.Node, name: str, default: int) -> int:
    """A whole number among a node's attributes."""
    return node.attributes[name].as_int() if name in node.attributes else default


def constant_of(value: ir.Value | None) -> list[float] | None:
    """The numbers of a small constant; none where the value is no constant, or a large one."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None or tensor.size > 8 else tensor.numpy().flatten().tolist()


def sizes(value: ir.Value | None, rank: int) -> list[int | str | None] | None:
    """The dimensions of a value of that rank, open ones by their names; none where they aren't known."""
    if value is None or value.shape is None or len(value.shape) != rank:
        return None
    return [each if isinstance(each, int) else each.value for each in value.shape]


def int64(*values: int) -> ir.Node:
    """A constant of one dimension."""
    return ir.node("Constant", [], {"value": ir.tensor(np.asarray(values, dtype=np.int64))})


def replace_(old: ir.Node, new: list[ir.Node]) -> None:
    """Put new nodes in the place of an old one; the last of them gives what the old one gave."""
    assert old.graph is not None
    old.graph.insert_after(old, new)
    (before,), after = old.outputs, new[-1].outputs[0]
    take_place_(before, after)


def take_place_(before: ir.Value, after: ir.Value) -> None:
    """Let a value be read wherever another one is, under its name."""
    after.type, after.shape = before.type, before.shape
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    after.name, before.name = before.name, None
