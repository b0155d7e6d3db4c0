"""An ONNX Runtime profile as data: calls, and in each call the nodes that ran, with their shapes.

A node that holds a graph of its own (If, Loop, Scan) is left out, because its time is that of the nodes in
it, which are there. ONNX Runtime writes whole microseconds and drops the rest: a node loses half of one on
average.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Call", "Key", "NodeRun", "Shape", "calls_of", "elements"]

Shape = tuple[int, ...]
Key = tuple[str, str]
"""Name and index of a node, as a profile writes them; names alone may repeat in a subgraph."""

_KERNEL_SUFFIX = "_kernel_time"
_HOLDERS = {"If", "Loop", "Scan", "SequenceMap"}
_US_PER_MS = 1e3


@dataclass(frozen=True)
class NodeRun:
    """One node, run once.

    Attributes:
        inputs: shapes of the inputs that are not constants packed for the kernel, in order.
    """

    name: str
    index: str
    kind: str
    ms: float
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]

    @property
    def key(self) -> Key:
        """Name and index."""
        return self.name, self.index


@dataclass(frozen=True)
class Call:
    """One call of the session: how long it took, and its nodes in the order in which they ran."""

    ms: float
    nodes: tuple[NodeRun, ...]


def calls_of(events: Iterable[dict[str, Any]]) -> tuple[Call, ...]:
    """Sort the events of a profile into calls, in order."""
    events = list(events)
    whole = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])
    begins = [e["ts"] for e in whole]
    nodes: list[list[NodeRun]] = [[] for _ in whole]
    ran = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL_SUFFIX)]
    for event in sorted(ran, key=lambda e: e["ts"]):
        place = bisect_right(begins, event["ts"]) - 1
        if place >= 0 and event["args"]["op_name"] not in _HOLDERS:
            nodes[place].append(_node(event))
    return tuple(Call(e["dur"] / _US_PER_MS, tuple(n)) for e, n in zip(whole, nodes, strict=True))


def elements(shape: Shape) -> int:
    """Count the numbers in a tensor; a scalar has one."""
    return math.prod(shape)


def _node(event: dict[str, Any]) -> NodeRun:
    given = event["args"]
    return NodeRun(
        name=event["name"].removesuffix(_KERNEL_SUFFIX),
        index=str(given.get("node_index", "")),
        kind=given["op_name"],
        ms=event["dur"] / _US_PER_MS,
        inputs=_shapes(given.get("input_type_shape")),
        outputs=_shapes(given.get("output_type_shape")),
    )


def _shapes(written: Any) -> tuple[Shape, ...]:
    """Read [{"float": [1, 128]}, ...]."""
    return tuple(tuple(shape) for typed in written or () for shape in typed.values())
