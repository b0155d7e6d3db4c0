"""Synthetic batches for an ONNX file without data: read its inputs and fill them with valid values.

A Transformer's latency does not depend on its inputs' values, so synthetic ones are good enough for timing,
but not for accuracy. Token ids are drawn from [0, 100), or from the rows of the table that they index if it
has fewer; masks are ones, types zeros, positions count up; other numbers are normal, booleans false.
Shapes: b = batch, s = sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.past import is_past
from compress.data.split import Array, Batch
from compress.errors import ModelError

__all__ = ["FileInput", "inputs_of", "made_batch"]

_IDS = 100
_SEED = 0
_MOST_NUMBERS = 1 << 28  # 1 GiB of float32
_LOOKUPS = {"Gather": (1, 0), "GatherBlockQuantized": (1, 0)}  # input indices of the ids and of the table
_PASSES_ON = {"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "DequantizeLinear"}


@dataclass(frozen=True)
class FileInput:
    """One input of an ONNX file.

    Attributes:
        dtype: numpy name; empty if no batch can be made for it.
        shape: a number or a name per dimension; None where the file gives neither.
        limit: rows of the table that it indexes, if any.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    limit: int | None = None


def inputs_of(path: Path) -> tuple[FileInput, ...]:
    """Read the inputs of an ONNX file, without its weights.

    Raises:
        ModelError: if the file isn't ONNX.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # includes protobuf's own errors
        raise ModelError(f"{path}: not an ONNX file: {error}") from error
    graph = model.graph
    if not graph.node:
        raise ModelError(f"{path}: not an ONNX file: it contains no graph")
    weights = {each.name for each in graph.initializer}
    return tuple(_input(graph, each) for each in graph.input if each.name not in weights)


def _input(graph: Any, value: Any) -> FileInput:
    import onnx

    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type if kind == "tensor_type" else None
    if tensor is None:
        return FileInput(value.name, "", None)
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, TypeError):
        return FileInput(value.name, "", None)
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            int(each.dim_value) if each.HasField("dim_value") else each.dim_param or None
            for each in tensor.shape.dim
        )
    name = dtype.name if dtype.kind in "iufb" else ""
    return FileInput(value.name, name, shape, _table_rows(graph, value.name))


def _table_rows(graph: Any, name: str) -> int | None:
    """Rows of the smallest table that these ids index; None if there is none."""
    return min(_lookups(graph, {name}, {}), default=None)


def _lookups(graph: Any, names: set[str], rows: dict[str, int]) -> list[int]:
    """Rows of each table that the ids index, including in the branches of an If and the bodies of loops.

    Args:
        names: names of the ids in the outer graph.
        rows: rows of the tables visible from the outer graph, by name.
    """
    rows = rows | {each.name: int(each.dims[0]) for each in graph.initializer if each.dims}
    names, found = set(names), []
    for node in graph.node:  # in order of execution, so one pass is enough
        for each in node.attribute:
            found += _lookups(each.g, names, rows) if each.HasField("g") else []
        if node.op_type in _PASSES_ON and node.input[0] in names:
            names.add(node.output[0])
        elif node.op_type in _PASSES_ON and node.input[0] in rows:
            rows[node.output[0]] = rows[node.input[0]]
        elif node.op_type in _LOOKUPS:
            ids, table = (node.input[place] for place in _LOOKUPS[node.op_type])
            if ids in names and table in rows:
                found.append(rows[table])
    return found


def made_batch(
    path: Path, inputs: Sequence[FileInput], *, batch: int, sequence: int, fixed: bool = False
) -> tuple[Batch, int | None]:
    """Make one batch.

    The first dimension is the batch unless the file fixes it; every other open dimension is the sequence.

    Args:
        path: for messages.
        inputs: from `inputs_of`.
        batch: rows.
        sequence: size of open dimensions.
        fixed: whether the user gave `sequence`, so that it must not change.

    Returns:
        The batch and its sequence: the file's own if the second dimension of each input is fixed; None if
        each is an image or a vector of floats.

    Raises:
        ModelError: if no values can be made for an input, or the file fixes a different batch or sequence.
    """
    draw = np.random.default_rng(_SEED)
    made: Batch = {}
    lengths: set[int | None] = set()
    for each in inputs:
        if is_past(each.name):
            continue  # `feeds` adds an empty past for decoders
        if not each.dtype or each.shape is None:
            what = "the file does not give its shape" if each.dtype else "it is not a tensor of numbers"
            raise ModelError(f"{path}: no synthetic batch can be made for input '{each.name}': {what}")
        shape = [_size(path, each, place, batch, sequence) for place in range(len(each.shape))]
        if np.prod(shape, dtype=float) > _MOST_NUMBERS:
            raise ModelError(
                f"{path}: input '{each.name}' of shape {shape} is too large for a synthetic batch; give a "
                "smaller batch or sequence"
            )
        if len(shape) > 1:
            lengths.add(None if _has_no_sequence(each) else shape[1])
        made[each.name] = _values(each, shape, draw)
    own = lengths.pop() if len(lengths) == 1 else sequence
    once_called_so = {1, *(array.shape[1] for array in made.values() if array.ndim == 2)}
    if fixed and sequence not in (once_called_so if own is None else {own}):
        takes = "has no sequence" if own is None else f"takes sequence {own} only"
        raise ModelError(f"--sequence {sequence}: {path} {takes}; omit --sequence")
    return made, own


def _has_no_sequence(given: FileInput) -> bool:
    """Whether the input is an image (channels, height and width after the batch) or a vector of floats."""
    shape = given.shape or ()
    vector = len(shape) == 2 and np.dtype(given.dtype).kind == "f"
    return (len(shape) == 4 or vector) and all(isinstance(size, int) for size in shape[1:])


def _size(path: Path, given: FileInput, place: int, batch: int, sequence: int) -> int:
    assert given.shape is not None
    size = given.shape[place]
    if place == 0:
        if isinstance(size, int) and size != batch:
            raise ModelError(f"--batch {batch}: {path} takes batch {size} only (input '{given.name}')")
        return batch
    return size if isinstance(size, int) else sequence


def _values(given: FileInput, shape: list[int], draw: np.random.Generator) -> Array:
    name, dtype = given.name.lower(), np.dtype(given.dtype)
    if "mask" in name:
        return np.ones(shape, dtype)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
    if dtype.kind == "f":
        return draw.normal(size=shape).astype(dtype)
    if "type" in name or dtype.kind == "b":
        return np.zeros(shape, dtype)
    most = min(_IDS, given.limit or _IDS, np.iinfo(dtype).max)
    return draw.integers(0, most, size=shape).astype(dtype)
