"""torch.export and the ONNX translation, without their output, with quantized ops on fast kernels."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from onnxscript.rewriter.rules.common import slice_split_rule
from torch import Tensor, nn

from compress.export.lowering.attention import attention_table, mask_with_infinity_
from compress.export.lowering.fast_graph import optimize_
from compress.export.lowering.nodes import note_scopes_, scopes_of
from compress.export.lowering.operators import finish_, translation_table

try:
    from torch.onnx._internal.exporter import _registration
except ImportError:  # a different torch version
    _registration = None  # type: ignore[assignment]

__all__ = ["trace"]

_TALKATIVE = (
    "torch.onnx",
    "torch.export",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)


def trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: Any,
    opset: int,
) -> torch.onnx.ONNXProgram:
    """Translate a module that takes positional tensors and returns one tensor or a tuple of them.

    Args:
        example: inputs to trace with.
        inputs, outputs: their names in the graph.
        dynamic_shapes: as in torch.export.

    Raises:
        Exception: whatever torch.export raises.
    """
    _forget_recurrent_kernels()
    # Without gradients in both of torch's steps. It captures without, but decomposes with them if they are
    # on, and then attention has other strides than the views after it were captured with (Swin; torch 2.14).
    with torch.no_grad(), _quiet(), _without_slow_rule(), _with_operators_listed_once():
        program = torch.onnx.export(
            module,
            example,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dynamic_shapes,
            opset_version=opset,
            dynamo=True,
            optimize=True,
            custom_translation_table={**translation_table(), **attention_table(opset)},
            verbose=False,
        )
    assert program is not None
    finish_(program.model)
    mask_with_infinity_(program.model)
    optimize_(program.model)
    _drop_notes_(program.model)
    return program


def _forget_recurrent_kernels() -> None:
    """Clear torch's cached choice of kernels for LSTM and GRU.

    Its exporter temporarily substitutes a traceable kernel, which the dispatcher caches; from the second
    export of a process on, they would be unrolled over a fixed sequence (torch 2.14).
    """
    aten = torch.ops.aten
    for kernel in (aten.lstm.input, aten.lstm.data, aten.gru.input, aten.gru.data):
        remembered = getattr(kernel, "_dispatch_cache", None)
        if remembered is not None:
            remembered.clear()


@contextlib.contextmanager
def _without_slow_rule() -> Iterator[None]:
    """Disable one of onnxscript's simplification rules: two slices that form a split.

    To find the second slice it walks the whole graph at every node: a third of the export time of a 30-layer
    decoder (24 of 73 s; onnxscript 0.7), without finding any.
    """
    slice_split_rule.try_rewrite = lambda *_, **__: None  # shadows the method on this one rule
    try:
        yield
    finally:
        del slice_split_rule.try_rewrite


@contextlib.contextmanager
def _with_operators_listed_once() -> Iterator[None]:
    """Cache torch's registry of ONNX operators for the process; torch builds it at each export.

    To build it, onnxscript parses the source of all 557, a third of a small model's export time (0.65 s), and
    torch infers their signatures, a tenth of what is left (torch 2.14, onnxscript 0.7).
    """
    kind: Any = getattr(_registration, "ONNXRegistry", None)
    build = None if kind is None else vars(kind).get("from_torchlib")
    if not isinstance(build, classmethod):  # a different torch version, which may export more slowly
        yield
        return

    def from_torchlib(*given: Any, **named: Any) -> Any:
        return _copy_of(_listed(build, kind, given, tuple(named.items())))

    kind.from_torchlib = staticmethod(from_torchlib)
    try:
        yield
    finally:
        kind.from_torchlib = build


@functools.cache
def _listed(build: Any, kind: Any, given: tuple[Any, ...], named: tuple[tuple[str, Any], ...]) -> Any:
    return build.__get__(None, kind)(*given, **dict(named))


def _copy_of(registry: Any) -> Any:
    """A registry to which an export adds its own operators."""
    own = copy.copy(registry)
    own.functions = {name: list(found) for name, found in registry.functions.items()}
    return own


def _drop_notes_(model: Any) -> None:
    """Remove the exporter's metadata: stack traces with local paths, almost a megabyte in MiniLM's file.

    Node scopes are kept: they record which module a node comes from.
    """
    import onnx_ir as ir

    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
        for node in ir.traversal.RecursiveGraphIterator(graph):
            scopes = scopes_of(node)
            node.metadata_props.clear()
            node.doc_string = None
            note_scopes_(node, scopes)
            for value in node.outputs:
                value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's progress and deprecation messages; errors still come through."""
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
