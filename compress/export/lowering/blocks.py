"""Cut an exported ONNX graph into blocks: one small ONNX file per submodule.

The cost of a block depends on the surrounding graph (fusions, shared work), so it is cut out of the whole
exported graph, not exported alone. The exporter records each node's submodule in its metadata; a node created
by a later pass belongs to the block that its inputs come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from compress.errors import ExportError
from compress.export.lowering.nodes import SCOPES

__all__ = ["Block", "extract_blocks"]


@dataclass(frozen=True)
class Block:
    """One block: its file, and real values for its inputs."""

    path: Path
    feeds: dict[str, NDArray[np.generic]]


def extract_blocks(
    path: Path, scopes: Sequence[str], feeds: Mapping[str, NDArray[np.generic]], directory: Path
) -> list[Block]:
    """Write one ONNX file for each submodule of an exported model.

    Args:
        path: the whole model's file, from `export_onnx`.
        scopes: paths of submodules in the exported module; none may contain another.
        feeds: a batch for the whole model; what reaches a block becomes the block's input.
        directory: folder to write the files to.

    Raises:
        ExportError: if the graph has no node of a submodule.
    """
    model = onnx.load(str(path))
    nodes = list(model.graph.node)
    constants = {name for node in nodes if node.op_type == "Constant" for name in node.output}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    owner = _owners(nodes, scopes, constants | set(weights))
    inputs, outputs = _boundaries(model, owner, len(scopes), constants | set(weights))
    for scope, produced in zip(scopes, outputs, strict=True):
        if not produced:
            raise ExportError(f"{scope} cannot be timed: the exported graph has no node of it")
    values = _values(model, sorted(set().union(*inputs)), feeds)
    blocks = []
    for index in range(len(scopes)):
        file = directory / f"block-{index}.onnx"
        _write(
            model,
            [node for node, at in zip(nodes, owner, strict=True) if at == index],
            file,
            values,
            inputs[index],
            outputs[index],
            weights,
            constants,
        )
        blocks.append(Block(file, {name: values[name] for name in inputs[index]}))
    return blocks


def _owners(nodes: Sequence[onnx.NodeProto], scopes: Sequence[str], fixed: set[str]) -> list[int | None]:
    """Block index of each node, or None; `fixed` are the names of weights and constants."""
    made_by: dict[str, int | None] = {}
    found: list[int | None] = []
    for node in nodes:
        said = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), None)
        if said is not None:
            # The exporter's own wrapper is called `module`.
            at = next((i for i, scope in enumerate(scopes) if f"'module.{scope}'" in said), None)
        else:
            sources = [made_by.get(name) for name in node.input if name and name not in fixed]
            at = next((source for source in reversed(sources) if source is not None), None)
        found.append(at)
        made_by.update(dict.fromkeys(node.output, at))
    return found


def _boundaries(
    model: onnx.ModelProto, owner: Sequence[int | None], count: int, fixed: set[str]
) -> tuple[list[list[str]], list[list[str]]]:
    """For each block: values from outside, and values used outside."""
    made_by = {name: at for node, at in zip(model.graph.node, owner, strict=True) for name in node.output}
    inputs: list[dict[str, None]] = [{} for _ in range(count)]
    outputs: list[dict[str, None]] = [{} for _ in range(count)]
    for node, at in zip(model.graph.node, owner, strict=True):
        for name in node.input:
            source = made_by.get(name)
            if not name or name in fixed or source == at:
                continue
            if at is not None:
                inputs[at][name] = None
            if source is not None:
                outputs[source][name] = None
    for value in model.graph.output:
        source = made_by.get(value.name)
        if source is not None:
            outputs[source][value.name] = None
    return [list(each) for each in inputs], [list(each) for each in outputs]


def _values(
    model: onnx.ModelProto, names: Sequence[str], feeds: Mapping[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.generic]]:
    """Run the whole model and return the values with these names."""
    given = {value.name for value in model.graph.input}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    read = session.run(None, {name: feeds[name] for name in given})
    values = {value.name: array for value, array in zip(probe.graph.output, read, strict=True)}
    return values | {name: feeds[name] for name in names if name in given}


def _write(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    file: Path,
    values: Mapping[str, NDArray[np.generic]],
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, onnx.TensorProto],
    constants: set[str],
) -> None:
    used = {name for node in nodes for name in node.input}
    own = {name for node in nodes for name in node.output}
    shared = [
        node
        for node in model.graph.node
        if node.op_type == "Constant" and used & set(node.output) and not own & set(node.output)
    ]
    # Keep sizes symbolic as in the whole model; fixed ones would enable constant folding.
    graph = onnx.helper.make_graph(
        [*shared, *nodes],
        file.stem,
        [
            onnx.helper.make_tensor_value_info(
                name,
                onnx.helper.np_dtype_to_tensor_dtype(values[name].dtype),
                [f"{name}.{axis}" for axis in range(values[name].ndim)],
            )
            for name in inputs
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        initializer=[weights[name] for name in weights if name in used],
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version),
        str(file),
    )
