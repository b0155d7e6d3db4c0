"""Quantization-aware training: what is trained is what is left, and only where it is better."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from compress.data import Splits, from_arrays
from compress.errors import StageError
from compress.export import export_onnx
from compress.model.forward import predict_logits
from compress.model.layers.grouped import Int4Linear
from compress.model.layers.quantized import QuantizedModule
from compress.prune.magnitude import MagnitudePruning
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.mixed.stage import Mixed, Schemes
from compress.quantize.qat import QatConfig
from compress.quantize.stage import QuantizeLayers
from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly
from compress.stage import Context
from compress.train import evaluate, fit_
from compress.train_config import TrainConfig

QAT = QatConfig(epochs=2, batch_size=16, learning_rate=2e-3)
COARSE = Int4WeightOnly(group_size=128, algorithm="hqq")


@pytest.fixture
def taught(model: nn.Module, splits: Splits) -> nn.Module:
    """Sure of itself, but not without errors: rounding to 4 bits shows."""
    config = TrainConfig(epochs=2, batch_size=16, learning_rate=5e-3, precision="fp32")
    fit_(model, splits.train, splits.validation, splits.task, config)
    return model


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    layers = {name: each for name, each in model.named_modules() if isinstance(each, QuantizedModule)}
    return {name: layer.dequantize() for name, layer in layers.items()}


@pytest.mark.parametrize(
    "stage",
    [
        COARSE,
        Int4WeightOnly(group_size=16, algorithm="gptq", calibration_rows=32),
        Int8Dynamic(activations="tensor"),
        Int8Static(calibration_rows=32, smooth="smoothquant"),
        Int8WeightOnly(zero_points=True, bias_correction=True, calibration_rows=32),
    ],
    ids=str,
)
def test_the_integers_learn_and_their_answers_are_those_that_were_validated(
    stage: QuantizeLayers, taught: nn.Module, context: Context
) -> None:
    untouched = copy.deepcopy(taught.state_dict())
    rounded = stage.apply(taught, context).model
    # A first model that never was trained teaches nothing good: labels are all that is learnt from.
    qat = QAT.model_copy(update={"labels": 1.0, "logits": 0.0, "hidden": 0.0})
    made = stage.model_copy(update={"qat": qat}).apply(taught, context)
    done = made.model
    facts = made.facts
    assert facts["kept"] == "the trained integers" and len(made.curve) == 2
    before, after = (evaluate(each, context.validation, context.task) for each in (rounded, done))
    assert facts["validation_before_training"] == before["validation_metric"]
    assert facts["validation_after_training"] == after["validation_metric"] >= before["validation_metric"]
    best = made.curve[facts["best_epoch"] - 1]
    assert best["validation_loss"] == after["validation_loss"] < before["validation_loss"]
    first, last = weights(rounded), weights(done)
    assert first.keys() == last.keys() and any((first[name] != last[name]).any() for name in first)
    assert {name: type(done.get_submodule(name)) for name in last} == {
        name: type(rounded.get_submodule(name)) for name in first
    }
    assert not done.training
    assert all(torch.equal(value, untouched[name]) for name, value in taught.state_dict().items())


def test_steps_and_zero_points_stay_those_that_were_chosen(taught: nn.Module, context: Context) -> None:
    stage = Int4WeightOnly(group_size=16, zero_points=True, algorithm="mse", calibration_rows=32)
    rounded = stage.apply(taught, context).model
    done = stage.model_copy(update={"qat": QAT}).apply(taught, context).model
    layers = [name for name, each in rounded.named_modules() if isinstance(each, Int4Linear)]
    assert layers
    for name in layers:
        one, other = rounded.get_submodule(name), done.get_submodule(name)
        assert torch.equal(one.scale, other.scale) and torch.equal(one.zero_point, other.zero_point)


def test_the_float_model_is_learnt_from_also_where_there_are_no_labels_in_it(
    taught: nn.Module, context: Context
) -> None:
    """The answers come nearer to those of the first model than rounding left them."""
    qat = QAT.model_copy(update={"labels": 0.0, "learning_rate": 5e-4})
    context = replace(context, teacher=copy.deepcopy(taught))
    rounded = COARSE.apply(taught, context).model
    made = COARSE.model_copy(update={"qat": qat}).apply(taught, context)
    done = made.model
    assert made.facts["kept"] == "the trained integers"
    wanted, first, last = (
        predict_logits(each, context.train, context.task).log_softmax(1) for each in (taught, rounded, done)
    )
    assert (last - wanted).square().mean() < 0.8 * (first - wanted).square().mean()


def test_what_training_wins_nothing_for_stays_as_it_was_rounded(taught: nn.Module, context: Context) -> None:
    stage = Int8Dynamic()
    rounded = weights(stage.apply(taught, context).model)
    ruins = QatConfig(epochs=1, batch_size=16, learning_rate=0.9, clip_norm=1e6)
    made = stage.model_copy(update={"qat": ruins}).apply(taught, context)
    done = weights(made.model)
    assert made.facts["kept"] == "the first integers, because training did not improve them"
    assert made.facts["validation_after_training"] <= made.facts["validation_before_training"]
    assert all(torch.equal(rounded[name], done[name]) for name in rounded)


@pytest.mark.parametrize("stage", [Int8Dynamic(), Int8Static(calibration_rows=32)], ids=str)
def test_the_trained_integers_are_in_the_file_and_it_answers_as_was_validated(
    stage: QuantizeLayers, taught: nn.Module, context: Context, splits: Splits, tmp_path: Path
) -> None:
    made = stage.model_copy(update={"qat": QAT}).apply(taught, context)
    done = made.model
    assert made.facts["kept"] == "the trained integers"
    file = export_onnx(done, splits.validation, splits.task, tmp_path / "model.onnx")
    tensors = [onnx.numpy_helper.to_array(each) for each in onnx.load(file).graph.initializer]
    integers = [each for each in tensors if each.dtype == np.int8]
    for name, layer in done.named_modules():
        if isinstance(layer, QuantizedModule):
            wanted = layer.qdata.numpy()
            assert any(np.array_equal(each, wanted) or np.array_equal(each, wanted.T) for each in integers), (
                name
            )
    session = onnxruntime.InferenceSession(str(file))
    rows = next(splits.validation.batches(48))
    inputs = {each.name: rows[each.name] for each in session.get_inputs()}
    answers = session.run(None, inputs)[0]
    accuracy = float((answers.argmax(1) == rows["labels"]).mean())
    # 48 answers: one of them may be so near to a tie that the order of sums around the integers decides.
    assert accuracy == pytest.approx(made.facts["validation_after_training"], abs=1.01 / 48)


def test_pruned_weights_stay_pruned(taught: nn.Module, context: Context) -> None:
    sparse = MagnitudePruning(sparsity=0.5, recovery=None).apply(taught, context).model
    made = Int8Dynamic(qat=QAT).apply(sparse, context)
    done = made.model
    assert made.facts["kept"] == "the trained integers"
    zeros = {name: sparse.get_submodule(name).weight == 0 for name in weights(done)}
    assert sum(int(each.sum()) for each in zeros.values()) > 1000
    assert all((each[zeros[name]] == 0).all() for name, each in weights(done).items())


def test_convolutions_are_refused_before_work_begins_unless_they_are_skipped() -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.Flatten(), nn.Linear(24, 3))
    with pytest.raises(StageError, match="qat .*skip: 0$"):
        Int8Static(qat=QAT).rehearse(model)
    Int8Static(qat=QAT, skip=("0",)).rehearse(model)
    Int8Static().rehearse(model)


def test_a_convolution_that_is_left_float_learns_too(context: Context) -> None:
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    labels = np.arange(96) % 3
    rows = {"x": (draw.normal(0, 1, (96, 4, 5)) + labels[:, None, None]).astype("float32"), "labels": labels}
    data = from_arrays({k: v[:64] for k, v in rows.items()}, {k: v[64:] for k, v in rows.items()})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(4, 8, 3), nn.Linear(24, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.conv(x).flatten(1))
            return y

    model = Net()
    context = Context(task=data.task, train=data.train, validation=data.validation)
    made = Int8Dynamic(qat=QAT.model_copy(update={"labels": 1.0, "logits": 0.0})).apply(model, context)
    done = made.model
    assert made.facts["kept"] == "the trained integers"
    assert isinstance(done.conv, nn.Conv1d) and not torch.equal(done.conv.weight, model.conv.weight)


def test_it_is_no_part_of_a_mixture_and_of_no_stand_in() -> None:
    with pytest.raises(ValueError, match="int8_dynamic: qat"):
        Mixed(schemes=Schemes(int8_dynamic=Int8Dynamic(qat=QAT)))
    assert Int8Dynamic(qat=QAT).stand_in() == Int8Dynamic(calibration_rows=16)


def test_the_weights_of_losses_must_sum_to_something() -> None:
    with pytest.raises(ValueError, match="no loss is active"):
        QatConfig(labels=0, logits=0, hidden=0)
