"""Find out, before work on it starts, that a module branches on values, which no graph can."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from compress.data.split import Split
from compress.export.onnx_file import DEFAULT_OPSET, export_onnx
from compress.model.calls import logits, to_tensors
from compress.task import Task

__all__ = ["check_branches"]


def check_branches(module: nn.Module, split: Split, task: Task, *, opset: int = DEFAULT_OPSET) -> None:
    """Refuse a classifier whose forward goes one way or another by the values that it is given.

    A forward pass without values is quick, and shows it; what it shows is tried by exporting.

    Raises:
        ExportError: with the line, and what to write instead.
    """
    if not task.vocabulary and _asks_for_a_value(module, split, task):
        with tempfile.TemporaryDirectory(prefix="modelpress-branches-") as folder:
            export_onnx(module, split, task, Path(folder) / "model.onnx", opset=opset)


def _asks_for_a_value(module: nn.Module, split: Split, task: Task) -> bool:
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

    inputs = to_tensors(next(split.batches(2)), task.input_names)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True) as mode:
            logits(module, {name: mode.from_tensor(each) for name, each in inputs.items()})
    except (DataDependentOutputException, GuardOnDataDependentSymNode):
        return True
    except Exception:  # what can't run without values says nothing about branches; exporting will tell
        return False
    finally:
        module.train(was_training)
    return False
