"""An ONNX Runtime profile as data: calls, and in each call the nodes that ran, with their shapes.

A node that holds graphs of its own (If, Loop, Scan) is kept apart from the others of a call: its time is that
of the nodes in it, which are there. ONNX Runtime writes whole microseconds and drops the rest: a node loses
half of one on average.
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
"""Name and index of a node, as a profile writes them, behind those of the nodes whose graphs it is in: in two
graphs they may be the same."""

_KERNEL_SUFFIX = "_kernel_time"
_HOLDERS = {"If", "Loop", "Scan", "SequenceMap"}
_US_PER_MS = 1e3


@dataclass(frozen=True)
class NodeRun:
    """One node, run once.

    Attributes:
        inputs: shapes of the inputs that are not constants packed for the kernel, in order.
        inside: the nodes whose graphs it is in, outermost first, each with a slash behind; empty: none.
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
        """What `inside` is of the nodes that it holds."""
        return f"{self.inside}{self.name} {self.index}/"


@dataclass(frozen=True)
class Call:
    """One call of the session: how long it took, and its nodes in the order in which they ran.

    Attributes:
        holders: the nodes that hold graphs.
    """

    ms: float
    nodes: tuple[NodeRun, ...]
    holders: tuple[NodeRun, ...] = ()


def calls_of(events: Iterable[dict[str, Any]]) -> tuple[Call, ...]:
    """Sort the events of a profile into calls, in order."""
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
    """Read the nodes that ran, in the order in which they began; each knows whose graph it is in.

    A profile writes a node when it has ended, so what a node holds stands right before it and began later.
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
    """Count the numbers in a tensor; a scalar has one."""
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
    """Read [{"float": [1, 128]}, ...]."""
    return tuple(tuple(shape) for typed in written or () for shape in typed.values())
