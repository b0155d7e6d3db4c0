"""Sizes for which a traced graph is valid: torch.export records where a module's Python tested a size.

It records it even if the test changed nothing, so a size outside the range needs checking but may be fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress.data.split import Split
from compress.tasks import Task

__all__ = ["Narrow", "is_within", "narrow_dimensions", "needed_sizes"]

_BATCH = (1, 65_536)


@dataclass(frozen=True)
class Narrow:
    """A graph dimension that is dynamic for fewer sizes than may occur.

    Attributes:
        words: the dimension, its range, and the range needed.
        lengths: row lengths to check: needed sizes outside the range, next to it and outermost.
    """

    words: str
    lengths: tuple[int, ...]


def needed_sizes(split: Split, task: Task, longest: int | None) -> dict[str, tuple[int, int]]:
    """Smallest and largest size of each dynamic dimension of a graph's inputs.

    Args:
        split: rows of the data.
        longest: maximum row length beyond those; None if rows are never longer.

    Returns:
        Inclusive bounds by dimension name.
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
    if task.keeps_past:  # a decoder reads a prompt of any length, then one token at a time
        needed["past_sequence_length"] = (0, needed["sequence_length"][1] - 1)
    return needed


def is_within(needed: tuple[int, int], bounds: Any) -> bool:
    """Whether all needed sizes are in torch's `ValueRanges`.

    A size of 1 may be missing: transformers' attention tests for more than one token, but does the same
    either way. If a module behaves differently, the single-row and token-by-token comparisons reveal it.
    """
    return bool(bounds.lower <= (needed[0] if needed[0] != 1 else 2)) and bool(bounds.upper >= needed[1])


def narrow_dimensions(
    program: Any, shapes: Sequence[tuple[int | str, ...]], needed: dict[str, tuple[int, int]]
) -> list[Narrow]:
    """Find the dimensions of a traced program that are dynamic for fewer sizes than may occur.

    Args:
        program: the `ExportedProgram` that the graph was translated from.
        shapes: shape of each input of the graph; a string is a dynamic dimension.
        needed: bounds by dimension name.
    """
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.name in inputs]
    found = {}
    for value, shape in zip(values, shapes, strict=True):
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
    if name != "batch_size":  # rows compared alone already have batch size 1
        lengths |= set() if bounds.lower <= low else {max(low, 1), int(bounds.lower) - 1}
        # A decoder reads all but the last token at once.
        lengths |= set() if endless else {int(bounds.upper) + 1, min(int(bounds.upper) + 2, high), high}
    lengths = {length for length in lengths if length >= 1}
    return Narrow(f"{name} {words}, but {low:,} to {high:,} may occur", tuple(sorted(lengths)))
