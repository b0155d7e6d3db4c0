"""Models load from local Hugging Face directories; what is wrong with one is said in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from compress.errors import ModelError
from compress.model import LoadedModel, ModelConfig, load_model


def load_hf(directory: Path | str, scratch: Path, **more: object) -> LoadedModel:
    return load_model(ModelConfig.model_validate({"hf": str(directory), **more}), seed=0, scratch=scratch)


def test_a_directory_gives_module_tokenizer_labels_and_inputs(bert_directory: Path, tmp_path: Path) -> None:
    loaded = load_hf(bert_directory, tmp_path)
    assert loaded.text_inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert loaded.label_order == ("0", "1")
    assert loaded.tokenizer is not None and (loaded.tokenizer / "tokenizer.json").is_file()
    assert loaded.has_trained_head and not loaded.module.training


def test_models_with_one_token_type_get_no_token_types(hf_directory: Path, tmp_path: Path) -> None:
    inputs = load_hf(hf_directory, tmp_path).text_inputs
    assert ("token_type_ids" in inputs) == (hf_directory.name in ("bert", "electra"))


def test_a_name_that_is_nowhere_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read once, when it is imported
    with pytest.raises(
        ModelError, match=r"cannot load the Hugging Face model from directory or hub name \(is there a"
    ):
        load_hf("nobody/nothing-here", tmp_path)


def test_a_corrupt_safetensors_file_is_one_clear_error(bert_directory: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(bert_directory, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"cannot load the Hugging Face model from directory '.*broken'"):
        load_hf(broken, tmp_path)


def test_two_classes_of_one_name_are_refused(bert_directory: Path, tmp_path: Path) -> None:
    same = shutil.copytree(bert_directory, tmp_path / "same")
    config = json.loads((same / "config.json").read_text())
    config["id2label"] = {"0": "good", "1": "good"}
    (same / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="'good'.* id2label"):
        load_hf(same, tmp_path)


def test_a_model_without_a_trained_head_needs_training(bert_directory: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(bert_directory, tmp_path / "bare")
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(ModelError, match=r"no trained classification head .*give model\.train"):
        load_hf(bare, tmp_path)


def test_pickled_weights_are_not_read(bert_directory: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(bert_directory, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot load the Hugging Face model"):
        load_hf(pickled, tmp_path)
