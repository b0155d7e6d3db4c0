"""A runtime that computes a quantized operator wrongly is refused before anything is published."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnxscript import opset21 as op
from torch import nn

from compress.errors import ParityError
from compress.export import trace
from compress.export.lowering import kernel_check as operators
from compress.export.lowering import operators as lowering
from compress.export.lowering.kernel_check import check_operators
from compress.model.layers.grouped import Int4Linear
from compress.model.layers.int8 import Int8Linear
from compress.model.layers.kinds import QUANTIZED_KINDS
from compress.model.layers.quantized import QuantizedModule
from compress.quantize.integers.torchao_weights import int8_by_row


@pytest.fixture(autouse=True)
def nothing_proven(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    proven: set[str] = set()
    monkeypatch.setattr(operators, "_proven", proven)
    return proven


def layer() -> Int8Linear:
    torch.manual_seed(0)
    return Int8Linear(32, 8).fill_(*int8_by_row(torch.randn(8, 32)), bias=torch.randn(8))


def empty(kind: str) -> QuantizedModule:
    """A layer of that kind, 16 to 4 features, or a table of 9 rows."""
    if "conv" in kind:
        edges = {"kernel_size": [3], "stride": [2], "padding": [1, 0], "dilation": [2]}
        return QUANTIZED_KINDS[kind](in_channels=16, out_channels=4, **edges)
    return QUANTIZED_KINDS[kind](*((9, 16) if "embedding" in kind else (16, 4)))


def scaled_bias(x: Any, qdata: Any, scale: Any, bias: Any = None) -> Any:
    """Per-token products whose bias is multiplied by the token's scale: what ONNX Runtime 1.31 fuses."""
    y = lowering._int8_dynamic_linear(x, qdata, scale)
    largest = op.ReduceMax(op.Abs(x), op.Constant(value_ints=[-1]), keepdims=1)
    return op.Add(y, op.Mul(bias, op.Div(largest, op.Constant(value_float=127.5))))


@pytest.mark.parametrize(
    ("kind", "opset"), [*((kind, 21) for kind in sorted(QUANTIZED_KINDS)), ("int8_static_linear", 23)]
)
def test_every_kind_is_computed_as_it_is_defined(kind: str, opset: int, nothing_proven: set[str]) -> None:
    torch.manual_seed(0)
    made = empty(kind)
    for name, buffer in made.named_buffers():
        if name.rpartition(".")[2].startswith(("qdata", "bias")):
            buffer.copy_(torch.randint(0, 100, buffer.shape))
        if "lstm" in kind and not name.startswith("qdata"):  # gates that are neither open nor shut
            buffer.mul_(1e-3)
    check_operators(nn.Sequential(made), opset=opset)
    # A shared table holds the layer that it is shared with, which is a kind of its own.
    assert len(nothing_proven) == sum(isinstance(each, QuantizedModule) for each in made.modules())


def test_a_wrong_fusion_is_refused_by_name_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {**lowering.translation_table(), torch.ops.modelpress.int8_dynamic_linear.default: scaled_bias}
    monkeypatch.setattr(trace, "translation_table", lambda: table)
    model = nn.Sequential(nn.Linear(32, 32), layer())
    with pytest.raises(ParityError, match=rf"^1: ONNX Runtime {ort.__version__} .*Int8Linear"):
        check_operators(model, opset=21)


def test_layers_of_other_sizes_are_not_run_again(nothing_proven: set[str]) -> None:
    model = nn.Sequential(layer(), Int8Linear(8, 4), Int8Linear(4, 4, bias=False), Int4Linear(4, 4))
    check_operators(model, opset=21)
    assert len(nothing_proven) == 3, "with a bias, without one, and of 4 bits"


def test_weights_that_saturate_some_machines_are_not_what_is_asked(nothing_proven: set[str]) -> None:
    loud = layer()
    before = loud.qdata.clone()
    assert int(before.abs().max()) == 127
    check_operators(loud, opset=21)
    assert torch.equal(loud.qdata, before) and nothing_proven


def test_a_float_model_is_asked_nothing(nothing_proven: set[str]) -> None:
    check_operators(nn.Linear(2, 2), opset=21)
    assert not nothing_proven


@pytest.mark.parametrize("kind", sorted(QUANTIZED_KINDS))
def test_examples_hold_what_is_hard(kind: str) -> None:
    x = empty(kind).example(torch.Generator().manual_seed(0)).numpy()
    if "embedding" in kind:
        assert x.min() == 0 and x.max() == 8
    else:
        assert np.abs(x).max() == 30
        assert "conv" in kind or not x[0, 0].any()
