"""Smoothing: the same answers from weights, or activations, that are easier to quantize."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.model.files.definition import Definition
from compress.model.forward import predict_logits
from compress.quantize.calibrate import calibration_rows, loudest_of, shared_inputs
from compress.quantize.equivalent.awq import awq_factors
from compress.quantize.equivalent.smooth import Pair, exact_pairs, scale_
from compress.quantize.equivalent.smoothquant import smoothquant_factors
from compress.quantize.int8_static import Int8Static
from compress.quantize.integers.grid import Grid, dequantize, fit_steps, round_to
from compress.quantize.replace import linears_to_replace
from compress.quantize.weight_only import Int4WeightOnly
from compress.stage import Context

ROWS = 32


def test_smoothquant_shares_loudness_between_channel_and_reader() -> None:
    weight = torch.tensor([[1.0, 2.0], [-4.0, 0.5]])
    # sqrt(16 / 4) and sqrt(2 / 2)
    assert smoothquant_factors(weight, torch.tensor([16.0, 2.0]), 0.5).tolist() == [2.0, 1.0]


def test_strength_says_which_side_is_evened_out() -> None:
    weight, loudest = torch.tensor([[2.0, 4.0]]), torch.tensor([8.0, 1.0])
    even_weights = weight * smoothquant_factors(weight, loudest, 0.0)
    assert even_weights.tolist() == [[1.0, 1.0]]
    even_activations = loudest / smoothquant_factors(weight, loudest, 1.0)
    assert even_activations.tolist() == [1.0, 1.0]


def test_dead_channels_are_left_as_they_are() -> None:
    weight = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    factors = smoothquant_factors(weight, torch.tensor([0.0, 5.0, 1e-30, 1e30]), 0.5)
    assert factors[:2].tolist() == [1.0, 1.0]
    assert factors[2:].tolist() == pytest.approx([1e-5, 1e5]), "and no factor runs away"


def test_awq_gives_a_loud_channel_finer_steps() -> None:
    """One row, 4 bits, steps of 0.7 / 7: 0.14 is rounded to 0.1, unless it is multiplied first."""
    weight = torch.tensor([[0.7, 0.14]])
    moments = torch.diag(torch.tensor([1e-4, 100.0]))
    grid = Grid(4, None)

    def loss(factors: Tensor) -> float:
        steps = fit_steps(weight * factors, grid)
        error = dequantize(round_to(weight * factors, steps, grid), steps, grid) / factors - weight
        return float((error @ moments * error).sum())

    factors = awq_factors([weight], moments, grid)
    assert factors[1] > factors[0]
    assert loss(factors) < loss(torch.ones(2)) / 10


def test_awq_changes_nothing_where_all_channels_are_alike() -> None:
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert awq_factors([weight], torch.eye(4), Grid(4, None)).tolist() == [1.0] * 4


@pytest.mark.parametrize("what", ["weights", "activation maxima", "second moments"])
def test_what_is_not_a_number_is_refused(what: str) -> None:
    one, bad = torch.ones(1, 1), torch.full((1, 1), float("nan"))
    with pytest.raises(StageError, match=f"{what}.* contain NaN"):
        if what == "second moments":
            awq_factors([one], bad, Grid(4, None))
        else:
            smoothquant_factors(*((bad, one[0]) if what == "weights" else (one, bad[0])), 0.5)


def pairs_of(model: nn.Module, context: Context) -> list[Pair]:
    rows = calibration_rows(context, ROWS)
    return exact_pairs(
        model, shared_inputs(model, linears_to_replace(model, True), rows, context), rows, context
    )


def built(definition: Definition, **changes: object) -> nn.Module:
    return replace(definition, args={**definition.args, **changes}).build(seed=0)


def test_a_layer_that_norms_first_has_three_exact_pairs(definition: Definition, context: Context) -> None:
    """Norm and projections, values and output, norm and neurons; GELU stands between the neurons."""
    model = built(definition, norm_first=True, activation="gelu")
    first = [pair for pair in pairs_of(model, context) if pair.producer.startswith("layers.0.")]
    assert [(pair.producer, len(pair.readers)) for pair in first] == [
        ("layers.0.attention_norm", 3),
        ("layers.0.attention.v_proj", 1),
        ("layers.0.feed_forward_norm", 1),
    ]


def test_relu_lets_factors_through(definition: Definition, context: Context) -> None:
    pairs = pairs_of(built(definition, activation="relu"), context)
    assert Pair("layers.1.feed_forward.up", ("layers.1.feed_forward.down",)) in pairs


def test_a_norm_that_the_residual_reads_too_is_no_pair(definition: Definition, context: Context) -> None:
    pairs = pairs_of(built(definition, norm_first=False), context)
    assert pairs and all(pair.producer.endswith("v_proj") for pair in pairs)


def test_looking_for_pairs_and_scaling_them_keeps_the_answers(model: nn.Module, context: Context) -> None:
    before = copy.deepcopy(model.state_dict())
    truth = predict_logits(model, context.validation, context.task)
    pairs = pairs_of(model, context)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for pair in pairs:
        channels = model.get_submodule(pair.readers[0]).in_features
        scale_(model, pair, torch.linspace(0.1, 10, int(channels)))  # type: ignore[call-overload]
    assert not torch.equal(
        model.get_submodule(pairs[0].producer).weight, before[f"{pairs[0].producer}.weight"]
    )
    # Each weight is divided and multiplied once: some 1e-7 of rounding a layer.
    torch.testing.assert_close(
        predict_logits(model, context.validation, context.task), truth, rtol=1e-4, atol=1e-5
    )


def test_the_loudest_value_of_each_feature_is_found_over_all_batches(
    model: nn.Module, context: Context
) -> None:
    rows = calibration_rows(context, ROWS)
    place = shared_inputs(model, linears_to_replace(model, True), rows, context)[0]
    (loudest,) = loudest_of(model, [place], rows, context)
    given = torch.cat([torch.from_numpy(row["features"]) for row in rows.rows])
    assert torch.equal(loudest, given.abs().amax(0))


def with_a_loud_channel(definition: Definition) -> nn.Module:
    """Channel 0 behind a norm is 200 times as loud, and read by weights that much quieter."""
    model = built(definition, norm_first=True)
    readers = tuple(f"layers.0.attention.{name}_proj" for name in "qkv")
    width = model.get_submodule(readers[0]).in_features
    factors = torch.ones(int(width))  # type: ignore[call-overload]
    factors[0] = 1 / 200
    scale_(model, Pair("layers.0.attention_norm", readers), factors)
    return model


def moved(done: nn.Module, model: nn.Module, context: Context) -> float:
    before, after = (predict_logits(each, context.validation, context.task) for each in (model, done))
    return float((before - after).square().mean().sqrt())


@pytest.mark.parametrize("method", ["smoothquant", "awq"])
def test_a_loud_channel_no_longer_drowns_the_others(
    method: str, definition: Definition, context: Context
) -> None:
    model = with_a_loud_channel(definition)
    given = copy.deepcopy(model.state_dict())
    options = {"calibration_rows": ROWS, "embeddings": False}
    plain = Int8Static(**options).apply(model, context)
    smooth = Int8Static(**options, smooth=method).apply(model, context)
    assert moved(smooth.model, model, context) < moved(plain.model, model, context) / 2
    assert smooth.facts["smoothed"]["layers.0.attention_norm"].count("_proj") == 3
    assert all(torch.equal(tensor, given[name]) for name, tensor in model.state_dict().items())


def test_a_model_without_exact_pairs_says_so(context: Context) -> None:
    class Plain(nn.Module):
        def __init__(self, features: int) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(features, 8), nn.Linear(8, 2)

        def forward(self, features: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            hidden = nn.functional.gelu(self.first(features))  # [b, s, 8]
            return self.second(hidden).mean(1)

    features = context.train.rows[0]["features"].shape[-1]
    torch.manual_seed(0)
    made = Int4WeightOnly(smooth="awq", calibration_rows=ROWS).apply(Plain(features), context)
    assert made.facts["smoothed"] == "no exact pair"
