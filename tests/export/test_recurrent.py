"""LSTMs of int8 in ONNX Runtime: its kernel computes what the operator is defined as.

Tanh and sigmoid are other approximations there, by some 1e-7, which now and then rounds one number of a state
the other way: one of 255 steps of at most 2, times a weight of at most 0.4. So outputs may differ by some
1e-3 now and then, and by 1e-6 mostly; what is before the activations is equal bit for bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compress.export.trace import trace
from compress.model.layers.recurrent import Int8LSTM
from compress.model.ops import recurrent as recurrent_ops
from compress.quantize.integers.grid import Grid
from compress.quantize.recurrent import int8_lstm_of

ROUNDED_OTHERWISE = 1e-2
MOSTLY = 1e-5  # mean
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False, "batch_first": True},
    "two layers": {"num_layers": 2},
    "two ways": {"bidirectional": True},
    "all at once": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}
CALLS = ((1, 1), (1, 6), (9, 1), (9, 6), (33, 4))  # the two first dimensions


class Whole(nn.Module):
    """An LSTM with its states, in and out."""

    def __init__(self, lstm: nn.Module) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x, (h, c))
        return y, h, c


def _lstm(i: int = 11, n: int = 24, **form: Any) -> Int8LSTM:
    torch.manual_seed(0)
    return int8_lstm_of("lstm", nn.LSTM(i, n, **form), Grid(8, None), "rtn").eval()


def _export(lstm: Int8LSTM, file: Path, opset: int) -> Path:
    """All dimensions but that of the features are dynamic."""
    dynamic, states = torch.export.Dim.DYNAMIC, lstm.directions * lstm.num_layers
    example = (torch.randn(3, 3, lstm.input_size), *torch.randn(2, states, 3, lstm.hidden_size))
    shapes = ({0: dynamic, 1: dynamic}, {1: dynamic}, {1: dynamic})
    names = {"inputs": ("x", "h", "c"), "outputs": ("y", "hn", "cn")}
    trace(Whole(lstm), example, dynamic_shapes=shapes, opset=opset, **names).save(str(file))
    return file


def _session(model: Path | bytes, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    given = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, x: Tensor, h: Tensor, c: Tensor) -> list[np.ndarray]:
    found: list[np.ndarray] = session.run(None, {"x": x.numpy(), "h": h.numpy(), "c": c.numpy()})
    return found


def _agree(found: list[np.ndarray], wanted: tuple[Tensor, ...] | list[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        off = np.abs(one - other.numpy())
        assert one.shape == tuple(other.shape)
        assert off.max() < ROUNDED_OTHERWISE and off.mean() < MOSTLY


@pytest.mark.parametrize(("form", "opset"), [*((form, 21) for form in FORMS), ("all at once", 23)])
def test_an_lstm_is_one_kernel_a_layer_and_computes_what_it_is_defined_as(
    form: str, opset: int, tmp_path: Path
) -> None:
    lstm = _lstm(**FORMS[form])
    file = _export(lstm, tmp_path / "model.onnx", opset)
    session = _session(file)
    for first, second in CALLS:
        batch = first if lstm.batch_first else second
        x = 2 * torch.randn(first, second, 11)
        h, c = torch.randn(2, lstm.directions * lstm.num_layers, batch, 24)
        for given in ((x, h, c), (x, 0 * h, 0 * c), (0 * x, h, c), (x.abs(), h, c), (1e3 * x, h, c)):
            with torch.no_grad():
                _agree(_run(session, *given), Whole(lstm)(*given))
    graph = onnx.load(file).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("DynamicQuantizeLSTM") == lstm.num_layers and "LSTM" not in kinds
    held = {each.name: each for each in graph.initializer}
    weights = [each for name, each in held.items() if "qdata" in name]
    assert len(weights) == 2 * lstm.num_layers
    assert {each.data_type for each in weights} == {TensorProto.INT8}


@pytest.mark.parametrize("hidden", [7, 96, 300])
def test_other_widths_agree_too(hidden: int, tmp_path: Path) -> None:
    lstm = _lstm(5, hidden)
    session = _session(_export(lstm, tmp_path / "model.onnx", 21))
    x, (h, c) = torch.randn(12, 5, 5), torch.randn(2, 1, 5, hidden)
    _agree(_run(session, x, h, c), Whole(lstm)(x, h, c))


def test_a_batch_of_one_is_the_same_on_any_number_of_threads(tmp_path: Path) -> None:
    file = _export(_lstm(), tmp_path / "model.onnx", 21)
    x, (h, c) = torch.randn(20, 1, 11), torch.randn(2, 1, 1, 24)
    one, three = (_run(_session(file, threads), x, h, c) for threads in (1, 3))
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))


@pytest.mark.parametrize(("threads", "each"), [(2, 3), (3, 2)])
def test_each_thread_rounds_the_states_of_its_sequences_together(
    threads: int, each: int, tmp_path: Path
) -> None:
    """The inputs of all sequences have one range; here each has its ends, so parts can be compared."""
    lstm = _lstm()
    session = _session(_export(lstm, tmp_path / "model.onnx", 21), threads)
    x, (h, c) = torch.randn(20, 5, 11).clamp(-3, 3), torch.randn(2, 1, 5, 24)
    x[0, :, 0], x[0, :, 1] = 3, -3
    parts = [
        Whole(lstm)(x[:, at : at + each], h[:, at : at + each], c[:, at : at + each])
        for at in range(0, 5, each)
    ]
    found = _run(session, x, h, c)
    _agree(found, [torch.cat(pieces, dim=1) for pieces in zip(*parts, strict=True)])
    whole = Whole(lstm)(x, h, c)[0].numpy()
    assert np.abs(found[0] - whole).mean() > 10 * MOSTLY, "all sequences together are rounded otherwise"


class Unactivated(TorchFunctionMode):
    """Leave out sigmoid and tanh."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in (Tensor.sigmoid, Tensor.tanh) else func(*args, **(kwargs or {}))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("i", "n"), [(33, 24), (64, 128), (5, 3)])
def test_without_activations_the_kernel_is_equal_bit_for_bit(i: int, n: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    read, told = (torch.randint(-127, 128, (1, k, 4 * n), generator=draw).to(torch.int8) for k in (i, n))
    scales = torch.rand(2, 1, 4 * n, generator=draw) / (127 * n)
    bias = torch.randn(1, 8 * n, generator=draw) / 10
    x, h, c = torch.randn(4, 3, i, generator=draw), *torch.randn(2, 1, 3, n, generator=draw)
    zeros = torch.zeros(1, 4 * n, dtype=torch.int8)
    constants = {"w": read, "r": told, "b": bias, "ws": scales[0], "rs": scales[1], "z": zeros}
    node = helper.make_node(
        "DynamicQuantizeLSTM",
        ["x", "w", "r", "b", "", "h", "c", "", "ws", "z", "rs", "z"],
        ["y", "hn", "cn"],
        domain="com.microsoft",
        hidden_size=n,
        activations=["Affine"] * 3,
        activation_alpha=[1.0] * 3,
        activation_beta=[0.0] * 3,
    )
    graph = helper.make_graph(
        [node],
        "bare",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in "xhc"],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
            for name, rank in (("y", 4), ("hn", 3), ("cn", 3))
        ],
        [numpy_helper.from_array(value.numpy(), name) for name, value in constants.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString()
    with Unactivated():
        y, hn, cn = recurrent_ops._one_direction(
            x, (read[0].double(), scales[0, 0]), (told[0].double(), scales[1, 0]), bias[0], (h[0], c[0])
        )
    found = _run(_session(model), x, h, c)
    for one, other in zip(found, (y.unsqueeze(1), hn.unsqueeze(0), cn.unsqueeze(0)), strict=True):
        assert np.array_equal(one, other.numpy())
