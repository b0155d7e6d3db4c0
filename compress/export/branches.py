"""Find out, before work on it starts, that a module branches on values, which no graph can."""

from __future__ import annotations

import torch
from torch import nn

from compress.data.split import Split
from compress.disk import scratch_directory
from compress.errors import ExportError, ModelError
from compress.export.onnx_file import DEFAULT_OPSET, export_onnx, graph_of
from compress.task import Task

__all__ = ["check_branches"]


def check_branches(module: nn.Module, split: Split, task: Task, *, opset: int = DEFAULT_OPSET) -> None:
    """Refuse a module whose forward goes one way or another by the values that it is given.

    A forward pass without values is quick, and most modules get through it; those that don't are exported
    to see why.

    Raises:
        ModelError: it can't be exported: with the line, and what to write instead.
    """
    try:
        if not _does_without_values(module, split, task):
            with scratch_directory("branches") as folder:
                export_onnx(module, split, task, folder / "model.onnx", opset=opset)
    except ExportError as error:
        raise ModelError(str(error)) from error


def _does_without_values(module: nn.Module, split: Split, task: Task) -> bool:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    graph = graph_of(module, split, task)
    was_training = module.training
    graph.module.eval()
    try:
        with torch.no_grad(), FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True) as mode:
            graph.module(*map(mode.from_tensor, graph.example))
    except Exception:  # a branch shows as one of several errors of torch; so does other trouble of its own
        return False
    finally:
        module.train(was_training)
    return True
