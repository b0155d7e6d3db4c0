"""16-bit floats: what is stored, what is computed, and what doesn't fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from compress.data import Splits, from_arrays
from compress.data.split import Split
from compress.errors import StageError
from compress.export import export_onnx
from compress.model import load_module, save_module
from compress.model.counts import weight_counts
from compress.model.files.definition import Definition
from compress.model.forward import predict_logits
from compress.model.layers.half import HalfLinear, half_type
from compress.quantize.float16 import Float16
from compress.stage import Context

TYPES: Any = ("float16", "bfloat16")


class Words(nn.Module):
    """[b, s] ids to [b, 3]: a table, a convolution that pads on one side more, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(200, 32)
        self.conv = nn.Conv1d(32, 48, 2, padding="same", groups=2)
        self.head = nn.Linear(48, 3)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.conv(self.table(ids).transpose(1, 2))).mean(2))
        return logits


@pytest.fixture(scope="module")
def words() -> Splits:
    draw = np.random.default_rng(0)
    rows = [{"ids": draw.integers(0, 200, (n, 6)), "labels": np.arange(n) % 3} for n in (40, 20)]
    return from_arrays(*rows)


@pytest.fixture
def word_context(words: Splits) -> Context:
    return Context(task=words.task, train=words.train, validation=words.validation)


def run(path: Path, split: Split) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": np.stack([row["ids"] for row in split.rows])})[0]


def test_a_weight_is_the_nearest_number_of_the_type_and_is_widened_as_it_is() -> None:
    # 1 + 2^-11 lies halfway between 1 and the next float16, and goes to the even one; 2^-24 is the smallest.
    weight = torch.tensor([[1 + 2.0**-11, 1 + 2.0**-10, 2.0**-24, -65504.0]])
    layer = HalfLinear(4, 1).fill_(weight.half(), bias=torch.tensor([1e-9]))
    assert layer.dequantize().tolist() == [[1, 1 + 2.0**-10, 2.0**-24, -65504]]
    assert layer(torch.tensor([[0.0, 0, 1, 0]])).item() == np.float32(2.0**-24 + 1e-9), "biases keep 32 bits"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        nn.Conv1d(4, 6, 4, padding="same", dilation=2, bias=False),
        nn.Linear(5, 3),
        nn.Embedding(7, 3, padding_idx=1),
    ],
    ids=str,
)
def test_a_layer_answers_as_the_float_layer_with_rounded_weights(
    layer: nn.Module, dtype: Any, context: Context
) -> None:
    done = Float16(dtype=dtype).apply(layer, context).model
    x = torch.arange(7) if isinstance(layer, nn.Embedding) else torch.randn(3, 5)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        x = torch.randn(2, 4, *(8, 9)[: len(layer.kernel_size)])
    exact = layer(x)
    layer.weight.data = layer.weight.data.to(half_type(dtype)).float()  # type: ignore[union-attr,operator]
    # The same kernels on the same numbers; padding on one side may take another, which sums in another order.
    torch.testing.assert_close(done(x), layer(x), rtol=0, atol=1e-6)
    assert not torch.equal(done(x), exact)
    rebuilt = type(done)(**done.config())  # type: ignore[operator]
    rebuilt.load_state_dict(done.state_dict())
    assert torch.equal(rebuilt(x), done(x)) and not list(done.parameters())


@pytest.mark.parametrize("dtype", TYPES)
def test_the_file_holds_halves_and_runs_as_the_float_file_of_rounded_weights(
    dtype: Any, words: Splits, word_context: Context, tmp_path: Path
) -> None:
    model = Words().eval()
    made = Float16(dtype=dtype).apply(model, word_context)
    done = made.model
    assert made.facts["layers"] == {"half_conv": 1, "half_embedding": 1, "half_linear": 1}
    rounded = Words().eval()
    for layer in (rounded.table, rounded.conv, rounded.head):
        layer.weight.data = layer.weight.data.to(half_type(dtype)).float()
    files = [
        export_onnx(each, words.validation, words.task, tmp_path / f"{name}.onnx")
        for name, each in (("half", done), ("float", rounded))
    ]
    answers = [run(file, words.validation) for file in files]
    assert np.array_equal(*answers), "the same kernels with the same numbers"
    expected = predict_logits(done, words.validation, words.task).numpy()
    # Sums of 64 and 48 products near 1 in another order than torch's: some 1e-7 each.
    np.testing.assert_allclose(answers[0], expected, rtol=0, atol=1e-5)
    graph = onnx.load(files[0]).graph
    held = {each.name: each for each in graph.initializer}
    stored = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}[dtype]
    for name in ("table", "conv", "head"):
        tensor = held[f"module.{name}.qdata"]
        assert tensor.data_type == stored
        values = numpy_helper.to_array(tensor).astype(np.float32)
        assert np.array_equal(values, done.get_submodule(name).dequantize().numpy())  # type: ignore[operator]
    floats = [each for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert {each.name for each in floats} == {"module.conv.bias", "module.head.bias"}
    assert {each.domain for each in onnx.load(files[0]).opset_import} == {""}
    # What is widened when the file is loaded is no node; the table's rows are, after they are looked up.
    optimized = onnx.load(files[0].with_suffix(".optimized")).graph.node
    kinds = [node.op_type for node in optimized]
    assert kinds.count("Cast") == 1 and kinds.index("Cast") > kinds.index("Gather")


def test_it_is_saved_and_rebuilt_and_every_weight_is_counted(
    definition: Definition, context: Context, tmp_path: Path
) -> None:
    model = definition.build(seed=1)
    before = weight_counts(model)
    for dtype in TYPES:
        made = Float16(dtype=dtype, skip=("classifier",)).apply(model, context)
        done = made.model
        assert weight_counts(done) == before
        (tmp_path / dtype).mkdir()
        save_module(done, tmp_path / dtype)
        again = load_module(tmp_path / dtype)
        answers = [predict_logits(each, context.validation, context.task) for each in (done, again)]
        assert torch.equal(*answers)
    assert made.facts["bytes_after"] < 0.6 * made.facts["bytes_before"]
    assert made.facts["left_float"] == {"classifier": "skipped by the recipe"}


def test_numbers_that_are_too_large_are_refused_and_those_too_small_are_counted(context: Context) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.data = torch.tensor([[1e-9, 0.0], [2.0**-24, -1e-30]])
    made = Float16().apply(model, context)
    assert made.facts["too_small_and_now_zero"] == {"0": 2}
    model[1].weight.data[0, 1] = -70000.0
    with pytest.raises(StageError, match="1: a.*of 70000.*float16"):
        made = Float16().apply(model, context)
    made = Float16(skip=("1",)).apply(model, context)
    made = Float16(dtype="bfloat16").apply(model, context)
    model[1].weight.data[0, 1] = torch.nan
    with pytest.raises(StageError, match="1: weights contain NaN"):
        made = Float16(dtype="bfloat16").apply(model, context)


def test_a_pattern_that_matches_nothing_is_refused_before_work(model: nn.Module) -> None:
    with pytest.raises(StageError, match="did you mean 'classifier'"):
        Float16(skip=("clasifier",)).rehearse(model)
    with pytest.raises(StageError, match="no layer of Sequential is left to quantize"):
        Float16(skip=("*",)).rehearse(nn.Sequential(nn.Linear(2, 2)))
