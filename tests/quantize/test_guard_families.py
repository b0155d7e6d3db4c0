"""Guarded int8 of models that collapse without: loud features of DeBERTa's norms, outliers in ModernBERT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.data import from_arrays
from compress.model import ModelConfig, load_model
from compress.model.forward import predict_logits
from compress.quantize.guard import Guard
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.stage import Context
from tests.hf_families import FAMILIES, write_family


def _prepared(family: str, folder: Path, plant_: Callable[[nn.Module], None]) -> tuple[nn.Module, Context]:
    """A planted model, and rows whose labels are its own answers."""
    config = ModelConfig.model_validate({"hf": str(write_family(folder / "model", FAMILIES[family]))})
    model = load_model(config, seed=0, scratch=folder).module.eval()
    with torch.no_grad():
        plant_(model)
    draw = np.random.default_rng(0)
    parts = []
    for count in (24, 240):
        ids = [draw.integers(5, 18, int(draw.integers(6, 20))) for _ in range(count)]
        masks = [np.ones_like(each) for each in ids]
        parts.append({"input_ids": ids, "attention_mask": masks, "labels": [0, 1, 2] * (count // 3)})
    splits = from_arrays(*parts)
    rows = splits.validation
    with torch.no_grad():
        model.classifier.bias -= predict_logits(model, rows, splits.task).mean(0)  # type: ignore[operator, union-attr]
    answers = predict_logits(model, rows, splits.task)
    best = answers.topk(2, dim=-1).values
    clear = (best[:, 0] - best[:, 1]).argsort(descending=True)[:120].sort().values  # near ties say nothing
    rows = replace(rows, labels=answers.argmax(-1).numpy()).at(clear.numpy())
    assert len(set(rows.labels.tolist())) == 3
    return model, Context(splits.task, splits.train, rows)


def _loud_norm_(model: nn.Module) -> None:
    """Two features of the last norm are loud for the pooler, whose weights take it back."""
    model.get_submodule("deberta.encoder.layer.1.output.LayerNorm").weight[:2] *= LOUD
    model.get_submodule("pooler.dense").weight[:, :2] /= LOUD


def _outlier_(model: nn.Module) -> None:
    """A neuron is loud for the second feed-forward layer, whose weights take it back."""
    mlp = model.get_submodule("model.layers.2.mlp")
    mlp.Wi.weight[48] *= LOUD  # type: ignore[union-attr, operator]  # the gate of neuron 0, which is linear
    mlp.Wo.weight[:, 0] /= LOUD  # type: ignore[union-attr, operator]


LOUD = 2000.0
CASES = {
    "deberta-v2": (_loud_norm_, "pooler.dense"),
    "modernbert": (_outlier_, "model.layers.2.mlp.Wo"),
}


@pytest.mark.parametrize("family", CASES)
def test_int8_that_collapses_is_guarded_and_the_layer_is_named(family: str, tmp_path: Path) -> None:
    plant_, guilty = CASES[family]
    model, context = _prepared(family, tmp_path, plant_)
    plain = Int8Dynamic(activations="tensor")
    made = plain.apply(model, context)
    right, found = (
        predict_logits(each, context.validation, context.task).argmax(-1) for each in (model, made.model)
    )
    blamed = plain.blame(model, made, context)
    assert float((right == found).float().mean()) < 0.9
    assert next(iter(blamed)) == guilty and blamed[guilty] > 0.9
    guard = Guard(max_drop=0.01, of="agreement")
    guarded = Int8Dynamic(activations="tensor", guard=guard).apply(model, context)
    assert guarded.facts["guard"]["drop"] <= 0.01 < guarded.facts["guard"]["drop_of_all_layers"]
    assert guarded.facts["kept_by_guard"][guilty]["kept"] == "float"
    kept = predict_logits(guarded.model, context.validation, context.task).argmax(-1)
    assert float((right == kept).float().mean()) >= 0.99
    assert isinstance(guarded.model.get_submodule(guilty), nn.Linear)
