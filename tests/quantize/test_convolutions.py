"""Convolutions in `quantize/int8_static`: their ranges, their integers, and a small one from end to end."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.data import from_arrays
from compress.errors import StageError
from compress.export import export_onnx
from compress.model import load_module, save_module
from compress.model.files.definition import Definition
from compress.model.forward import predict_logits
from compress.model.layers.convolution import Int8StaticConv
from compress.model.layers.removed import Removed
from compress.quantize.convolutions import ends_of, unfolded
from compress.quantize.equivalent.fold import fold_norms_
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.stage import Context

ROWS = 32
MODEL = '''
import torch
from torch import nn


class Pictures(nn.Module):
    """Digits as 16 patches of 2x2, [b, 16, 4], to one picture of 8x8."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.pool, self.classifier = nn.MaxPool2d(2), nn.Linear(64, 10)

    def forward(self, features):
        x = features.reshape(-1, 4, 4, 2, 2).transpose(2, 3).reshape(-1, 1, 8, 8)
        x = self.pool(torch.relu(self.first(x)))
        return self.classifier(self.pool(torch.relu(self.second(x))).flatten(1))


def pictures():
    return Pictures()
'''
NORMED = """
import torch
from torch import nn


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, features):
        return self.head(torch.relu(self.norm(self.conv(features.transpose(1, 2)))).mean(2))


def normed():
    return Normed()
"""


class Signal(nn.Module):
    """[b, s, 4] to [b, 3]: two convolutions over the sequence, the first of which the model reads twice."""

    def __init__(self, groups: int = 1, mode: str = "zeros") -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 8, 3, padding=1, padding_mode=mode)
        self.second = nn.Conv1d(8, 8, 3, padding="same", groups=groups)
        self.head = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        x = self.first(features.transpose(1, 2))
        logits: Tensor = self.head(F.relu(self.second(torch.tanh(x)), inplace=True).mean(2) + x.mean(2))
        return logits


class Alone(nn.Module):
    """[b, s, 4] to [b, 3] with nothing but a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 3, 1)

    def forward(self, features: Tensor) -> Tensor:
        answer: Tensor = self.conv(features.transpose(1, 2)).mean(2)
        return answer


@pytest.fixture
def signal() -> Signal:
    torch.manual_seed(0)
    return Signal()


def stage(**settings: Any) -> Int8Static:
    return Int8Static(calibration_rows=ROWS, **settings)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        nn.Conv2d(3, 5, (4, 2), padding="same"),
        nn.Conv1d(4, 4, 3, stride=2, groups=4),
    ],
    ids=str,
)
def test_a_convolution_is_a_product_of_its_unfolded_inputs(layer: nn.Conv2d | nn.Conv1d) -> None:
    x = torch.randn(2, layer.in_channels, *(7, 9)[: len(layer.kernel_size)])
    weight, bias = layer.weight.flatten(1), layer.bias
    assert bias is not None
    parts = zip(unfolded(x, layer), weight.chunk(layer.groups), bias.chunk(layer.groups), strict=True)
    made = torch.cat([F.linear(inputs, part, shift) for inputs, part, shift in parts], dim=1)  # [t, o]
    expected = layer(x).flatten(2).transpose(1, 2).flatten(0, 1)
    # Up to 24 products of numbers near 1 in another order: some 1e-7 each.
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


def test_a_range_is_that_behind_a_relu_where_nothing_else_reads_the_output(
    signal: Signal, context: Context
) -> None:
    found = ends_of(signal, ["second", "first"], context.train, context)
    assert list(found) == ["first", "second"], "in the order of the forward pass"
    given = torch.from_numpy(np.stack([row["features"] for row in context.train.rows])).transpose(1, 2)
    with torch.no_grad():
        first = signal.first(given)
        second = signal.second(torch.tanh(first))
    read = found["first"].outputs
    # Rows in batches of 8 may be summed in another order than all at once: some 1e-7 of the largest.
    assert (read.low, read.high) == pytest.approx((float(first.min()), float(first.max())), rel=1e-5)
    assert float(second.min()) < 0 == found["second"].outputs.low
    assert found["second"].outputs.high == pytest.approx(float(second.max()), rel=1e-5)
    assert found["first"].inputs.total == given.numel()


@pytest.mark.parametrize(
    "after", [lambda x: (F.relu(x), x)[0] + x, lambda x: x, lambda x: F.gelu(x), lambda x: F.relu(x + 1)]
)
def test_an_output_that_something_else_reads_keeps_what_is_below_zero(
    after: Callable[[Tensor], Tensor], context: Context
) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv1d(4, 3, 1)

        def forward(self, features: Tensor) -> Tensor:
            return after(self.conv(features.transpose(1, 2)))

    assert ends_of(Model(), ["conv"], context.train, context)["conv"].outputs.low < 0


@pytest.mark.parametrize(
    "settings", [{}, {"algorithm": "gptq"}, {"algorithm": "mse", "range": "mse"}], ids=str
)
def test_answers_stay_near_those_of_the_float_model(
    settings: dict[str, Any], signal: Signal, context: Context
) -> None:
    made = stage(**settings).apply(signal, context)
    done = made.model
    assert made.facts["layers"] == {"int8_static_conv": 2, "int8_static_linear": 1}
    exact, near = (predict_logits(each, context.validation, context.task) for each in (signal, done))
    # Three layers, each off by up to half of 1/255 of its range, which is some six times its spread.
    assert 0 < (exact - near).square().mean().sqrt() < 0.05 * exact.std()


@pytest.mark.parametrize("groups", [1, 4])
def test_gptq_moves_a_convolutions_outputs_less_than_rounding_to_nearest(
    groups: int, context: Context
) -> None:
    torch.manual_seed(0)
    model = Signal(groups)
    given = torch.from_numpy(np.stack([row["features"] for row in context.train.rows])).transpose(1, 2)
    inputs = torch.tanh(model.first(given)).detach()
    errors = []
    for algorithm in ("gptq", "rtn"):
        done: Any = (
            Int8Static(calibration_rows=96, algorithm=algorithm, skip=("first",)).apply(model, context).model
        )
        off = F.conv1d(inputs, done.second.dequantize() - model.second.weight, padding="same", groups=groups)
        errors.append(float(off.detach().square().mean()))
    assert errors[0] < errors[1]


def test_a_corrected_bias_undoes_the_mean_of_what_rounding_a_convolution_changes(
    signal: Signal, context: Context
) -> None:
    given = torch.from_numpy(np.stack([row["features"] for row in context.train.rows])).transpose(1, 2)
    changes = []
    for correct in (True, False):
        done: Any = Int8Static(calibration_rows=96, bias_correction=correct).apply(signal, context).model
        first = done.first
        step = first.input_scale * first.scale
        near = F.conv1d(given, first.dequantize(), first.bias * step, padding=1)
        moved = (near - signal.first(given)).detach().mean((0, 2)).abs()
        changes.append(float((moved / step).max()))
    # A bias is whole steps of the products: half a step is left, and some 1e-7 of a float sum of 480 rows.
    assert changes[0] < 0.51 < changes[1]


def test_a_convolution_that_pads_otherwise_stays_float_and_is_named(context: Context) -> None:
    made = stage().apply(Signal(mode="circular"), context)
    done = made.model
    assert made.facts["left_float"] == {"first": "padding_mode: circular"}
    assert type(done.first) is nn.Conv1d and isinstance(done.second, Int8StaticConv)


def test_stages_that_have_no_integers_for_convolutions_say_so(signal: Signal, context: Context) -> None:
    made = Int8Dynamic().apply(signal, context)
    reason = "this stage leaves convolutions float"
    assert made.facts["left_float"] == {"first": reason, "second": reason}


def test_a_skipped_convolution_stays_float(signal: Signal, context: Context) -> None:
    made = stage(skip=("sec*",)).apply(signal, context)
    done = made.model
    assert made.facts["left_float"] == {"second": "skipped by the recipe"} and type(done.second) is nn.Conv1d
    with pytest.raises(StageError, match="did you mean 'second'"):
        stage(skip=("secnod",)).rehearse(signal)


def test_a_model_of_convolutions_alone_can_be_quantized(context: Context) -> None:
    assert isinstance(stage().apply(Alone(), context).model.conv, Int8StaticConv)
    with pytest.raises(StageError, match=r"no layer of Alone is left to quantize \(conv: this stage leaves"):
        Int8Dynamic().apply(Alone(), context)


def test_a_convolution_that_is_never_called_stays_float(signal: Signal, context: Context) -> None:
    lonely = copy.deepcopy(signal)
    lonely.forgotten = nn.Conv1d(4, 4, 1)
    made = stage().apply(lonely, context)
    assert type(made.model.forgotten) is nn.Conv1d and isinstance(made.model.first, Int8StaticConv)
    assert made.facts["left_float"] == {"forgotten": "the forward pass does not call it"}


def test_a_convolution_that_is_given_no_batch_is_named(signal: Signal, context: Context) -> None:
    class Unbatched(Signal):
        def forward(self, features: Tensor) -> Tensor:
            return torch.stack(
                [super(Unbatched, self).forward(row[None])[0] for row in features]
            ) + self.head(torch.stack([self.first(row.T) for row in features]).mean(2))

    with pytest.raises(StageError, match=r"\[4, 5\]"):
        stage().apply(Unbatched(), context)


def test_what_is_not_a_number_is_named(context: Context) -> None:
    model = Alone()
    model.conv.weight.data[0, 0, 0] = torch.nan
    with pytest.raises(StageError, match="NaN"):
        stage().apply(model, context)


def test_the_rows_that_are_looked_at_are_training_rows_alone(signal: Signal, context: Context) -> None:
    none = replace(context, validation=context.validation.take(0, seed=0))
    stage(algorithm="gptq", bias_correction=True).apply(signal, none)


def test_a_users_model_of_convolutions_runs_from_recipe_to_bundle_and_back(
    tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    import compress

    (tmp_path / "pictures.py").write_text(MODEL, encoding="utf-8")
    train = {"epochs": 6, "batch_size": 32, "learning_rate": 5e-3, "precision": "fp32"}
    model = {"file": "pictures.py", "builder": "pictures", "train": train}
    outcome = compress.run(
        write_recipe(tmp_path / "recipe.yaml", "quantize/int8_static", model=model), tmp_path / "reports"
    )
    report = outcome.report
    assert report.parity.agreement == 1.0, "integers are equal, and floats only near the end"
    assert report.stages[-1].facts["layers"] == {"int8_static_conv": 2, "int8_static_linear": 1}
    again = compress.load(outcome.directory)
    assert isinstance(again.first, Int8StaticConv) and again.second.kernel_size == [3, 3]
    explanation = report.measurement.explanation
    assert explanation is not None
    products = explanation.candidate.part("integer")
    assert products.macs == 64 * 8 * 9 + 16 * 16 * 8 * 9 + 64 * 10, "at batch 1, and all there are"
    assert products.macs_share == 1.0 and products.nodes == 3
    structure = json.loads((outcome.directory / "pytorch" / "structure.json").read_text())
    assert structure["modules"]["first"]["kind"] == "int8_static_conv"


def test_pictures_from_arrays_are_answered_equally_by_module_and_file(tmp_path: Path) -> None:
    """From channels first, [b, 3, 9, 7]; steps that are not those of the next layer; a residual."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.left = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
            self.last = nn.Conv2d(6, 3, (4, 3), bias=False)

        def forward(self, pictures: Tensor) -> Tensor:
            x = F.relu6(self.stem(pictures))
            return self.last(self.left(x) + x).flatten(1)

    draw = np.random.default_rng(0)
    rows = [{"pictures": draw.normal(size=(n, 3, 9, 7)), "labels": np.arange(n) % 3} for n in (40, 20)]
    data = from_arrays(*rows)
    context = Context(task=data.task, train=data.train, validation=data.validation)
    done = stage(range="percentile").apply(Net(), context).model
    file = export_onnx(done, data.validation, data.task, tmp_path / "model.onnx")
    given = np.stack([row["pictures"] for row in data.validation.rows])
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pictures": given})
    assert np.array_equal(found, predict_logits(done, data.validation, data.task).numpy())


class Normed(nn.Module):
    """[b, s, 4] to [b, 3]: one norm that can be folded, and three that can't."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv1d(4, 8, 3, padding=1, bias=False), nn.BatchNorm1d(8)
        self.twice, self.both = nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8)
        self.read, self.other = nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8)
        self.last, self.no_memory = nn.Conv1d(8, 3, 1), nn.BatchNorm1d(3, track_running_stats=False)
        for norm in (self.norm, self.both, self.other):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(-2, 2)
            norm.bias.data.normal_()

    def forward(self, features: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(features.transpose(1, 2))))
        x = self.both(self.twice(torch.tanh(self.both(self.twice(x)))))
        y = self.read(x)
        answer: Tensor = self.no_memory(self.last(self.other(y) + y)).mean(2)
        return answer


def test_a_batch_norm_is_folded_where_it_alone_reads_a_convolution_once(context: Context) -> None:
    model = Normed().eval()
    features = torch.from_numpy(np.stack([row["features"] for row in context.train.rows]))
    folded = copy.deepcopy(model)
    names = ["first", "twice", "read", "last"]
    assert fold_norms_(folded, names, context.train, context) == {"norm": "first"}
    assert isinstance(folded.norm, Removed) and folded.first.bias is not None
    # The same sums in another order: some 1e-7 of numbers near 10.
    torch.testing.assert_close(folded(features), model(features), rtol=0, atol=1e-5)
    assert fold_norms_(copy.deepcopy(model), names[1:], context.train, context) == {}


def test_a_folded_norm_leaves_one_integer_layer_that_is_saved_and_rebuilt(
    context: Context, tmp_path: Path
) -> None:
    (tmp_path / "normed.py").write_text(NORMED, encoding="utf-8")
    definition = Definition.from_file(tmp_path / "normed.py", "normed", {})
    made = stage().apply(definition.build(seed=1), context)
    done = made.model
    assert made.facts["folded"] == {"norm": "conv"} and not made.facts["left_float"]
    assert done.conv.output_zero_point == 0, "what is below 0 behind the norm is the ReLU's to clip"
    (tmp_path / "saved").mkdir()
    save_module(done, tmp_path / "saved")
    again = load_module(tmp_path / "saved")
    answers = [predict_logits(each, context.validation, context.task) for each in (done, again)]
    assert torch.equal(*answers)
