"""Layers that share weights go on sharing them: cut once, quantized once, stored once, loaded again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from compress.data import Splits
from compress.errors import ModelError, StageError
from compress.export import export_onnx
from compress.model import Definition, keep_units_, load_module, save_module, structure_of
from compress.model.cutting.width import keep_features_
from compress.model.structure.sites import Coupled
from compress.prune.heads import HeadPruning
from compress.prune.magnitude import MagnitudePruning
from compress.prune.structured.stage import StructuredPruning
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.stage import Context

FILE = Path(__file__).with_name("shared_layers.py")
INPUTS = {"features": torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))}


@pytest.fixture(scope="module")
def shared() -> Callable[[str], nn.Module]:
    return lambda way: Definition.from_file(FILE, "build", {"way": way}).build(seed=1)


@pytest.fixture(scope="module")
def context(splits: Splits) -> Context:
    return Context(splits.task, splits.train, splits.validation)


def _sizes(file: Path) -> list[list[int]]:
    return [list(each.dims) for each in onnx.load(file).graph.initializer]


@pytest.mark.parametrize("way", ["layers", "linears"])
def test_layers_of_the_same_modules_are_one_site_and_are_cut_under_all_names(
    shared: Callable[[str], nn.Module], way: str
) -> None:
    model, silent = shared(way), shared(way)
    (site,) = structure_of(model).sites
    with torch.no_grad():
        silent.get_submodule(site.consumer).weight[:, 8:24] = 0  # type: ignore[index]
        keep_units_(model, site, [0, 3])
        # The cut product sums fewer terms, in another order.
        torch.testing.assert_close(
            model(**INPUTS)["logits"], silent(**INPUTS)["logits"], rtol=1e-5, atol=1e-6
        )
    assert model.get_submodule("layers.1.qkv") is model.get_submodule("layers.0.qkv")
    (again,) = structure_of(model).sites
    assert again.units(model) == 2


@pytest.mark.parametrize("way", ["layers", "linears"])
@pytest.mark.parametrize("stage", [HeadPruning(sparsity=0.5, calibration_rows=16), Int8Dynamic()])
def test_what_a_stage_makes_of_shared_layers_is_stored_once_and_comes_back(
    shared: Callable[[str], nn.Module],
    context: Context,
    splits: Splits,
    tmp_path: Path,
    way: str,
    stage: HeadPruning | Int8Dynamic,
) -> None:
    made = stage.apply(shared(way), context).model
    save_module(made, tmp_path)
    again = load_module(tmp_path)
    assert again.get_submodule("layers.1.qkv") is again.get_submodule("layers.0.qkv")
    with torch.inference_mode():
        assert torch.equal(made(**INPUTS)["logits"], again(**INPUTS)["logits"])
    export_onnx(made, splits.validation, splits.task, tmp_path / "model.onnx")
    width = 48 if isinstance(stage, HeadPruning) else 96
    assert _sizes(tmp_path / "model.onnx").count([32, width]) == 1


def test_tied_weights_become_the_same_integers_and_are_stored_once(
    shared: Callable[[str], nn.Module], context: Context, splits: Splits, tmp_path: Path
) -> None:
    made = Int8Dynamic().apply(shared("weights"), context).model
    export_onnx(made, splits.validation, splits.task, tmp_path / "model.onnx")
    assert _sizes(tmp_path / "model.onnx").count([32, 96]) == 1
    assert _sizes(tmp_path / "model.onnx").count([96]) >= 2, "biases are their own"


def test_a_fixed_range_holds_what_every_call_of_a_layer_is_given(context: Context) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.step, self.classifier = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 10)
            nn.init.eye_(self.step.weight)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            x = self.embed(features)
            for _ in range(3):
                x = self.step(2 * x)
            return self.classifier(x.mean(1))

    torch.manual_seed(0)
    made = Int8Static(calibration_rows=32).apply(Loop(), context).model
    steps = {name: float(module.input_scale) for name, module in made.named_children()}  # type: ignore[arg-type]
    assert steps["step"] > 0.4 * steps["classifier"], "the last of three calls is given most"


@pytest.mark.parametrize("way", ["weights", "one"])
@pytest.mark.parametrize("stage", [HeadPruning(sparsity=0.5), StructuredPruning(sparsity=0.5)])
def test_a_site_that_shares_only_some_of_its_weights_is_refused_before_any_work(
    shared: Callable[[str], nn.Module], way: str, stage: HeadPruning | StructuredPruning
) -> None:
    with pytest.raises(ModelError, match=r"layers\.0\.out.*layers\.1\.qkv"):
        stage.rehearse(shared(way))


def test_layers_that_are_called_twice_are_cut_by_what_does_not_look_at_one_call(
    shared: Callable[[str], nn.Module], context: Context
) -> None:
    model = shared("layers")
    stage = StructuredPruning(sparsity=0.5, calibration_rows=32, search_rows=16, search_steps=2)
    with pytest.raises(StageError, match=r"layers\.0\.out"):
        stage.check(model, context)
    stage = stage.model_copy(update={"importance": "taylor"})
    stage.check(model, context)
    made = stage.apply(model, context).model
    assert [site.units(made) for site in structure_of(made).sites] == [2]


def test_a_width_is_refused_where_a_module_outside_of_it_has_the_same_weight() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.read, self.other = nn.Linear(4, 6), nn.Linear(6, 10), nn.Linear(6, 10)
            self.other.weight = self.read.weight

        def structure(self) -> dict[str, object]:
            return {}

    model = Tied()
    with pytest.raises(ModelError, match="other shares the weight of read .*middle"):
        keep_features_(model, [0, 1], Coupled("middle", writers=("embed",), readers=("read",)))
    keep_features_(model, [0, 1], Coupled("middle", writers=("embed",), readers=("read", "other")))
    assert model.other.weight is model.read.weight and model.read.weight.shape == (10, 2)


def test_zeros_in_a_shared_weight_count_once_and_are_skipped_on_both_sides_or_none(
    shared: Callable[[str], nn.Module], context: Context
) -> None:
    result = MagnitudePruning(sparsity=0.5, skip=("embed", "classifier", "layers.*.qkv")).apply(
        shared("weights"), context
    )
    made = result.model
    assert result.facts["weights_in_scope"] == 32 * 32
    first, second = made.get_submodule("layers.0.out"), made.get_submodule("layers.1.out")
    assert first.weight is second.weight and int((first.weight == 0).sum()) == 512  # type: ignore[union-attr]
    for way in ("weights", "linears"):
        with pytest.raises(StageError, match=r"layers\.1\.qkv.*layers\.0\.qkv"):
            MagnitudePruning(sparsity=0.5, skip=("layers.1.qkv",)).rehearse(shared(way))
