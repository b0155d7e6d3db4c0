"""Check that the installed ONNX Runtime computes each quantized operator as it is defined.

A file's predictions may mostly agree although a kernel is wrong: ONNX Runtime 1.31 and 1.32 fuse one pattern
of int8 products so that the bias is multiplied by the scale. So one layer of each kind is run alone, followed
by a GELU to trigger fusions. Its weights are made small, so that no instruction set saturates; saturation is
handled by `reduce_range`.
"""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import ParityError
from compress.export.trace import trace
from compress.model.layers.quantized import QuantizedModule
from compress.system.disk import scratch_directory

__all__ = ["check_operators"]

_ROUNDING = 1e-2  # share of the largest output: one int8 value rounded the other way
_SMALL_WEIGHT = 63  # two products with a uint8 fit in 16 bits
# Config keys that do not change the operator.
_SIZES = ("in_", "out_", "num_", "input_size", "hidden_size", "embedding_dim", "padding_idx")
_proven: set[str] = set()


def check_operators(module: nn.Module, *, opset: int) -> None:
    """Compare one quantized layer of each kind in a model with its definition, once per process.

    Raises:
        ParityError: if one differs by more than rounding; names the layer and ONNX Runtime's version.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, QuantizedModule):
            form = {key: value for key, value in layer.config().items() if not key.startswith(_SIZES)}
            key = f"{layer.kind} {form} {opset}"
            if key not in _proven:
                _check(name, layer, opset)
                _proven.add(key)


class _Followed(nn.Module):
    def __init__(self, layer: QuantizedModule) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.layer.alone(x))


def _check(name: str, layer: QuantizedModule, opset: int) -> None:
    alone = copy.deepcopy(layer).cpu()
    for held in alone.buffers():
        if held.dtype == torch.int8:
            held.clamp_(-_SMALL_WEIGHT - 1, _SMALL_WEIGHT)
    followed, x = _Followed(alone).eval(), alone.example(torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = followed(x).numpy()
    found = _run(followed, x, opset)
    off = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
    if not off <= _ROUNDING:  # also true for NaN
        raise ParityError(
            f"{name}: ONNX Runtime {ort.__version__} computes {type(layer).__name__} incorrectly: outputs "
            f"differ by up to {off:.1%} of the largest, more than rounding explains; use another version of "
            "onnxruntime, or leave such layers float with the stage's `skip`"
        )


def _run(module: nn.Module, x: Tensor, opset: int) -> np.ndarray:
    batch = {0: torch.export.Dim.DYNAMIC}
    program = trace(module, (x,), inputs=("x",), outputs=("y",), dynamic_shapes=(batch,), opset=opset)
    with scratch_directory() as scratch:
        path = scratch / "operator.onnx"
        program.save(str(path))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # as operators are defined; see `QuantizedModule.of_one_thread`
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found: np.ndarray = session.run(None, {"x": x.numpy()})[0]
    return found
