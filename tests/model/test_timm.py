"""Models of timm by name: weights from a file, images as timm reads them, saved, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compress.errors import ModelError
from compress.model import LoadedModel, ModelConfig, load_model, load_module, save_module
from compress.model.files import timm_files


def _load(scratch: Path, num_labels: int | None = None, **model: Any) -> LoadedModel:
    return load_model(ModelConfig.model_validate(model), seed=0, scratch=scratch, num_labels=num_labels)


@pytest.mark.parametrize(
    "model",
    [
        {"timm": "test_vit", "hf": "."},
        {"timm": "test_vit", "weights": "w.pth", "args": {"pretrained": True}},
        {"hf": ".", "weights": "w.pth"},
        {"hf": ".", "args": {"num_classes": 2}},
    ],
)
def test_settings_that_contradict_each_other_are_refused(model: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="model|only allowed|exactly one"):
        ModelConfig.model_validate(model)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"modelpress\[timm\]"):
        timm_files.check_timm("test_vit")


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match="resnet10t") as raised:
        timm_files.check_timm("resnet10z")
    assert raised.value.key == "model.timm"


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_weights_of_a_file_answer_as_in_timm_and_are_saved(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name, num_classes=3).eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "w.pth")
    loaded = _load(tmp_path, timm=name, weights=str(tmp_path / "w.pth"))
    assert loaded.has_trained_head and loaded.processor is not None
    assert loaded.processor.crop == tuple(theirs.pretrained_cfg["input_size"][1:])
    save_module(loaded.module, tmp_path)
    pictures = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        wanted = theirs(pictures)
        torch.testing.assert_close(loaded.module.eval()(pictures), wanted, rtol=0, atol=0)
        torch.testing.assert_close(load_module(tmp_path)(pictures), wanted, rtol=0, atol=0)


def test_a_model_without_weights_gets_the_classes_of_the_data_and_a_note(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    loaded = _load(tmp_path, 5, timm="test_resnet")
    assert not loaded.has_trained_head and len(loaded.notes) == 1
    with torch.no_grad():
        assert loaded.module(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_weights_of_another_model_and_pickled_objects_are_refused(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "w.pth")
    torch.save({"state_dict": {}, "code": Path("x")}, tmp_path / "code.pth")
    for file in ("w.pth", "code.pth"):
        with pytest.raises(ModelError, match=file):
            _load(tmp_path, timm="test_resnet", weights=str(tmp_path / file))
