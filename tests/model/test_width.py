"""A hidden feature goes from everything that has one number for it, and nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.model import (
    ModelConfig,
    keep_units_,
    load_model,
    load_module,
    save_module,
    structure_of,
)
from compress.model.cutting.width import hidden_width, keep_features_, present_readers
from compress.model.files.definition import Definition
from compress.model.forward import logits
from compress.model.layers.embedding import FactorizedEmbedding

TRANSFORMER = Path(__file__).resolve().parents[2] / "models" / "transformer.py"
SIZES = {"d_model": 16, "nhead": 2, "num_layers": 2, "max_length": 8, "dropout": 0.0}
IDS = torch.tensor([[3, 7, 8], [9, 12, 3]])
BATCH = {"input_ids": torch.tensor([[2, 5, 10, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
KEPT = [0, 2, 3, 5, 7, 8, 11, 13, 14, 15]


def _build(builder: str = "token_classifier", **changes: Any) -> nn.Module:
    first = {"patch_classifier": 4}.get(builder, 30)
    arguments = {**SIZES, "input_dim": first, "output_dim": 30 if builder == "causal_lm" else 2}
    return Definition.from_file(TRANSFORMER, builder, arguments | changes).build()


def _without_norms(model: nn.Module) -> nn.Module:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LayerNorm):
            model.set_submodule(name, _Scale(module))
    return model


class _Scale(nn.LayerNorm):
    """A LayerNorm that doesn't look at other features."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__(norm.normalized_shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + self.bias


def _silence_(model: nn.Module, gone: list[int]) -> None:
    """Make the features 0 wherever they are read."""
    for path in present_readers(model):
        model.get_submodule(path).weight.data[:, gone] = 0


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rope"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_but_for_layer_norms_the_cut_model_is_the_one_with_silent_features(
    positions: str, norm_first: bool
) -> None:
    model = _without_norms(_build(positions=positions, norm_first=norm_first))
    silent = copy.deepcopy(model)
    _silence_(silent, sorted(set(range(16)) - set(KEPT)))
    keep_features_(model, KEPT)
    # The same sums of up to 16 fp32 products in another order, through two layers.
    torch.testing.assert_close(model(IDS), silent(IDS), rtol=1e-4, atol=1e-6)


def test_layer_norms_take_mean_and_variance_over_what_is_left() -> None:
    model = _build("patch_classifier")
    norm = model.get_submodule("norm")
    assert isinstance(norm, nn.LayerNorm)
    norm.weight.data.uniform_(0.5, 2)
    weight = norm.weight.detach().clone()
    keep_features_(model, [1, 4, 6])
    x = torch.tensor([[1.0, 2.0, 6.0]])  # mean 3, variance (4 + 1 + 9) / 3
    expected = (x - 3) / (14 / 3 + norm.eps) ** 0.5 * weight[[1, 4, 6]]
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize(
    ("builder", "changes", "x"),
    [
        ("token_classifier", {"positions": "sinusoidal"}, IDS),
        ("token_classifier", {"positions": "learned", "norm_first": False}, IDS),
        ("patch_classifier", {}, torch.ones(2, 3, 4)),
        ("causal_lm", {"tie_embeddings": True}, IDS),
    ],
)
def test_a_narrower_model_file_comes_back_equal_and_can_be_cut_again(
    builder: str, changes: dict[str, Any], x: torch.Tensor, tmp_path: Path
) -> None:
    model = _build(builder, **changes)
    keep_features_(model, KEPT)
    assert hidden_width(model) == 10 and model(x).isfinite().all()
    assert [site.units(model) for site in structure_of(model).attention] == [2, 2]
    save_module(model, tmp_path)
    back = load_module(tmp_path)
    assert torch.equal(back(x), model(x))
    keep_features_(back, range(4))
    keep_units_(back, structure_of(back).attention[0], [1])
    assert hidden_width(back) == 4 and back(x).isfinite().all()
    if "tie_embeddings" in changes:
        assert model.classifier.weight is model.embedding.weight


def test_a_table_that_was_computed_is_saved_once_it_is_cut(tmp_path: Path) -> None:
    model = _build(positions="sinusoidal")
    assert "positions.table" not in model.state_dict()
    table = model.positions.table.clone()
    keep_features_(model, KEPT)
    save_module(model, tmp_path)
    assert torch.equal(load_module(tmp_path).state_dict()["positions.table"], table[:, KEPT])


def test_what_stands_for_removed_sub_layers_is_cut_too(hf_directory: Path, tmp_path: Path) -> None:
    loaded = load_model(ModelConfig.model_validate({"hf": str(hf_directory)}), seed=0, scratch=tmp_path)
    for model, call in ((copy.deepcopy(loaded.module), BATCH), (_build(), {"input_ids": IDS})):
        for site in (structure_of(model).attention[0], structure_of(model).feed_forward[-1]):
            keep_units_(model, site, [])
        keep_features_(model, KEPT)
        assert len(structure_of(model).removed) == 2
        answers = logits(model, call)
        assert answers.isfinite().all()
        folder = tmp_path / type(model).__name__
        folder.mkdir()
        save_module(model, folder)
        assert torch.equal(logits(load_module(folder), call), answers)


def test_of_a_factorized_embedding_the_projection_is_cut(tmp_path: Path) -> None:
    model = _build(positions="rope")
    model.set_submodule("embedding", FactorizedEmbedding(30, 3, 16).eval())
    keep_features_(model, KEPT)
    assert model.embedding.table.weight.shape == (30, 3)
    assert model.embedding.projection.weight.shape == (10, 3)
    save_module(model, tmp_path)
    assert torch.equal(load_module(tmp_path)(IDS), model(IDS))


def test_features_that_are_not_there_are_refused() -> None:
    for wrong in ([], [-1], [16]):
        with pytest.raises(ModelError, match=r"features to keep must be some of 0\.\.15, at least 1"):
            keep_features_(_build(), wrong)


class _Offers(nn.Module):
    def __init__(self, hidden: dict[str, list[str]] | None) -> None:
        super().__init__()
        self.a, self.b, self.act, self.hidden = nn.Linear(4, 6), nn.Linear(8, 2), nn.ReLU(), hidden

    def structure(self) -> dict[str, Any]:
        return {"attention": [], "hidden": self.hidden}


def _hidden(**given: list[str]) -> dict[str, list[str]]:
    return {"embeddings": [], "writers": [], "readers": [], "norms": [], **given}


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (None, r"_Offers\.structure\(\) .*\('hidden'\)"),
        (_hidden(), r"no module with hidden features"),
        (_hidden(writers=["a"], readers=["b"]), r"b has 8 hidden features, but a has 6"),
        (_hidden(writers=["c"]), r"structure\(\) names c"),
        (
            _hidden(norms=["act"]),
            "ReLU.*LayerNorm.*can't",
        ),
        (_hidden(tables=["act.table"]), r"act\.table"),
    ],
)
def test_a_module_that_says_too_little_or_what_is_not_so_is_refused(hidden: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        hidden_width(_Offers(hidden))
