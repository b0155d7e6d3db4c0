"""Image networks of Hugging Face: what goes together is cut together, saved and loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model import ModelConfig, load_model, load_module, save_module, structure_of
from compress.model.cutting.depth import keep_layers_, layer_count
from compress.model.cutting.units import keep_units_
from compress.model.cutting.width import feature_count, keep_features_, present_readers
from compress.model.structure.networks import NETWORKS
from compress.model.structure.sites import Coupled
from tests.architectures.families import ENTRIES


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nn.Module]:
    found = {}
    for name in NETWORKS:
        folder = tmp_path_factory.mktemp(name)
        model, _ = ENTRIES[name].write(folder)
        config = ModelConfig.model_validate(model)
        found[name] = load_model(config, seed=0, scratch=folder).module
        draw = torch.Generator().manual_seed(0)
        for each in found[name].parameters():
            if each.ndim > 1:
                each.data.normal_(0, (2 / each[0].numel()) ** 0.5, generator=draw)
    return found


def _answers(model: nn.Module) -> Tensor:
    pictures = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers: Tensor = model.eval()(pixel_values=pictures).logits
    return answers


def _silence_(model: nn.Module, group: Coupled, features: list[int]) -> None:
    """Let nothing read these features, through convolutions that keep channels apart neither."""
    for path in present_readers(model, group):
        weight: Any = model.get_submodule(path).weight
        weight.data[:, features] = 0


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2"])
def test_channels_that_are_cut_are_those_that_nothing_reads(name: str, models: dict[str, nn.Module]) -> None:
    model = models[name]
    groups = structure_of(model).channels
    effects = []
    for group in groups[:: max(1, len(groups) // 8)]:
        silent, cut = copy.deepcopy(model), copy.deepcopy(model)
        count = feature_count(model, group)
        _silence_(silent, group, list(range(0, count, 3)))
        keep_features_(cut, [feature for feature in range(count) if feature % 3], group)
        torch.testing.assert_close(_answers(cut), _answers(silent), rtol=1e-5, atol=3e-5)
        effects.append(float((_answers(cut) - _answers(model)).abs().max()))
    # Far more than the rounding above, but for channels that random weights leave below a ReLU.
    assert sum(effect > 3e-4 for effect in effects) > 0.7 * len(effects)


@pytest.mark.parametrize("name", NETWORKS)
def test_units_that_are_cut_are_those_that_nothing_reads(name: str, models: dict[str, nn.Module]) -> None:
    model = models[name]
    for site in structure_of(model).sites:
        silent, cut = copy.deepcopy(model), copy.deepcopy(model)
        silent.get_submodule(site.consumer).weight.data[:, : site.unit_size] = 0  # type: ignore[index, union-attr]
        keep_units_(cut, site, range(1, site.units(cut)))
        torch.testing.assert_close(_answers(cut), _answers(silent), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_that_was_cut_at_once_is_saved_and_loaded(
    name: str, models: dict[str, nn.Module], tmp_path: Path
) -> None:
    model = copy.deepcopy(models[name])
    structure = structure_of(model)
    for group in structure.channels:
        keep_features_(model, range(1, feature_count(model, group)), group)
    for site in structure.sites:
        keep_units_(model, site, range(site.units(model) // 2))
    if structure.layers is not None:
        keep_layers_(model, [layer_count(model) - 1])
    before, after = (sum(each.numel() for each in it.parameters()) for it in (models[name], model))
    assert after < 0.99 * before
    save_module(model, tmp_path)
    torch.testing.assert_close(_answers(load_module(tmp_path)), _answers(model), rtol=0, atol=0)


def test_all_convolutions_but_the_first_input_are_in_some_group(models: dict[str, nn.Module]) -> None:
    for name in ("resnet", "mobilenet_v2", "convnext"):
        groups = structure_of(models[name]).channels
        named = {path for each in groups for path in (*each.writers, *each.readers, *each.norms)}
        layers = {path for path, each in models[name].named_modules() if isinstance(each, nn.Conv2d)}
        assert layers <= named
        norms = {path for path, each in models[name].named_modules() if isinstance(each, nn.BatchNorm2d)}
        assert norms <= named


class Blocks(nn.Module):
    """A convolution with groups, a squeeze-and-excite block, and a factor for each channel."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.norm = nn.Conv2d(3, 24, 1), nn.BatchNorm2d(24)
        self.grouped, self.narrow = nn.Conv2d(24, 12, 3, padding=1, groups=6), nn.Conv2d(12, 8, 1)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.gamma, self.head = nn.Parameter(torch.randn(8)), nn.Linear(8, 3)

    def forward(self, pixel_values: Tensor) -> Any:
        x = self.narrow(self.grouped(self.norm(self.wide(pixel_values)).relu()).relu())
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(x.mean((2, 3)) * self.gamma)

    def structure(self) -> dict[str, Any]:
        return {
            "channels": {
                "groups": {"writers": ["wide"], "norms": ["norm", "grouped"], "readers": ["narrow"]},
                "squeezed": {"writers": ["squeeze"], "readers": ["excite"]},
                "out": {
                    "writers": ["narrow", "excite"],
                    "readers": ["squeeze", "head"],
                    "tables": ["gamma"],
                },
            }
        }


@pytest.mark.parametrize(("name", "count", "each"), [("groups", 6, 2), ("squeezed", 4, 1), ("out", 8, 1)])
def test_groups_squeezes_and_factors_go_with_what_feeds_them(name: str, count: int, each: int) -> None:
    model = Blocks().eval()
    group = next(found for found in structure_of(model).channels if found.name == name)
    assert feature_count(model, group) == count
    silent, cut = copy.deepcopy(model), copy.deepcopy(model)
    _silence_(silent, group, [value for unit in (0, 2) for value in range(unit * each, (unit + 1) * each)])
    keep_features_(cut, [unit for unit in range(count) if unit not in (0, 2)], group)
    pictures = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(cut(pictures), silent(pictures), rtol=1e-5, atol=1e-6)
    if name == "groups":
        assert (cut.grouped.groups, cut.grouped.in_channels, cut.grouped.out_channels) == (4, 16, 8)
        assert (cut.wide.out_channels, cut.norm.num_features, cut.narrow.in_channels) == (16, 16, 8)


def test_a_convolution_with_groups_among_the_readers_is_refused() -> None:
    group = Coupled("wrong", writers=("wide",), readers=("grouped",), norms=("norm",))
    with pytest.raises(ModelError, match="groups"):
        feature_count(Blocks(), group)
