"""A cut or quantized module is saved with its shapes and comes back equal to the bit."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.model import ModelConfig, keep_units_, load_model, load_module, save_module, structure_of
from compress.model.forward import logits
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.stage import Context

X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def test_a_cut_module_comes_back_equal(model: nn.Module, tmp_path: Path) -> None:
    keep_units_(model, structure_of(model).attention[1], [1])
    save_module(model, tmp_path)
    back = load_module(tmp_path)
    assert torch.equal(back(X), model.eval()(X))
    assert [site.units(back) for site in structure_of(back).attention] == [4, 1]


def test_a_quantized_module_comes_back_equal(model: nn.Module, context: Context, tmp_path: Path) -> None:
    quantized = Int8Dynamic().apply(model, context).model
    save_module(quantized, tmp_path)
    assert torch.equal(load_module(tmp_path)(X), quantized(X))


def test_a_cut_hugging_face_model_comes_back_equal(hf_directory: Path, tmp_path: Path) -> None:
    config = ModelConfig.model_validate({"hf": str(hf_directory)})
    module = load_model(config, seed=0, scratch=tmp_path).module
    keep_units_(module, structure_of(module).attention[0], [0, 3])
    save_module(module, tmp_path)
    batch = {
        "input_ids": torch.tensor([[2, 5, 10, 3]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.int64),
    }
    # A copy: transformers maps weights from the file unaligned, and kernels then sum in another order.
    assert torch.equal(logits(load_module(tmp_path), batch), logits(copy.deepcopy(module), batch))


def test_a_module_that_we_did_not_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="was not built by modelpress"):
        save_module(nn.Linear(2, 2), tmp_path)


def test_a_corrupt_weights_file_is_one_clear_error(model: nn.Module, tmp_path: Path) -> None:
    save_module(model, tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_module(tmp_path)


def test_weights_of_another_model_are_refused(model: nn.Module, tmp_path: Path) -> None:
    save_module(model, tmp_path)
    structure = json.loads((tmp_path / "structure.json").read_text())
    structure["definition"]["args"]["num_layers"] = 3
    (tmp_path / "structure.json").write_text(json.dumps(structure))
    with pytest.raises(ModelError, match=r"\['layers\.2\."):
        load_module(tmp_path)


def test_a_structure_of_a_newer_format_is_refused(model: nn.Module, tmp_path: Path) -> None:
    save_module(model, tmp_path)
    structure = json.loads((tmp_path / "structure.json").read_text())
    (tmp_path / "structure.json").write_text(json.dumps({**structure, "format": 99}))
    with pytest.raises(ModelError, match="has format 99; this version reads format 1"):
        load_module(tmp_path)
