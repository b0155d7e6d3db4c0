"""Nodes of an ONNX file with their constant inputs, and the layers that they come from.

onnx is imported when a file is read.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.measure.explain.products import Node

__all__ = ["layer_names", "read_nodes", "short_layer"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_NOT_RUN = {"Constant"}


def read_nodes(path: Path) -> tuple[Node, ...]:
    """Read the nodes of an ONNX file, including those inside If, Loop and Scan, without its external data."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return tuple(_walk(graph, {}, set(), itertools.count()))


def _walk(
    graph: Any, outer: dict[str, tuple[int, ...]], made_outside: set[str], numbers: Iterator[int]
) -> list[Node]:
    """Nodes of a graph and its subgraphs.

    Args:
        outer: shapes of the constants visible from the outer graphs, by name.
        made_outside: names of those that are computed from stored constants.
        numbers: gives each graph its number.
    """
    own, constants = next(numbers), _constants(graph, outer)
    made = set(made_outside)
    nodes: list[Node] = []
    for proto in graph.node:
        attributes, subgraphs = _attributes(proto)
        holds = []
        for each in subgraphs:
            inner = _walk(each, constants, made, numbers)
            nodes += inner
            holds.append(min((node.graph for node in inner), default=-1))
        if proto.op_type in _NOT_RUN:
            value = next((each.t for each in proto.attribute if each.HasField("t")), None)
            if value is not None:
                constants[proto.output[0]] = tuple(value.dims)
            constants.setdefault(proto.output[0], ())
            continue
        given = [name for name in proto.input if name]
        unpacks = bool(given) and all(name in constants for name in given)
        node = Node(
            name=proto.name,
            domain=proto.domain,
            kind=proto.op_type,
            inputs=tuple(proto.input),
            outputs=tuple(proto.output),
            attributes=attributes,
            constants=tuple(constants.get(name) for name in proto.input),
            made=any(name in made for name in given),
            unpacks=unpacks,
            graph=own,
            holds=tuple(holds),
        )
        nodes.append(node)
        if unpacks:
            made.update(proto.output)
            constants.update(dict.fromkeys(proto.output, ()))  # the profile has the shapes of these
    return nodes


def _constants(graph: Any, outer: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of a graph's own stored constants and of the outer ones that it can see."""
    own = {each.name: tuple(each.dims) for each in graph.initializer}
    hidden = {each.name for each in graph.input} - set(own)  # old files list weights as inputs too
    return {name: shape for name, shape in outer.items() if name not in hidden} | own


def _attributes(proto: Any) -> tuple[dict[str, Any], list[Any]]:
    """Plain attributes of a node by name, and its subgraphs."""
    import onnx

    kinds = onnx.AttributeProto
    plain = {
        each.name: onnx.helper.get_attribute_value(each)
        for each in proto.attribute
        if each.type not in (kinds.GRAPH, kinds.GRAPHS, kinds.TENSOR)
    }
    return plain, [each.g for each in proto.attribute if each.type == kinds.GRAPH]


def layer_names(path: Path) -> dict[str, str]:
    """Map node names to source layers, where torch's exporter recorded them; else empty."""
    import onnx

    found = {}
    for node in _all_nodes(onnx.load(str(path), load_external_data=False).graph):
        noted = {each.key: each.value for each in node.metadata_props}.get(_SCOPES)
        try:
            scopes = ast.literal_eval(noted) if noted else []
        except (SyntaxError, ValueError):  # another exporter's metadata
            continue
        if isinstance(scopes, list) and len(scopes) > 1 and str(scopes[-2]):
            found[node.name] = short_layer(str(scopes[-2]))
    return found


def _all_nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for each in node.attribute:
            for held in (each.g, *each.graphs) if each.HasField("g") else each.graphs:
                yield from _all_nodes(held)


def short_layer(name: str) -> str:
    """Strip the name of the wrapper that our export puts around a module."""
    return name.removeprefix("module.")
