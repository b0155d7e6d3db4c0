"""nn.Module to ONNX file: dynamic batch and sequence, the names of the Hub, quantized ops on fast kernels."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.split import Split
from compress.errors import ExportError
from compress.export.fast_graph import optimize_
from compress.export.lowering import finish_, translation_table
from compress.model.calls import logits, to_tensors
from compress.task import Task

__all__ = ["DEFAULT_OPSET", "SCOPES", "export_onnx"]

_TALKATIVE = (
    "torch.onnx",
    "torch.export",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)
SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note on a node: the modules around it, outermost first
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
    """
    path = Path(path)
    # A clone: the exporter leaves fake tensors behind on some modules when it fails.
    wrapper = _ByPosition(module, task.input_names).eval()
    example = to_tensors(next(_tracing_rows(split).batches(2)), task.input_names)
    try:
        with _quiet():
            program = torch.onnx.export(
                wrapper,
                tuple(example.values()),
                input_names=list(task.input_names),
                output_names=[task.output],
                dynamic_shapes=_dynamic_shapes(task),
                opset_version=opset,
                dynamo=True,
                optimize=True,
                custom_translation_table=translation_table(),
                verbose=False,
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
    assert program is not None
    finish_(program.model)
    optimize_(program.model)
    _drop_notes_(program.model)
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


def _drop_notes_(model: Any) -> None:
    """Leave out the exporter's notes: stack traces with the maker's paths, near a megabyte of MiniLM's file.

    The scopes of nodes stay: they say which module a node comes from.
    """
    import onnx_ir as ir

    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        for node in ir.traversal.RecursiveGraphIterator(graph):
            scopes = node.metadata_props.get(SCOPES)
            node.metadata_props.clear()
            node.doc_string = None
            if scopes is not None:
                node.metadata_props[SCOPES] = scopes
            for value in node.outputs:
                value.metadata_props.clear()


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and deprecation notes from the user; errors still come through."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),  # torch.export prints a whole graph when it fails
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
