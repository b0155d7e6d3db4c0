"""nn.Module to ONNX file: dynamic batch and sequence, the names of the Hub, quantized ops on fast kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.split import Split
from compress.errors import ExportError
from compress.export.operators import check_operators
from compress.export.trace import trace
from compress.model.calls import logits, to_tensors
from compress.task import Task

__all__ = ["DEFAULT_OPSET", "export_onnx"]

DEFAULT_OPSET = 21  # the first with blocked QuantizeLinear, which per-token activations need


class _ByPosition(nn.Module):
    """Takes the inputs in order and returns the logits alone, whatever the module takes and returns."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return logits(self.module, dict(zip(self.names, inputs, strict=True)))


def export_onnx(
    module: nn.Module, split: Split, task: Task, path: str | Path, *, opset: int = DEFAULT_OPSET
) -> Path:
    """Write the module as an ONNX file.

    Args:
        module: called by keyword with the task's inputs; its logits become the output.
        split: rows to trace with; at least two, since one row would fix the batch at 1.
        task: input names, dtypes, and which dimensions are dynamic.
        path: the .onnx file to write.

    Returns:
        The path.

    Raises:
        ExportError: torch.export or the translation to ONNX failed; says why in the first line of theirs.
        ParityError: ONNX Runtime computes a quantized operator of the module in another way than it is
            defined.
    """
    path = Path(path)
    check_operators(module, opset=opset)
    # A clone: the exporter leaves fake tensors behind on some modules when it fails.
    wrapper = _ByPosition(module, task.input_names).eval()
    example = to_tensors(next(_tracing_rows(split).batches(2)), task.input_names)
    try:
        program = trace(
            wrapper,
            tuple(example.values()),
            inputs=task.input_names,
            output=task.output,
            dynamic_shapes=_dynamic_shapes(task),
            opset=opset,
        )
    except Exception as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        if reason.endswith(":") and len(lines) > 1:  # a heading; the reason itself is the first below it
            reason = f"{reason} {lines[1]}"
        raise ExportError(
            f"{type(module).__name__} cannot be exported to ONNX: {reason}. The module must be traceable by "
            "torch.export with dynamic batch and sequence: no Python branches on values, no fixed sizes"
        ) from error
    _name_dimensions_(program.model, task)
    program.save(str(path), external_data=False if _bytes(module) < 1_900_000_000 else None)
    return path


def _tracing_rows(split: Split) -> Split:
    if len(split) < 2:
        raise ExportError(f"exporting needs two rows to trace with; {split.name} has {len(split)}")
    longest = sorted(range(len(split)), key=lambda i: -split.rows[i][split.inputs[0].name].shape[0])[:2]
    return Split(split.name, tuple(split.rows[i] for i in longest), split.labels[longest], split.inputs)


def _dynamic_shapes(task: Task) -> tuple[tuple[dict[int, Any], ...]]:
    # DYNAMIC lets torch.export find the bounds itself (a position table's length); names come afterwards.
    dynamic = torch.export.Dim.DYNAMIC
    each = tuple(
        {0: dynamic, **{i + 1: dynamic for i, size in enumerate(spec.shape) if isinstance(size, str)}}
        for spec in task.inputs
    )
    return (each,)  # one entry for *inputs


def _name_dimensions_(model: Any, task: Task) -> None:
    import onnx_ir as ir

    for value, spec in zip(model.graph.inputs, task.inputs, strict=True):
        value.shape = ir.Shape(["batch_size", *spec.shape])
    output = model.graph.outputs[0]
    if output.shape is not None:
        output.shape = ir.Shape(["batch_size", *list(output.shape)[1:]])


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
