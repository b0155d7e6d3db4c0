"""Detect early that a module branches on values or sizes, which an ONNX graph cannot represent."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compress.data.split import Split
from compress.errors import ExportError, ModelError
from compress.export.onnx_file import DEFAULT_OPSET, TracePlan, export_onnx, trace_plan
from compress.export.parity import cannot_answer, check_repeats
from compress.export.proof import longest_row, proof_lengths, proof_rows
from compress.export.ranges import is_within, needed_sizes
from compress.model.evaluating import evaluating
from compress.model.forward import logits, to_tensors
from compress.system.disk import scratch_directory
from compress.tasks import Task

__all__ = ["check_branches"]


def check_branches(
    module: nn.Module, split: Split, task: Task, *, opset: int = DEFAULT_OPSET, longest: int | None = None
) -> None:
    """Refuse a module whose forward branches on the values or sizes of its inputs.

    Most modules pass a quick forward pass with fake tensors; the others are exported to find the reason.

    Args:
        longest: maximum row length; None uses that of the split, or a decoder's context length.

    Raises:
        ModelError: if it can't be exported (with the line and what to write instead), gives random outputs,
            or fails on the longest row.
    """
    longest = longest_row(module, task, longest)
    with evaluating(module):
        check_repeats(module, next(split.batches(2)), task)
        if longest in proof_lengths(split, task, longest):
            _check_answers(module, proof_rows(split, task, [longest]), task, longest)
    try:
        if not _does_without_values(module, split, task, longest):
            with scratch_directory("branches") as folder:
                file = folder / "model.onnx"
                export_onnx(module, split, task, file, opset=opset, longest=longest, check=False)
    except ExportError as error:
        raise ModelError(str(error), see=error.see) from error


def _check_answers(module: nn.Module, rows: Split, task: Task, length: int) -> None:
    try:
        with torch.no_grad():
            logits(module, to_tensors(next(rows.batches(1)), task.input_names))
    except Exception as error:  # the user's module may raise anything
        raise ModelError(cannot_answer(module, length, error)) from error


def _does_without_values(module: nn.Module, split: Split, task: Task, longest: int | None) -> bool:
    """Whether a fake-tensor forward pass succeeds without excluding input sizes that may occur."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    plan = trace_plan(module, split, task)
    # All sizes are symbolic: 0 and 1 are not special, and sizes that happen to be equal stay separate.
    shapes = ShapeEnv(specialize_zero_one=False, duck_shape=False)
    try:
        inputs = _fake_forward(plan, shapes)
    except Exception:  # torch reports a branch as one of several errors, as it does its own problems
        return False
    needed = needed_sizes(split, task, longest)
    sizes: list[tuple[Any, int | str]] = [
        pair
        for tensor, (_, shape) in zip(inputs, plan.inputs, strict=True)
        for pair in zip(tensor.shape, shape, strict=True)
    ]
    ranges = {
        name: shapes.var_to_range.get(size.node.expr)
        for size, name in sizes
        if name in needed and isinstance(size, torch.SymInt)
    }
    if any(isinstance(size, torch.SymInt) and size.node.expr.is_number for size, _ in sizes):
        return False  # specialized to a single size, e.g. where rows are flattened for a Linear
    ranges.pop("batch_size", None)  # convolutions choose kernels by it; not a branch of the module
    return all(bounds is None or is_within(needed[str(name)], bounds) for name, bounds in ranges.items())


def _fake_forward(plan: TracePlan, shapes: Any) -> list[Any]:
    """Run a module on fake tensors, and return them; `shapes` collects the sizes that it tests."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    inputs = []
    for tensor, (_, shape) in zip(plan.example, plan.inputs, strict=True):
        sizes = [DimDynamic.DYNAMIC if isinstance(size, str) else DimDynamic.STATIC for size in shape]
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        inputs.append(mode.from_tensor(tensor, symbolic_context=context))
    with evaluating(plan.module), torch.no_grad(), mode:
        plan.module(*inputs)
    return inputs
