"""Sizes that a traced graph was found right for: torch.export notes where a module's Python asked for one.

It notes it even where the answer changed nothing, so a size outside is a place to look at, not yet a fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.data.split import Split
from compress.tasks import Task

if TYPE_CHECKING:
    from compress.export.onnx_file import Graph

__all__ = ["Narrow", "is_within", "narrow_dimensions", "needed_sizes"]

_BATCH = (1, 65_536)


@dataclass(frozen=True)
class Narrow:
    """A dimension of a graph that is open for fewer sizes than may come.

    Attributes:
        words: the dimension, its range and what is needed.
        lengths: of rows whose size is needed and outside: those next to the range, and the outermost.
    """

    words: str
    lengths: tuple[int, ...]


def needed_sizes(split: Split, task: Task, longest: int | None) -> dict[str, tuple[int, int]]:
    """Say how small and how large each dynamic dimension of a graph's inputs may be.

    Args:
        split: rows of the data.
        longest: how long a row may be beyond those; None: no longer.

    Returns:
        The bounds by the name of the dimension, both included.
    """
    sizes: dict[str, set[int]] = {}
    elastic = split.elastic
    for spec in task.inputs:
        for axis, name in enumerate(spec.shape):
            if isinstance(name, str):
                sizes.setdefault(name, set()).update(row[spec.name].shape[axis] for row in split.rows)
                if axis == 0 and spec in elastic:
                    sizes[name] |= {1} if longest is None else {1, longest}
    needed = {name: (min(found), max(found)) for name, found in sizes.items()} | {"batch_size": _BATCH}
    if task.keeps_past:  # a decoder reads a prompt of any length, and then a token at a time
        needed["past_sequence_length"] = (0, needed["sequence_length"][1] - 1)
    return needed


def is_within(needed: tuple[int, int], bounds: Any) -> bool:
    """Say whether all sizes that are needed are among those of torch's `ValueRanges`.

    A size of 1 may be missing: transformers' attention asks whether there is more than one token, and goes on
    to do the same. Where something else is done, rows that are compared alone, and token by token, show it.
    """
    return bool(bounds.lower <= (needed[0] if needed[0] != 1 else 2)) and bool(bounds.upper >= needed[1])


def narrow_dimensions(program: Any, graph: Graph, needed: dict[str, tuple[int, int]]) -> list[Narrow]:
    """Find the dimensions of a traced program that are open for fewer sizes than may come.

    Args:
        program: the `ExportedProgram` that the graph was translated from.
        needed: bounds by the name of the dimension.
    """
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.name in inputs]
    found = {}
    for value, (_, shape) in zip(values, graph.inputs, strict=True):
        for size, name in zip(value.shape, shape, strict=True):
            bounds = program.range_constraints.get(getattr(getattr(size, "node", None), "expr", None))
            if bounds is not None and name in needed and not is_within(needed[str(name)], bounds):
                found[str(name)] = _narrow(str(name), needed[str(name)], bounds)
    return list(found.values())


def _narrow(name: str, needed: tuple[int, int], bounds: Any) -> Narrow:
    low, high = needed
    endless = bool(bounds.upper >= high)
    words = f"from {bounds.lower} up" if endless else f"from {bounds.lower} to {bounds.upper}"
    lengths: set[int] = set()
    if name != "batch_size":  # rows that are compared alone are a batch of one
        lengths |= set() if bounds.lower <= low else {max(low, 1), int(bounds.lower) - 1}
        # A decoder reads all but the last token at once.
        lengths |= set() if endless else {int(bounds.upper) + 1, min(int(bounds.upper) + 2, high), high}
    lengths = {length for length in lengths if length >= 1}
    return Narrow(f"{name} {words} only, and {low:,} to {high:,} may come", tuple(sorted(lengths)))
