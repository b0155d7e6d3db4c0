"""Fewer layers: the model computes with those that stay, and can be saved and loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.model import ModelConfig, load_model
from compress.model.cutting.depth import keep_layers_, layer_count, with_layers
from compress.model.cutting.units import keep_units_
from compress.model.files.definition import Definition, definition_of
from compress.model.files.save import load_module, save_module
from compress.model.structure.find import structure_of

from ..hf_families import FAMILIES, write_family

FEATURES = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def test_the_layers_that_stay_compute_as_before(model: nn.Module, definition: Definition) -> None:
    second = model.layers[1]
    keep_layers_(model, [1])
    assert layer_count(model) == 1 and model.layers[0] is second
    changed = definition_of(model)
    assert changed is not None and changed.args["num_layers"] == 1
    fresh = definition.changed({"num_layers": 1}).build()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(FEATURES), model(FEATURES))


def test_a_model_with_fewer_and_cut_layers_is_saved_and_loaded(model: nn.Module, tmp_path: Path) -> None:
    keep_units_(model, structure_of(model).attention[1], [0, 3])
    keep_layers_(model, [1])
    save_module(model, tmp_path)
    assert torch.equal(load_module(tmp_path)(FEATURES), model(FEATURES))


def test_hugging_face_encoders_are_made_shallower_by_their_own_word(
    hf_directory: Path, tmp_path: Path
) -> None:
    loaded = load_model(ModelConfig.model_validate({"hf": str(hf_directory)}), seed=0, scratch=tmp_path)
    model, ids = loaded.module, torch.tensor([[2, 7, 8, 3]])
    keep_layers_(model, [0])
    assert model.config.num_hidden_layers == 1  # DistilBERT's n_layers answers to it too
    (tmp_path / "saved").mkdir()
    save_module(model, tmp_path / "saved")
    again = load_module(tmp_path / "saved")
    assert layer_count(again) == 1
    # Tensors at other addresses: float32 sums may go in another order.
    torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kept", [[], [2], [-1], [1, 0], [0, 0]])
def test_layers_that_are_not_there_are_refused(model: nn.Module, kept: list[int]) -> None:
    with pytest.raises(ModelError, match=r"must be some of 0\.\.1, ascending"):
        keep_layers_(model, kept)
    assert layer_count(model) == 2


def test_a_model_that_cannot_be_built_shallower_is_refused(tmp_path: Path) -> None:
    code = """
from torch import nn
class Fixed(nn.Module):
    def __init__(self, width: int = 3):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
    def structure(self):
        return {"attention": [], "layers": "layers"}
"""
    (tmp_path / "fixed.py").write_text(code)
    model = Definition.from_file(tmp_path / "fixed.py", "Fixed", {}).build()
    with pytest.raises(ModelError, match=r"none of the model's arguments is its number of layers \(3\)"):
        keep_layers_(model, [0])


def test_a_module_that_we_did_not_build_is_refused() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

        def structure(self) -> dict[str, object]:
            return {"attention": [], "layers": "layers"}

    with pytest.raises(ModelError, match="Plain was not built by modelpress"):
        keep_layers_(Plain(), [0])


def _windowed(directory: Path, scratch: Path) -> nn.Module:
    """Qwen2 as transformers 5 saves it: of four layers the first sees all, the others a window."""
    scratch.mkdir(exist_ok=True)
    write_family(directory, FAMILIES["qwen2"], decoder=True, num_hidden_layers=4)
    config = ModelConfig.model_validate({"hf": str(directory)})
    return load_model(config, seed=0, scratch=scratch, task="language-modelling").module


def test_lists_with_an_entry_for_each_layer_are_cut_with_the_layers(tmp_path: Path) -> None:
    model = _windowed(tmp_path / "model", tmp_path / "scratch")
    ids = torch.randint(4, 18, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with with_layers(model, [0, 3]):
            tried = model(input_ids=ids).logits
        with with_layers(model, [1, 3]):
            assert model.config.layer_types == ["sliding_attention"] * 2
        assert model.config.layer_types == ["full_attention", *["sliding_attention"] * 3]
        keep_layers_(model, [0, 3])
        wanted = model(input_ids=ids).logits
    torch.testing.assert_close(tried, wanted, rtol=1e-5, atol=1e-6)
    definition = definition_of(model)
    assert definition is not None
    for found in (model.config.layer_types, definition.args["layer_types"]):
        assert found == ["full_attention", "sliding_attention"]
    (tmp_path / "saved").mkdir()
    save_module(model, tmp_path / "saved")
    with torch.no_grad():
        again = load_module(tmp_path / "saved")(input_ids=ids).logits
    torch.testing.assert_close(again, wanted, rtol=1e-5, atol=1e-6)


def test_a_builder_s_list_is_cut_with_the_layers(tmp_path: Path) -> None:
    code = """
from torch import nn
class Scaled(nn.Module):
    def __init__(self, depth: int = 3, factors=(1, 2, 3)):
        super().__init__()
        assert len(factors) == depth
        self.factors = list(factors)
        self.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(depth)])
    def structure(self):
        return {"attention": [], "layers": "layers"}
"""
    (tmp_path / "scaled.py").write_text(code)
    model = Definition.from_file(tmp_path / "scaled.py", "Scaled", {}).build()
    keep_layers_(model, [0, 2])
    changed = definition_of(model)
    assert changed is not None and changed.args == {"depth": 2, "factors": [1, 3]}
