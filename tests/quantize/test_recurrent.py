"""Recurrent layers in the quantize stages: an LSTM becomes integers where ONNX Runtime has the kernel."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import compress
from compress.errors import StageError
from compress.export.trace import trace
from compress.model import load_module, save_module
from compress.model.files.definition import Definition
from compress.model.forward import predict_logits
from compress.model.layers.recurrent import Int8LSTM
from compress.model.saturation import saturation_risk
from compress.quantize.float16 import Float16
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.mixed.sensitivity import Parts
from compress.quantize.mixed.stage import Mixed
from compress.quantize.qat import QatConfig
from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly
from compress.stage import Context, Stage

RNN = Path(__file__).resolve().parents[2] / "models" / "rnn.py"
ARGS = {"input_dim": 4, "output_dim": 3, "hidden": 24, "num_layers": 2}


def _build(cell: str = "lstm", **args: Any) -> nn.Module:
    return Definition.from_file(RNN, "patch_classifier", {**ARGS, "cell": cell, **args}).build(seed=0)


@pytest.fixture
def lstm() -> nn.Module:
    return _build()


class Named(nn.Module):
    """Recurrent layers under given names, and a linear one."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features[:, -1])


class Counting(nn.LSTM):
    """One with a forward of its own."""

    def forward(self, *given: Any) -> Any:
        return super().forward(*given)


@pytest.mark.parametrize(
    ("stage", "linear"),
    [(Int8Dynamic(), "int8_linear"), (Int8Static(calibration_rows=32), "int8_static_linear")],
)
def test_lstms_become_integers_and_the_answers_stay(
    stage: Stage, linear: str, lstm: nn.Module, context: Context
) -> None:
    before = copy.deepcopy(lstm.state_dict())
    made = stage.apply(lstm, context)
    done = made.model
    assert all(isinstance(layer, Int8LSTM) for layer in done.layers)
    assert made.facts["layers"] == {"int8_lstm": 2, linear: 1}
    assert made.facts["left_float"] == {}
    # A byte for each weight of four, and scales and biases in float beside 4 to 24 of them.
    assert made.facts["bytes_after"] < 0.35 * made.facts["bytes_before"]
    exact, near = (predict_logits(each, context.validation, context.task) for each in (lstm, done))
    # 8 bits of an untrained model's small outputs.
    assert float((exact - near).abs().max()) < 0.1 * float(exact.abs().max())
    assert all(torch.equal(before[name], value) for name, value in lstm.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.GRU(4, 6), "ONNX Runtime has no int8 kernel for GRU, only for LSTM"),
        (nn.RNN(4, 6), "ONNX Runtime has no int8 kernel for RNN, only for LSTM"),
        (nn.LSTM(4, 6, proj_size=2), "ONNX Runtime's int8 LSTM does not support a projection (proj_size: 2)"),
        (Counting(4, 6), "Counting overrides forward"),
    ],
)
def test_what_has_no_kernel_stays_float_with_a_plain_word(
    layer: nn.Module, word: str, context: Context
) -> None:
    made = Int8Dynamic().apply(Named(cell=layer), context)
    done = made.model
    assert type(done.cell) is type(layer)
    assert made.facts["left_float"] == {"cell": word}


@pytest.mark.parametrize("stage", [Int4WeightOnly(), Int8WeightOnly(), Float16()])
def test_other_stages_say_that_they_leave_them(stage: Stage, lstm: nn.Module, context: Context) -> None:
    made = stage.apply(lstm, context)
    word = "this stage leaves recurrent layers float"
    assert made.facts["left_float"] == {"layers.0": word, "layers.1": word}


def test_skip_names_recurrent_layers_too(lstm: nn.Module, context: Context) -> None:
    made = Int8Dynamic(skip=("layers.1",)).apply(lstm, context)
    done = made.model
    assert isinstance(done.layers[0], Int8LSTM) and type(done.layers[1]) is nn.LSTM
    assert made.facts["left_float"] == {"layers.1": "skipped by the recipe"}


def test_a_model_of_grus_alone_has_nothing_to_quantize(context: Context) -> None:
    with pytest.raises(StageError, match=r"no layer of GRU is left to quantize \(: ONNX Runtime has no int8"):
        Int8Dynamic().rehearse(nn.GRU(4, 6))
    Int8Dynamic().rehearse(nn.LSTM(4, 6))


class Called(Named):
    """All its layers are called."""

    def forward(self, features: Tensor) -> Tensor:
        for name, layer in self.named_children():
            if name != "head":
                layer(features)
        return super().forward(features)


def test_a_layer_that_stands_twice_is_one_layer_of_integers(context: Context) -> None:
    layer = nn.LSTM(4, 6)
    made = Int8Dynamic().apply(Called(first=layer, second=layer), context)
    done = made.model
    assert done.first is done.second and made.facts["layers"]["int8_lstm"] == 1


def test_reduced_range_keeps_weights_within_seven_bits_and_no_pair_at_risk(
    lstm: nn.Module, context: Context
) -> None:
    whole = saturation_risk(Int8Dynamic().apply(lstm, context).model, context.validation, context.task)
    done = Int8Dynamic(reduce_range=True).apply(lstm, context).model
    found = saturation_risk(done, context.validation, context.task)
    assert whole is not None and found is not None
    assert (whole.lstms, whole.lstms_at_risk) == (2, 2)
    assert (found.lstms, found.lstms_at_risk, found.pairs_at_risk) == (2, 0, 0)
    assert all(int(w.min()) >= -64 and int(w.max()) <= 63 for x in done.layers for _, w, _ in x.weights())


def test_a_model_of_lstms_alone_is_counted(context: Context) -> None:
    found = saturation_risk(
        Int8Dynamic().apply(nn.LSTM(4, 6), context).model, context.validation, context.task
    )
    assert found is not None and (found.layers, found.lstms, found.rows) == (0, 1, 0)


def test_clipping_changes_integers_and_gptq_clips_them(lstm: nn.Module, context: Context) -> None:
    lstm.layers[0].weight_ih_l0.data[0, 0] = 9  # one weight far from the others of its row
    rounded, clipped, gptq = (
        Int8Dynamic(algorithm=name, calibration_rows=32).apply(lstm, context).model.layers[0]
        for name in ("rtn", "mse", "gptq")
    )
    assert not torch.equal(rounded.scale_ih_l0, clipped.scale_ih_l0)
    assert torch.equal(gptq.scale_ih_l0, clipped.scale_ih_l0)
    assert torch.equal(gptq.qdata_hh_l0, clipped.qdata_hh_l0)


def test_weights_that_are_no_numbers_are_refused_by_name(lstm: nn.Module, context: Context) -> None:
    lstm.layers[1].weight_hh_l0.data[0, 0] = float("nan")
    with pytest.raises(StageError, match=r"^layers\.1.*NaN"):
        Int8Dynamic().apply(lstm, context)


@pytest.mark.parametrize("stage", [Int8Dynamic, Int8Static])
def test_training_with_integers_is_refused_unless_lstms_are_skipped(
    stage: type[Int8Dynamic] | type[Int8Static], lstm: nn.Module
) -> None:
    qat = QatConfig(epochs=1)
    with pytest.raises(StageError, match=r"LSTMs.*layers\.0.*layers\.1$"):
        stage(qat=qat).rehearse(lstm)
    stage(qat=qat, skip=("layers.*",)).rehearse(lstm)
    stage(qat=qat).rehearse(_build("gru"))


def test_a_quantized_model_is_saved_and_loaded(lstm: nn.Module, context: Context, tmp_path: Path) -> None:
    done = Int8Dynamic().apply(lstm, context).model
    save_module(done, tmp_path)
    again = load_module(tmp_path)
    assert all(isinstance(layer, Int8LSTM) for layer in again.layers)
    logits = [predict_logits(each, context.validation, context.task) for each in (done, again)]
    assert torch.equal(*logits)


def test_mixed_precision_takes_lstms_as_one_group(lstm: nn.Module, context: Context) -> None:
    stages = {"int8_dynamic": Int8Dynamic(), "int4_weight_only": Int4WeightOnly()}
    groups = Parts.of(lstm, stages, context).groups
    sizes = {group.layers: group.products for group in groups}
    assert sizes["layers.0", "layers.1"] == 4 * 24 * (4 + 24) + 4 * 24 * (24 + 24)
    done = Mixed(max_accuracy_drop=0.5, sensitivity_rows=32).apply(lstm, context).model
    assert isinstance(done.layers[0], Int8LSTM)


def test_a_classifier_of_padded_tokens_answers_in_its_file_as_it_does_here(
    context: Context, tmp_path: Path
) -> None:
    args = {"input_dim": 50, "output_dim": 3, "d_model": 12, "hidden": 16, "num_layers": 2, "cell": "lstm"}
    model = Definition.from_file(RNN, "token_classifier", args).build(seed=0)
    context = replace(context, train=context.train.take(0, seed=0), validation=context.train.take(0, seed=0))
    made = Int8Dynamic().apply(model, context)
    done = made.model
    assert made.facts["layers"] == {"int8_embedding": 1, "int8_linear": 1, "int8_lstm": 2}
    dynamic = torch.export.Dim.DYNAMIC
    ids = torch.randint(1, 50, (4, 9))
    mask = torch.arange(9) < torch.tensor([[9], [3], [1], [6]])
    given = (ids * mask, mask.to(torch.int64))
    program = trace(
        done,
        given,
        inputs=("ids", "mask"),
        outputs=("y",),
        dynamic_shapes=({0: dynamic, 1: dynamic},) * 2,
        opset=21,
    )
    program.save(str(tmp_path / "model.onnx"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options)
    (found,) = session.run(None, {"ids": given[0].numpy(), "mask": given[1].numpy()})
    with torch.no_grad():
        # See tests/export/test_recurrent.py: one number of a state may be rounded the other way.
        np.testing.assert_allclose(found, done(*given).numpy(), rtol=0, atol=1e-2)
        near, exact = done(*given), model(*given)
    assert float((near - exact).abs().max()) < 0.1 * float(exact.abs().max())


def test_a_recipe_ends_in_a_bundle_whose_lstm_is_a_kernel_of_integers(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    model = {
        "file": str(RNN),
        "builder": "patch_classifier",
        "args": {**ARGS, "output_dim": 10},
        "train": {"epochs": 1},
    }
    export = {"min_agreement": 0.9, "max_metric_difference": 0.1, "opset": 23}
    recipe = write_recipe(
        tmp_path / "r.yaml",
        {"prune/channels": {"sparsity": 0.25, "recovery": {"epochs": 1}}},
        "quantize/int8_dynamic",
        model=model,
        export=export,
    )
    result = compress.run(recipe, tmp_path / "reports")
    report = result.report
    assert report.stages[-1].facts["layers"] == {"int8_linear": 1, "int8_lstm": 2}
    assert report.saturation is not None and report.saturation.lstms == 2
    folder = tmp_path / "reports" / report.name
    kinds = [node.op_type for node in onnx.load(folder / "onnx" / "model.onnx").graph.node]
    assert kinds.count("DynamicQuantizeLSTM") == 2 and "LSTM" not in kinds
    assert isinstance(compress.load(folder).get_submodule("layers.1"), Int8LSTM)
    explained = report.model_dump_json()
    assert "DynamicQuantizeLSTM" in explained
