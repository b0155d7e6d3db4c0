"""An ONNX Runtime profile as data: calls, and the nodes that ran in each call, with their shapes.

A node with subgraphs (If, Loop, Scan) is kept apart from the other nodes of a call: its time is that of its
inner nodes, which are listed themselves. ONNX Runtime truncates times to whole microseconds, so a node loses
half a microsecond on average.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Call", "Key", "NodeRun", "Shape", "calls_of", "elements", "node_runs"]

Shape = tuple[int, ...]
Key = tuple[str, str]
"""Name and index of a node in a profile.

The name is prefixed with the nodes whose subgraphs contain it, because subgraphs may reuse names.
"""

_KERNEL_SUFFIX = "_kernel_time"
_HOLDERS = {"If", "Loop", "Scan", "SequenceMap"}
_US_PER_MS = 1e3


@dataclass(frozen=True)
class NodeRun:
    """One execution of one node.

    Attributes:
        inputs: shapes of the inputs in order, except constants packed for the kernel.
        inside: nodes whose subgraphs contain it, outermost first, each followed by a slash; empty at top
            level.
    """

    name: str
    index: str
    kind: str
    ms: float
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    inside: str = ""

    @property
    def key(self) -> Key:
        """Name and index, unique in a file."""
        return self.inside + self.name, self.index

    @property
    def within(self) -> str:
        """Value of `inside` for the nodes in this node's subgraphs."""
        return f"{self.inside}{self.name} {self.index}/"


@dataclass(frozen=True)
class Call:
    """One call of the session: its duration, and its nodes in order of execution.

    Attributes:
        holders: the nodes with subgraphs.
    """

    ms: float
    nodes: tuple[NodeRun, ...]
    holders: tuple[NodeRun, ...] = ()


def calls_of(events: Iterable[dict[str, Any]]) -> tuple[Call, ...]:
    """Group the events of a profile by call, in order."""
    events = list(events)
    whole = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])
    begins = [e["ts"] for e in whole]
    ran: list[list[dict[str, Any]]] = [[] for _ in whole]
    for event in events:
        if _is_kernel(event) and (place := bisect_right(begins, event["ts"]) - 1) >= 0:
            ran[place].append(event)
    calls = []
    for call, each in zip(whole, ran, strict=True):
        runs = node_runs(each)
        alone = tuple(run for run in runs if run.kind not in _HOLDERS)
        holders = tuple(run for run in runs if run.kind in _HOLDERS)
        calls.append(Call(call["dur"] / _US_PER_MS, alone, holders))
    return tuple(calls)


def node_runs(events: Iterable[dict[str, Any]]) -> tuple[NodeRun, ...]:
    """Parse the node executions in order of their start; each knows which subgraph contains it.

    A profile records a node when it ends, so a node's inner nodes come right before it and start later.
    """
    ended: list[_Ran] = []
    for event in filter(_is_kernel, events):
        ran = _Ran(event)
        if event["args"]["op_name"] in _HOLDERS:
            while ended and ended[-1].event["ts"] >= event["ts"]:
                ran.inner.append(ended.pop())
        ended.append(ran)
    found: list[tuple[int, NodeRun]] = []
    waiting = [(ran, "") for ran in ended]
    while waiting:
        ran, inside = waiting.pop()
        run = _node(ran.event, inside)
        found.append((ran.event["ts"], run))
        waiting += [(inner, run.within) for inner in ran.inner]
    return tuple(run for _, run in sorted(found, key=lambda each: each[0]))


@dataclass
class _Ran:
    event: dict[str, Any]
    inner: list[_Ran] = field(default_factory=list)


def _is_kernel(event: dict[str, Any]) -> bool:
    return event.get("cat") == "Node" and event["name"].endswith(_KERNEL_SUFFIX)


def elements(shape: Shape) -> int:
    """Number of elements of a tensor; 1 for a scalar."""
    return math.prod(shape)


def _node(event: dict[str, Any], inside: str) -> NodeRun:
    given = event["args"]
    return NodeRun(
        name=event["name"].removesuffix(_KERNEL_SUFFIX),
        index=str(given.get("node_index", "")),
        kind=given["op_name"],
        ms=event["dur"] / _US_PER_MS,
        inputs=_shapes(given.get("input_type_shape")),
        outputs=_shapes(given.get("output_type_shape")),
        inside=inside,
    )


def _shapes(written: Any) -> tuple[Shape, ...]:
    """Parse [{"float": [1, 128]}, ...]."""
    return tuple(tuple(shape) for typed in written or () for shape in typed.values())
