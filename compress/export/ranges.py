"""Sizes that a traced graph is right for: torch.export notes where a module's Python asked for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.data.split import Split
from compress.errors import ExportError
from compress.task import Task

if TYPE_CHECKING:
    from compress.export.onnx_file import Graph

__all__ = ["check_ranges", "is_within", "needed_sizes"]

_BATCH = (1, 65_536)


def needed_sizes(split: Split, task: Task, longest: int | None) -> dict[str, tuple[int, int]]:
    """Say how small and how large each dynamic dimension of a graph's inputs may be.

    Args:
        split: rows of the data.
        longest: how long a row may be beyond those; None: no longer.

    Returns:
        The bounds by the name of the dimension, both included.
    """
    sizes: dict[str, list[int]] = {}
    for spec in task.inputs:
        for axis, name in enumerate(spec.shape):
            if isinstance(name, str):
                found = {row[spec.name].shape[axis] for row in split.rows}
                more = {longest} if longest is not None and axis == 0 and spec in split.elastic else set()
                sizes.setdefault(name, []).extend(found | more)
    needed = {name: (min(found), max(found)) for name, found in sizes.items()} | {"batch_size": _BATCH}
    if task.vocabulary:  # a decoder reads a prompt of any length, and then a token at a time
        last = needed["sequence_length"][1]
        needed |= {"sequence_length": (1, last), "past_sequence_length": (0, last - 1)}
    return needed


def is_within(needed: tuple[int, int], bounds: Any) -> bool:
    """Say whether all sizes that are needed are among those of torch's `ValueRanges`.

    A size of 1 may be missing: transformers' attention asks whether there is more than one token, and goes on
    to do the same. Where something else is done, rows that are compared alone, and token by token, show it.
    """
    return bool(bounds.lower <= (needed[0] if needed[0] != 1 else 2)) and bool(bounds.upper >= needed[1])


def check_ranges(program: Any, graph: Graph, needed: dict[str, tuple[int, int]], *, module_name: str) -> None:
    """Refuse a traced program that holds for fewer sizes than may come.

    Args:
        program: the `ExportedProgram` that the graph was translated from.
        needed: bounds by the name of the dimension.

    Raises:
        ExportError: a dimension is narrower; it is named, with its range and what is needed.
    """
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.name in inputs]
    for value, (input_name, shape) in zip(values, graph.inputs, strict=True):
        for size, name in zip(value.shape, shape, strict=True):
            bounds = program.range_constraints.get(getattr(getattr(size, "node", None), "expr", None))
            if bounds is None or name not in needed or is_within(needed[str(name)], bounds):
                continue
            low, high = needed[str(name)]
            raise ExportError(
                f"{module_name} cannot be exported to ONNX: its graph would be right for a {name} of "
                f"{input_name} {_words(bounds)} only, and {low:,} to {high:,} may come. Its forward "
                "takes one way or another by that size (a Python `if` on a shape, say), and a graph has one "
                "way: compute both and choose with torch.where"
            )


def _words(bounds: Any) -> str:
    low, high = str(bounds.lower), str(bounds.upper)
    return f"from {low} up" if "oo" in high else f"from {low} to {high}"
