"""nn.Module to ONNX file: dynamic batch and sequence, the Hub's names, quantized ops on fast kernels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.data.past import past_names, present_names
from compress.data.split import Split
from compress.errors import ExportError, ParityError
from compress.export.lowering.kernel_check import check_operators
from compress.export.parity import check_parity
from compress.export.proof import longest_row, proof_lengths
from compress.export.ranges import Narrow, narrow_dimensions, needed_sizes
from compress.export.trace import trace
from compress.facts import Parity
from compress.model.decoder_cache import CachedDecoder, cache_layers
from compress.model.evaluating import evaluating, in_float32
from compress.model.forward import logits, logits_of, to_tensors
from compress.recipe.config import ExportConfig
from compress.tasks import Task

__all__ = ["DEFAULT_OPSET", "TracePlan", "check_answers", "export_onnx", "trace_plan"]

DEFAULT_OPSET = 21  # first with blocked QuantizeLinear, needed for per-token activations
_FEW_ROWS = 16  # to estimate how much outputs vary
_LARGEST_FILE = 1_900_000_000  # bytes of weights; protobuf files are limited to 2 GiB
_STATIC = re.compile(r"inferred a static shape of (\d+) for dimension inputs\[(\d+)\]\.shape\[(\d+)\]")


class _ByPosition(nn.Module):
    """Wrapper that takes the inputs positionally and returns only the logits, after further outputs."""

    def __init__(self, module: nn.Module, names: tuple[str, ...], further: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.module, self.names, self.further = module, names, further

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        given = dict(zip(self.names, inputs, strict=True))
        if not self.further:
            return logits(self.module, given)
        found = self.module(**given)
        return (*(getattr(found, name) for name in self.further), logits_of(found, self.module))


def export_onnx(
    module: nn.Module,
    split: Split,
    task: Task,
    path: str | Path,
    *,
    opset: int = DEFAULT_OPSET,
    longest: int | None = None,
    check: bool = True,
) -> Path:
    """Write the module as an ONNX file, and compare the file's outputs with the module's.

    A language model's file takes and returns the keys and values of past tokens, so that one file can both
    read a prompt and add a token to it.

    Args:
        module: called by keyword with the task's inputs; its logits become the output. Its mode and precision
            are unchanged; the file computes in float32.
        split: rows to trace with and compare on; at least two, because one row would fix the batch at 1.
        task: input names, dtypes, and dynamic dimensions.
        path: the .onnx file to write.
        longest: maximum row length; None uses that of the split, or a decoder's context length.
        check: whether to compare outputs, as in a run; False only writes the file.

    Returns:
        The path.

    Raises:
        ModelError: if a language model has no key/value cache, or the module's outputs are random.
        ExportError: if torch.export or the ONNX translation fails, with the reason from its message, or if
            the graph is only valid for some of the sizes that may occur.
        ParityError: if the file's outputs differ from the module's (the file is removed), or ONNX Runtime
            computes a quantized operator differently from its definition.
    """
    path, module = Path(path), in_float32(module)
    check_operators(module, opset=opset)
    plan = trace_plan(module, split, task)
    longest = longest_row(module, task, longest)
    program = _traced(plan, type(module).__name__, opset)
    shapes = [shape for _, shape in plan.inputs]
    narrow = narrow_dimensions(program.exported_program, shapes, needed_sizes(split, task, longest))
    _name_dimensions_(program.model, plan)
    program.save(str(path), external_data=False if _bytes(module) < _LARGEST_FILE else None)
    try:
        for each in narrow:
            _prove_beyond(each, module, path, split, task)
        if check:
            check_answers(module, path, split, task, ExportConfig(), longest=longest)
    except BaseException:
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # weights above 2 GB
        raise
    return path


def _traced(plan: TracePlan, name: str, opset: int) -> torch.onnx.ONNXProgram:
    """Trace and translate a module.

    Args:
        name: the module's class, for messages.

    Raises:
        ExportError: torch.export or the ONNX translation fails.
    """
    try:
        with evaluating(plan.module):
            return trace(
                plan.module,
                plan.example,
                inputs=[name for name, _ in plan.inputs],
                outputs=[name for name, _ in plan.outputs],
                dynamic_shapes=plan.dynamic_shapes,
                opset=opset,
            )
    except Exception as error:
        said = str(error.__cause__ or error)
        reason = _fixed_axis(said, plan) or _reason(said)
        raise ExportError(f"{name} cannot be exported to ONNX: {reason}") from error


def check_answers(
    module: nn.Module,
    path: Path,
    split: Split,
    task: Task,
    limits: ExportConfig,
    *,
    longest: int | None = None,
    seed: int = 0,
) -> Parity:
    """Compare a file's outputs with the module's, on rows of a split and on rows of other lengths.

    Args:
        split: rows are sampled from it with `seed`.
        longest: as in `export_onnx`.

    Raises:
        ParityError, ModelError: as in `check_parity`.
    """
    return check_parity(
        module,
        path,
        split.take(limits.parity_rows, seed=seed),
        task,
        min_agreement=limits.min_agreement,
        max_metric_difference=limits.max_metric_difference,
        max_relative_error=limits.max_relative_error,
        lengths=proof_lengths(split, task, longest_row(module, task, longest), module),
    )


def _prove_beyond(narrow: Narrow, module: nn.Module, path: Path, split: Split, task: Task) -> None:
    """Compare outputs at sizes for which the exported graph is not known to be valid.

    Raises:
        ExportError: if they differ.
    """
    try:
        few = split.take(_FEW_ROWS, seed=0)
        check_parity(
            module, path, few, task, min_agreement=0, max_metric_difference=1, lengths=narrow.lengths
        )
    except ParityError as error:
        raise ExportError(
            f"{type(module).__name__} cannot be exported to ONNX: its graph is only valid for a "
            f"{narrow.words}. Its forward branches on that size (e.g. a Python `if` on a shape), which a "
            f"graph cannot do; compute both results and choose with torch.where ({error})"
        ) from error


def _fixed_axis(said: str, plan: TracePlan) -> str:
    """What to do if the module takes one size only of an open axis; empty if that is not the reason."""
    found = _STATIC.search(said)
    if found is None:
        return ""
    size, place, axis = map(int, found.groups())
    name, shape = plan.inputs[place]
    if axis == 0:
        return f"it takes {size} rows only (axis 0 of input '{name}'); it must take any number"
    return (
        f"it takes input '{name}' only with a size of {size} in axis {axis}, which is open ({shape[axis]}). "
        "If all rows have this size, set data.fixed to true for arrays (in Python from_arrays(..., "
        "fixed=True)); otherwise it must take any size"
    )


def _reason(said: str) -> str:
    """Shorten torch.export's message to a sentence or two: the reason, the source line, and what to do."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = lines[0] if lines else "no reason given"
    if reason.endswith(":") and len(lines) > 1:  # a heading; the reason is the line below it
        reason = f"{reason} {lines[1]}"
    calls = re.findall(r'File "([^"]+)", line (\d+), in .*(?:\n {4,}(\S.*))?', said)
    if "data-dependent" in reason and calls:
        return (
            f"{_place(*calls[-1])}, branches on the values of its inputs, which a graph cannot do; choose "
            "between results with torch.where, or between functions with torch.cond"
        )
    where = f" (at {_place(*calls[-1])})" if calls else ""
    return (
        f"{reason}{where}. torch.export must be able to trace the module with dynamic batch and sequence: no "
        "Python branches on values, no fixed sizes"
    )


def _place(file: str, line: str, code: str) -> str:
    return f"{Path(file).name}:{line}, `{code.strip()}`" if code else f"{Path(file).name}:{line}"


@dataclass(frozen=True)
class TracePlan:
    """What to trace: a module with positional inputs, and the names and dimensions of the graph.

    Attributes:
        inputs, outputs: name and shape; a string is a dynamic dimension.
        fixed: number of inputs that are separate arguments; the rest are passed as *args.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: list[tuple[str, tuple[int | str, ...]]]
    outputs: list[tuple[str, tuple[int | str, ...]]]
    fixed: int

    @property
    def dynamic_shapes(self) -> tuple[Any, ...]:
        # DYNAMIC lets torch.export find the bounds itself (a position table's length); names are set later.
        dynamic = torch.export.Dim.DYNAMIC
        each = [
            {at: dynamic for at, size in enumerate(shape) if isinstance(size, str)}
            for _, shape in self.inputs
        ]
        return (*each[: self.fixed], tuple(each[self.fixed :]))


def trace_plan(module: nn.Module, split: Split, task: Task) -> TracePlan:
    """Return what to trace of a module, with the longest rows of a split.

    Raises:
        ModelError: if a language model has no key/value cache.
        ExportError: if the split has fewer than two rows.
    """
    return _decoder_plan(module, split, task) if task.keeps_past else _answer_plan(module, split, task)


def _answer_plan(module: nn.Module, split: Split, task: Task) -> TracePlan:
    example = to_tensors(next(_tracing_rows(split).batches(2)), task.input_names)
    further, own = _further_outputs(module, example, task), task
    if further:  # a stage may have shortened the vectors
        with torch.no_grad(), evaluating(module):
            own = task.widened(logits(module, example).shape)
    return TracePlan(
        _ByPosition(module, task.input_names, tuple(name for name, _ in further)),
        tuple(example.values()),
        [(spec.name, ("batch_size", *spec.shape)) for spec in task.inputs],
        [*further, (task.output, ("batch_size", *own.answer_shape))],
        fixed=0,
    )


def _further_outputs(
    module: nn.Module, example: dict[str, Tensor], task: Task
) -> list[tuple[str, tuple[int | str, ...]]]:
    """Name and shape of what a file returns besides the logits, as far as the module has it."""
    if not task.further_outputs:
        return []
    with torch.no_grad(), evaluating(module):
        found = module(**example)
    states = {name: getattr(found, name, None) for name in task.further_outputs}
    return [
        (name, ("batch_size", "sequence_length", each.shape[-1]))
        for name, each in states.items()
        if isinstance(each, Tensor)
    ]


def _decoder_plan(module: nn.Module, split: Split, task: Task) -> TracePlan:
    """The plan for a decoder, with the first half of its rows as the past; only its shape matters."""
    layers = cache_layers(module)
    ids = to_tensors(next(_tracing_rows(split).batches(2)), ("input_ids",))["input_ids"]
    before = ids.shape[1] // 2
    past = [torch.zeros(2, each.heads, before, each.head_size) for each in layers for _ in range(2)]
    heads = [(each.heads, each.head_size) for each in layers for _ in range(2)]
    total = "total_sequence_length"
    return TracePlan(
        CachedDecoder(module),
        (ids[:, before:], torch.ones_like(ids), *past),
        [
            ("input_ids", ("batch_size", "sequence_length")),
            ("attention_mask", ("batch_size", total)),
            *(
                (name, ("batch_size", count, "past_sequence_length", size))
                for name, (count, size) in zip(past_names(len(layers)), heads, strict=True)
            ),
        ],
        [
            (task.output, ("batch_size", *task.answer_shape)),
            *(
                (name, ("batch_size", count, total, size))
                for name, (count, size) in zip(present_names(len(layers)), heads, strict=True)
            ),
        ],
        fixed=2,
    )


def _tracing_rows(split: Split) -> Split:
    if len(split) < 2:
        raise ExportError(f"export needs two rows to trace with; the {split.name} split has {len(split)}")
    longest = sorted(range(len(split)), key=lambda i: -split.rows[i][split.inputs[0].name].shape[0])[:2]
    return split.at(np.array(longest))


def _name_dimensions_(model: Any, plan: TracePlan) -> None:
    import onnx_ir as ir

    for value, (_, shape) in zip(model.graph.inputs, plan.inputs, strict=True):
        value.shape = ir.Shape(shape)
    for value, (_, shape) in zip(model.graph.outputs, plan.outputs, strict=True):
        if value.shape is not None:
            value.shape = ir.Shape(shape)


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
