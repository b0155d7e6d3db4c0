"""models/cnn.py and models/rnn.py: what they compute and refuse, and that what is cut is what was silent."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compress.data import DigitsData, Splits, load_splits
from compress.errors import ModelError
from compress.export import export_onnx
from compress.model import load_module, save_module, structure_of
from compress.model.cutting.width import feature_count, keep_features_, present_readers
from compress.model.files.definition import Definition

MODELS = Path(__file__).resolve().parents[2] / "models"
CNN = {"input_dim": 4, "output_dim": 10, "grid": 4, "widths": [6, 8], "blocks": 2}
RNN = {"input_dim": 4, "output_dim": 10, "hidden": 12, "num_layers": 2}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "cnn": ("cnn.py", "patch_classifier", CNN),
    "lstm": ("rnn.py", "patch_classifier", {**RNN, "cell": "lstm"}),
    "gru": ("rnn.py", "patch_classifier", {**RNN, "cell": "gru"}),
}


def _build(file: str, builder: str, args: dict[str, Any], seed: int = 0) -> nn.Module:
    model = Definition.from_file(MODELS / file, builder, args).build(seed=seed)
    for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
        generator = torch.Generator().manual_seed(seed)
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_splits(DigitsData(train_limit=40))


def _features(splits: Splits, count: int = 5) -> Tensor:
    return torch.from_numpy(np.stack([row["features"] for row in splits.validation.rows[:count]]))


def _silent_(model: nn.Module, path: str, gone: list[int]) -> None:
    """Make a reader deaf to these features."""
    reader = model.get_submodule(path)
    if isinstance(reader, nn.LSTM | nn.GRU):
        reader.weight_ih_l0.data[:, gone] = 0
    else:
        assert isinstance(reader, nn.Linear | nn.Conv2d)
        reader.weight.data[:, gone] = 0


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_cut_is_what_was_silent(family: str, digits: Splits) -> None:
    model = _build(*FAMILIES[family])
    for group in structure_of(model).channels:
        width = feature_count(model, group)
        kept = [i for i in range(width) if i % 3]
        gone = sorted(set(range(width)) - set(kept))
        silent, cut = copy.deepcopy(model), copy.deepcopy(model)
        for path in present_readers(silent, group):
            _silent_(silent, path, gone)
        for path in group.writers:  # a hidden unit also tells the others at the next step
            writer = silent.get_submodule(path)
            if isinstance(writer, nn.LSTM | nn.GRU):
                writer.weight_hh_l0.data[:, gone] = 0
        keep_features_(cut, kept, group)
        assert feature_count(cut, group) == len(kept)
        x = _features(digits)
        with torch.no_grad():
            # The same sums of some dozens of fp32 products in another order.
            torch.testing.assert_close(cut(x), silent(x), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(cut(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_model_is_saved_loaded_and_exported(family: str, digits: Splits, tmp_path: Path) -> None:
    model = _build(*FAMILIES[family])
    for group in structure_of(model).channels:
        keep_features_(model, range(1, feature_count(model, group)), group)
    save_module(model, tmp_path)
    again, x = load_module(tmp_path), _features(digits)
    with torch.no_grad():
        wanted = model(x)
        assert torch.equal(again(x), wanted)
    for place in range(2):  # the second export of a process too
        file = export_onnx(again, digits.validation, digits.task, tmp_path / f"{place}.onnx")
        (found,) = onnxruntime.InferenceSession(str(file)).run(None, {"features": x.numpy()})
        # Two implementations of the same fp32 sums.
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_patches_are_put_together_to_the_picture_that_they_were(digits: Splits) -> None:
    from sklearn.datasets import load_digits

    model = _build(*FAMILIES["cnn"])
    pictures = torch.tensor(load_digits().images[:3] / 8 - 1, dtype=torch.float32)
    patches = pictures.reshape(3, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(3, 16, 4)
    seen: list[Tensor] = []
    stem = model.get_submodule("stem")
    stem.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(patches)
    assert torch.equal(seen[0], pictures.unsqueeze(1))


def test_patches_that_make_no_image_are_refused() -> None:
    with pytest.raises(ValueError, match="12 patches .* 4 x 4"):
        _build(*FAMILIES["cnn"])(torch.rand(2, 12, 4))


def test_a_classifier_of_pictures_takes_pictures() -> None:
    args = {"output_dim": 3, "channels": 3, "widths": [4, 8, 8], "blocks": 1}
    model = Definition.from_file(MODELS / "cnn.py", "image_classifier", args).build()
    assert model(torch.rand(2, 3, 20, 28)).shape == (2, 3)
    names = {group.name for group in structure_of(model).channels}
    assert names == {"stage 0", "stage 1", "stage 2", "blocks.0", "blocks.1", "blocks.2"}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_padding_of_tokens_does_not_change_the_answer(cell: str) -> None:
    args = {"input_dim": 20, "output_dim": 2, "d_model": 6, "hidden": 8, "cell": cell}
    model = Definition.from_file(MODELS / "rnn.py", "token_classifier", args).build()
    ids = torch.tensor([[3, 7, 8], [9, 12, 3]])
    padded = torch.cat([ids, torch.zeros(2, 4, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(padded), model(ids), rtol=1e-5, atol=1e-6)
        mask = padded.ne(0).to(torch.int64)
        torch.testing.assert_close(model(padded, mask), model(ids), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("file", "builder", "changes", "said"),
    [
        ("cnn.py", "patch_classifier", {"input_dim": 6}, "6 is no square number"),
        ("cnn.py", "patch_classifier", {"widths": []}, "at least one stage"),
        ("cnn.py", "patch_classifier", {"blocks": 0}, "blocks: a whole number, at least 1"),
        ("rnn.py", "patch_classifier", {"cell": "rnn"}, "lstm or gru, not 'rnn'"),
        ("rnn.py", "patch_classifier", {"hidden": 0}, "hidden: a whole number, at least 1"),
    ],
)
def test_sizes_that_make_no_model_are_refused(
    file: str, builder: str, changes: dict[str, Any], said: str
) -> None:
    args = {**(CNN if file == "cnn.py" else RNN), **changes}
    with pytest.raises(ModelError, match=said):
        Definition.from_file(MODELS / file, builder, args).build()


class _Named(nn.Module):
    """A module that says what is coupled."""

    def __init__(self, channels: dict[str, Any], **layers: nn.Module) -> None:
        super().__init__()
        self.channels = channels
        for name, layer in layers.items():
            self.add_module(name, layer)

    def structure(self) -> dict[str, Any]:
        return {"channels": {"all": self.channels}}


@pytest.mark.parametrize(
    ("layers", "channels", "said"),
    [
        ({"a": nn.LSTM(4, 6, num_layers=2)}, {"writers": ["a"]}, "a has 2 layers"),
        ({"a": nn.GRU(4, 6, bidirectional=True)}, {"writers": ["a"]}, "bidirectional"),
        ({"a": nn.Conv2d(4, 6, 3, groups=2)}, {"writers": ["a"]}, "a has 2 groups for 4 channels"),
        ({"a": nn.Conv2d(4, 6, 3)}, {"norms": ["a"]}, "a has 1 groups for 4 channels"),
        (
            {"a": nn.Conv2d(4, 6, 3), "b": nn.Linear(7, 2)},
            {"writers": ["a"], "readers": ["b"]},
            "b has 7 all",
        ),
        ({"a": nn.Linear(4, 6)}, {"writers": ["c"]}, "names c"),
        ({"a": nn.Linear(4, 6)}, {"makers": ["a"]}, r"_Named\.structure\(\) .*makers"),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(
    layers: dict[str, nn.Module], channels: dict[str, Any], said: str
) -> None:
    model = _Named(channels, **layers)
    with pytest.raises(ModelError, match=said):
        feature_count(model, structure_of(model).channels[0])


def test_depthwise_convolutions_and_flattened_pictures_go_with_their_filters() -> None:
    class Separable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 6, 3, padding=1)
            self.each = nn.Conv2d(6, 6, 3, padding=1, groups=6)
            self.norm = nn.BatchNorm2d(6)
            self.out = nn.Linear(6 * 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out(self.norm(self.each(self.first(x))).relu().flatten(1))
            return y

        def structure(self) -> dict[str, Any]:
            parts = {"writers": ["first"], "norms": ["each", "norm"], "readers": ["out"]}
            return {"channels": {"filters": parts}}

    torch.manual_seed(0)
    model = Separable().eval()
    (group,) = structure_of(model).channels
    silent, cut, x = copy.deepcopy(model), copy.deepcopy(model), torch.rand(2, 1, 4, 4)
    for gone in (1, 4):
        silent.out.weight.data[:, 16 * gone : 16 * gone + 16] = 0
    keep_features_(cut, [0, 2, 3, 5], group)
    assert cut.each.groups == cut.each.in_channels == 4 and cut.out.in_features == 64
    with torch.no_grad():
        torch.testing.assert_close(cut(x), silent(x), rtol=1e-5, atol=1e-6)
