"""Weights that are computed from others are replaced by what they come to, and so saved and loaded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.model import Definition, ModelConfig, load_model, load_module, save_module
from compress.model.files.computed_weights import check_plain, computed_weights, plain_weights_
from compress.pipeline.cache import Cache
from compress.pipeline.prepare import prepare
from compress.pipeline.stages import trained_model
from compress.prune.magnitude import MagnitudePruning
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.weight_only import Int4WeightOnly
from compress.recipe import load_recipe
from compress.stage import Context, Stage

FILE = Path(__file__).with_name("computed_weights.py")
WAYS = (
    *("weight_norm", "spectral_norm", "orthogonal", "own", "two"),
    *("old weight_norm", "old spectral_norm", "masks"),
)
X = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))


def built(way: str, *, plain: bool = False) -> nn.Module:
    return Definition.from_file(FILE, "build", {"way": way, "classes": 3}).build(seed=1, plain=plain)


def trained(way: str) -> nn.Module:
    """A few steps on, so that vectors and norms have moved; in evaluation mode."""
    model = built(way).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(X).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("way", WAYS)
def test_plain_weights_answer_as_the_computed_ones(way: str) -> None:
    model = trained(way)
    answers = model(X).detach()
    assert list(computed_weights(model)) == ["mixed.weight"]
    with pytest.raises(ModelError, match=r"mixed\.weight"):
        check_plain(model)
    plain_weights_(model)
    assert torch.equal(model(X), answers)
    assert computed_weights(model) == {} and type(model.mixed) is nn.Linear
    assert {*dict(model.mixed.named_parameters())} == {"weight", "bias"}
    assert not dict(model.mixed.named_buffers())
    assert all(parameter.requires_grad for parameter in model.parameters())
    copy.deepcopy(model)  # tensors with a history can't be copied


def test_a_copy_keeps_what_it_computes_when_the_first_is_made_plain() -> None:
    model = trained("weight_norm")
    twin = copy.deepcopy(model)
    answers = twin(X)
    plain_weights_(model)
    assert torch.equal(twin(X), answers) and computed_weights(twin)


@pytest.mark.parametrize("layer", [nn.LSTM(4, 4), nn.Conv1d(4, 4, 3), nn.Embedding(4, 4)])
def test_other_layers_are_made_plain_too(layer: nn.Module) -> None:
    name = "weight_hh_l0" if isinstance(layer, nn.LSTM) else "weight"
    model = nn.utils.parametrizations.weight_norm(copy.deepcopy(layer), name)
    given = torch.arange(4) if isinstance(layer, nn.Embedding) else X[:4, :, :].transpose(1, 2)
    given = X if isinstance(layer, nn.LSTM) else given
    first: Any = model(given)
    second: Any = plain_weights_(model)(given)
    first, second = (each[0] if isinstance(layer, nn.LSTM) else each for each in (first, second))
    assert torch.equal(first, second) and type(model) is type(layer)


@pytest.mark.parametrize("way", WAYS)
def test_a_plain_model_and_one_that_isnt_are_saved_and_come_back(way: str, tmp_path: Path) -> None:
    model = trained(way)
    answers = model(X)
    for plain in (False, True):
        directory = tmp_path / str(plain)
        directory.mkdir()
        save_module(plain_weights_(model) if plain else model, directory)
        back = load_module(directory)
        assert torch.equal(back(X), answers) and bool(computed_weights(back)) is not plain


def test_a_bundle_of_before_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    model = trained("weight_norm")
    save_module(model, tmp_path)
    structure = json.loads((tmp_path / "structure.json").read_text())
    del structure["plain"]
    (tmp_path / "structure.json").write_text(json.dumps(structure))
    assert torch.equal(load_module(tmp_path)(X), model(X))


@pytest.mark.parametrize("stage", [MagnitudePruning(sparsity=0.5), Int8Dynamic(), Int4WeightOnly()])
def test_stages_refuse_computed_weights_by_name(stage: Stage, context: Context) -> None:
    with pytest.raises(ModelError, match=r"mixed\.weight"):
        stage.apply(built("weight_norm"), context)
    stage.apply(built("weight_norm", plain=True), context)


def test_a_model_is_plain_unless_it_is_to_be_trained(tmp_path: Path) -> None:
    config = ModelConfig.model_validate({"file": str(FILE), "builder": "build"})
    found = load_model(config, seed=0, scratch=tmp_path).module
    kept = load_model(config, seed=0, scratch=tmp_path, for_training=True).module
    assert not computed_weights(found) and computed_weights(kept)
    torch.testing.assert_close(found(X), kept.eval()(X))


@pytest.mark.parametrize("way", ["orthogonal", "old weight_norm"])
def test_a_recipe_trains_the_model_as_it_was_written_and_gives_stages_a_plain_one(
    way: str, tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    train = {"epochs": 1, "batch_size": 64, "learning_rate": 1e-2, "precision": "fp32"}
    model = {"file": str(FILE), "builder": "build", "args": {"way": way}, "train": train}
    path = write_recipe(tmp_path / "r.yaml", {"prune/magnitude": {"sparsity": 0.5}}, model=model)
    prepared = prepare(load_recipe(path), tmp_path, cache=Cache(tmp_path / "cache"))
    before = {name: value.clone() for name, value in prepared.loaded.module.state_dict().items()}
    module, training = trained_model(prepared)
    assert len(training["curve"]) == 1 and computed_weights(module) == {}
    weight = module.get_submodule("mixed").weight
    assert isinstance(weight, torch.Tensor)
    assert any(name.endswith((".original", "_v")) for name in before)
    if way == "orthogonal":  # a plain weight would have left that in training
        torch.testing.assert_close(weight @ weight.t(), torch.eye(8), atol=1e-4, rtol=0)
    again, _ = trained_model(prepare(load_recipe(path), tmp_path, cache=Cache(tmp_path / "cache")))
    assert torch.equal(again(X), module(X)), "from the cache"
    context = Context(prepared.splits.task, prepared.splits.train, prepared.splits.validation)
    made = MagnitudePruning(sparsity=0.5).apply(module, context)
    pruned = made.model
    zeros = sum(int((each.weight == 0).sum()) for each in pruned.modules() if isinstance(each, nn.Linear))
    assert zeros == made.facts["weights_zeroed"] > 0


def test_a_layer_without_sizes_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"^1 is LazyLinear"):
        Definition.from_file(FILE, "lazy", {}).build()
