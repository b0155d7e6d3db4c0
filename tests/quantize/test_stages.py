"""The quantize stages on a small model: data where it is needed, integers one layer after another."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.data import Split, Splits
from compress.errors import StageError
from compress.export import export_onnx
from compress.model import load_module, save_module
from compress.model.files.definition import Definition
from compress.model.forward import predict_logits
from compress.model.layers.grouped import Int4Linear, Int8GroupLinear
from compress.model.layers.int8 import Int8FittedLinear, Int8StaticLinear, Int8TensorLinear
from compress.quantize.calibrate import SharedInput, calibration_rows, gram_at, shared_inputs
from compress.quantize.equivalent.inputs import losses_of_zero_points
from compress.quantize.float16 import Float16
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.mixed.stage import Mixed
from compress.quantize.replace import linears_to_replace
from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly
from compress.stage import Context, Stage

ROWS = 32


@pytest.fixture
def no_rows(context: Context) -> Context:
    return replace(context, train=context.train.take(0, seed=0))


def moved(stage: Stage, model: nn.Module, context: Context) -> float:
    """Root mean square of how far the logits move on validation rows."""
    done = stage.apply(model, context).model
    before, after = (predict_logits(each, context.validation, context.task) for each in (model, done))
    return float((before - after).square().mean().sqrt())


def first_layer(model: nn.Module, context: Context) -> str:
    """The one that is given the rows themselves."""
    rows = calibration_rows(context, ROWS)
    return shared_inputs(model, linears_to_replace(model, True), rows, context)[0].name


def lost(stage: Stage, model: nn.Module, context: Context, layer: str, *, outputs: bool) -> float:
    """Mean square of how far the weights of a layer move, or its outputs on what the float model gives it."""
    done = stage.apply(model, context).model
    off = done.get_submodule(layer).dequantize() - model.get_submodule(layer).weight  # type: ignore[operator]
    if not outputs:
        return float(off.square().mean().detach())
    gram = gram_at(model, SharedInput((layer,)), calibration_rows(context, 128), context)
    moments = gram.matrix[:-1, :-1] / gram.tokens
    return float((off @ moments * off).sum(1).mean().detach())


def test_queries_keys_and_values_are_found_to_share_what_they_are_given(
    model: nn.Module, context: Context
) -> None:
    names = linears_to_replace(model, True)
    places = shared_inputs(model, names, calibration_rows(context, ROWS), context)
    assert sorted(name for place in places for name in place.layers) == sorted(names)
    shared = [place.layers for place in places if len(place.layers) > 1]
    assert len(shared) == 2 and all(len(layers) == 3 for layers in shared)
    assert [name.rpartition(".")[2] for name in shared[0]] == ["q_proj", "k_proj", "v_proj"]


class _Reads(nn.Module):
    """Reads the weight of a layer that it also calls, and of a table that it never calls, as DeBERTa does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.called, self.table = nn.Linear(3, 3), nn.Embedding(3, 3)
        self.encoder = nn.TransformerEncoderLayer(3, 1, 16, batch_first=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits = self.model(features)
        logits = self.encoder(logits[:, None])[:, 0]
        return self.called(logits) + logits @ self.called.weight.T @ self.table.weight


@pytest.mark.parametrize(
    "stage", [Float16(), Int8Dynamic(), Int8Static(calibration_rows=ROWS), Int4WeightOnly()]
)
def test_layers_whose_weight_the_model_reads_itself_are_left_float(
    stage: Stage, model: nn.Module, context: Context
) -> None:
    reads = _Reads(model).eval()
    made = stage.apply(reads, context)
    done: Any = made.model
    assert type(done.called) is nn.Linear and type(done.table) is nn.Embedding
    assert {"called", "table"} <= made.facts["left_float"].keys()
    assert type(done.encoder.linear1) is not nn.Linear  # read only by a fast path that is left
    found = predict_logits(done, context.validation, context.task)
    assert torch.isfinite(found).all() and type(reads.called) is nn.Linear


@pytest.mark.parametrize(
    "stage",
    [
        Int8Dynamic(),
        Int8Static(calibration_rows=ROWS),
        Int4WeightOnly(algorithm="gptq", calibration_rows=ROWS),
        Mixed(max_accuracy_drop=0.9),
    ],
)
def test_a_layer_that_no_forward_pass_calls_stays_float_and_is_reported(
    stage: Stage, model: nn.Module, context: Context
) -> None:
    model.forgotten = nn.Linear(40, 40)  # as large as others: not left because it is small
    made = stage.apply(model, context)
    assert type(made.model.forgotten) is nn.Linear
    assert made.facts["left_float"]["forgotten"] == "the forward pass does not call it"
    assert type(made.model.get_submodule("layers.0.attention.q_proj")) is not nn.Linear


def test_what_is_calibrated_is_the_mean_over_tokens_of_real_rows(model: nn.Module, context: Context) -> None:
    rows = calibration_rows(context, ROWS)
    place = shared_inputs(model, linears_to_replace(model, True), rows, context)[0]
    gram = gram_at(model, place, rows, context)
    assert gram.tokens == sum(len(row["features"]) for row in rows.rows)
    given = np.concatenate([row["features"] for row in rows.rows])  # the first layer is given the rows
    np.testing.assert_allclose(gram.matrix[:-1, :-1].numpy(), given.T @ given, rtol=1e-4)


def test_static_ranges_are_those_of_the_calibration_rows_and_shared(
    model: nn.Module, context: Context
) -> None:
    made = Int8Static(calibration_rows=ROWS).apply(model, context)
    done = made.model
    first = [done.get_submodule(f"layers.0.attention.{name}_proj") for name in "qkv"]
    assert all(isinstance(layer, Int8StaticLinear) for layer in first)
    assert len({float(layer.input_scale) for layer in first}) == 1
    given = np.concatenate([row["features"] for row in calibration_rows(context, ROWS).rows])
    low, high = min(given.min(), 0), max(given.max(), 0)
    layer = done.get_submodule(first_layer(model, context))
    assert float(layer.input_scale) == pytest.approx((high - low) / 255, rel=1e-5)
    assert made.facts["range"] == "minmax" and made.facts["calibration_rows"] == ROWS


def test_static_int8_keeps_the_answers_and_clipping_less_than_a_tenth_moves_them_more(
    model: nn.Module, context: Context
) -> None:
    spread = float(predict_logits(model, context.validation, context.task).std())
    assert moved(Int8Static(calibration_rows=ROWS), model, context) < 0.05 * spread
    clipped = moved(Int8Static(calibration_rows=ROWS, range="percentile", percentile=90), model, context)
    assert clipped > 2 * moved(Int8Static(calibration_rows=ROWS, range="mse"), model, context)


def test_a_static_file_shares_one_quantization_among_queries_keys_and_values(
    model: nn.Module, context: Context, splits: Splits, tmp_path: Path
) -> None:
    done = Int8Static(calibration_rows=ROWS).apply(model, context).model
    file = export_onnx(done, splits.validation, splits.task, tmp_path / "model.onnx")
    types = [node.op_type for node in onnx.load(file).graph.node]
    linears = len(linears_to_replace(model, True))
    assert types.count("Gemm") == linears
    assert types.count("QuantizeLinear") == linears - 4, "two layers whose three projections share one"


def test_a_model_that_is_quantized_already_is_refused_even_where_some_layers_are_float(
    model: nn.Module, context: Context
) -> None:
    done = Int8Dynamic(skip=("classifier",)).apply(model, context).model
    for stage in (Int8Dynamic(), Int4WeightOnly(), Int8Static(calibration_rows=ROWS)):
        with pytest.raises(StageError, match=r"already quantized"):
            stage.rehearse(done)


def test_per_tensor_activations_are_a_choice(model: nn.Module, context: Context) -> None:
    made = Int8Dynamic(activations="tensor").apply(model, context)
    done = made.model
    assert made.facts["layers"]["int8_tensor_linear"] == len(linears_to_replace(model, True))
    assert isinstance(done.get_submodule("layers.0.attention.q_proj"), Int8TensorLinear)


def test_fitted_inputs_keep_small_features_beside_a_large_one(model: nn.Module, context: Context) -> None:
    first: Any = model.get_submodule(first_layer(model, context))
    loudness = np.ones(first.in_features, dtype=np.float32)
    loudness[3] = 300
    with torch.no_grad():
        first.weight /= torch.from_numpy(loudness)  # so that the model answers as before

    def louder(split: Split) -> Split:
        return replace(split, rows=tuple({"features": row["features"] * loudness} for row in split.rows))

    loud = replace(context, train=louder(context.train), validation=louder(context.validation))
    fitted = Int8Dynamic(fit_inputs=True, calibration_rows=ROWS)
    assert moved(fitted, model, loud) < moved(Int8Dynamic(), model, loud) / 2
    made = fitted.apply(model, loud)
    assert made.facts["layers"]["int8_fitted_linear"] == len(linears_to_replace(model, True))
    assert made.facts["calibration_rows"] == ROWS


def test_only_inputs_narrower_than_their_outputs_are_multiplied(model: nn.Module, context: Context) -> None:
    made = Int8Dynamic(fit_inputs=True, calibration_rows=ROWS).apply(model, context)
    fits: dict[str, Any] = {
        name: layer for name, layer in made.model.named_modules() if isinstance(layer, Int8FittedLinear)
    }
    places = shared_inputs(model, list(fits), calibration_rows(context, ROWS), context)
    assert (made.facts["fitted_inputs"], made.facts["scaled_inputs"]) == (len(places), 5)
    for place in places:
        layers = [fits[name] for name in place.layers]
        wider = sum(layer.out_features for layer in layers) > layers[0].in_features
        assert {layer.factors is not None for layer in layers} == {wider}
        assert len({layer.zero_point for layer in layers}) == 1


def test_zero_points_leave_room_where_values_are() -> None:
    tokens = torch.tensor([[0.0, 0.5, 4.0], [0.0, 1.0, 2.0]])
    losses = losses_of_zero_points(tokens)
    assert losses.argmin() == 0 and losses[0].item() == pytest.approx((4**2 + 2**2) / 255.5**2)
    assert losses_of_zero_points(-tokens).argmin() == 255
    assert losses_of_zero_points(torch.cat((tokens, -tokens))).argmin() in (127, 128)
    assert losses_of_zero_points(torch.tensor([[-1.0, 7.0]])).argmin() == pytest.approx(255.5 / 8, abs=1)


@pytest.mark.parametrize("settings", [{"activations": "tensor"}, {"qat": {"epochs": 1}}])
def test_fitted_inputs_need_steps_by_token_and_no_training(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="fit_inputs"):
        Int8Dynamic.model_validate({"fit_inputs": True, **settings})


@pytest.mark.parametrize(
    ("stage", "cls"),
    [
        (Int4WeightOnly(group_size=16, zero_points=True), Int4Linear),
        (Int4WeightOnly(group_size=128), Int4Linear),
        (Int8WeightOnly(group_size=64, zero_points=True), Int8GroupLinear),
        (Int8WeightOnly(), Int8GroupLinear),
        (Int8Static(calibration_rows=ROWS), Int8StaticLinear),
        (Int8Dynamic(fit_inputs=True, calibration_rows=ROWS), Int8FittedLinear),
    ],
    ids=str,
)
def test_every_form_is_saved_and_rebuilt(
    stage: Any, cls: type[nn.Module], definition: Definition, context: Context, tmp_path: Path
) -> None:
    done = stage.apply(definition.build(seed=1), context).model
    layer = done.get_submodule("layers.1.feed_forward.up")
    assert isinstance(layer, cls)
    save_module(done, tmp_path)
    again = load_module(tmp_path)
    answers = [predict_logits(each, context.validation, context.task) for each in (done, again)]
    assert torch.equal(*answers)


def test_smaller_groups_zero_points_and_more_bits_each_lose_less(model: nn.Module, context: Context) -> None:
    stages = [
        Int4WeightOnly(group_size=64),
        Int4WeightOnly(group_size=16),
        Int4WeightOnly(group_size=16, zero_points=True),
        Int8WeightOnly(),
    ]
    losses = [lost(stage, model, context, "layers.1.feed_forward.down", outputs=False) for stage in stages]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] / 100


def test_gptq_moves_the_outputs_less_than_rounding_to_nearest(model: nn.Module, context: Context) -> None:
    gptq = Int4WeightOnly(algorithm="gptq", calibration_rows=128)
    losses = [
        lost(stage, model, context, "layers.1.feed_forward.down", outputs=True)
        for stage in (gptq, Int4WeightOnly())
    ]
    assert losses[0] < 0.7 * losses[1]


def test_layers_are_judged_on_what_the_integers_before_them_give(model: nn.Module, context: Context) -> None:
    """The last layer's integers change when those before it do."""
    options: dict[str, Any] = {"algorithm": "gptq", "calibration_rows": ROWS, "group_size": 16}
    last = linears_to_replace(model, True)[-1]
    after_integers = Int4WeightOnly(**options).apply(model, context).model
    alone = (
        Int4WeightOnly(**options, skip=tuple(linears_to_replace(model, True)[:-1]))
        .apply(model, context)
        .model
    )
    assert not torch.equal(after_integers.get_submodule(last).qdata, alone.get_submodule(last).qdata)


def test_a_corrected_bias_undoes_the_mean_of_what_rounding_changes(
    model: nn.Module, context: Context
) -> None:
    options: dict[str, Any] = {"calibration_rows": ROWS, "group_size": 128}
    plain = Int4WeightOnly(**options).apply(model, context).model
    mended = Int4WeightOnly(**options, bias_correction=True).apply(model, context).model
    first = first_layer(model, context)
    given = torch.from_numpy(np.concatenate([r["features"] for r in calibration_rows(context, ROWS).rows]))

    def mean_change(done: nn.Module) -> float:
        change = done.get_submodule(first)(given) - model.get_submodule(first)(given)
        return float(change.mean(0).abs().max().detach())

    assert mean_change(mended) < 1e-5 < mean_change(plain)


@pytest.mark.parametrize("algorithm", ["rtn", "hqq"])
def test_some_algorithms_look_at_no_data(algorithm: Any, model: nn.Module, no_rows: Context) -> None:
    made = Int4WeightOnly(algorithm=algorithm).apply(model, no_rows)
    assert "calibration_rows" not in made.facts


@pytest.mark.parametrize(
    "stage", [Int8Static(), Int4WeightOnly(algorithm="gptq"), Int8Dynamic(bias_correction=True)], ids=str
)
def test_too_few_rows_to_calibrate_on_are_refused(stage: Stage, model: nn.Module, no_rows: Context) -> None:
    with pytest.raises(StageError, match="0 training rows .*at least 16"):
        stage.apply(model, no_rows)


def test_what_is_not_a_number_is_named(model: nn.Module, context: Context) -> None:
    broken = copy.deepcopy(model)
    broken.get_submodule("layers.0.feed_forward.up").bias.data[0] = math.inf
    with pytest.raises(StageError, match=r"layers\.0\.feed_forward\.down"):
        Int8Static(calibration_rows=ROWS).apply(broken, context)
    model.get_submodule("layers.0.feed_forward.up").weight.data[0, 0] = math.nan
    with pytest.raises(StageError, match=r"layers\.0\.feed_forward\.up: weights contain NaN"):
        Int8Dynamic().apply(model, context)


@pytest.mark.parametrize(
    "stage",
    [Int8Static(algorithm="gptq"), Int4WeightOnly(algorithm="gptq", group_size=64, zero_points=True)],
    ids=str,
)
def test_a_stand_in_leaves_the_same_layers_with_less_work(
    stage: Any, model: nn.Module, context: Context
) -> None:
    few = replace(context, train=context.train.take(16, seed=0))
    real, cheap = stage.model_copy(update={"calibration_rows": ROWS}), stage.stand_in()
    forms = [
        {name: (tensor.shape, tensor.dtype) for name, tensor in made.state_dict().items()}
        for made in (real.apply(model, context).model, cheap.apply(model, few).model)
    ]
    assert forms[0] == forms[1] and cheap.algorithm == "rtn"
