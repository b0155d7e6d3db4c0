"""A directory appears whole or not at all, and what was there before comes back when the new one fails."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from torch import nn

from compress.data import NumbersReader, Splits, TextEncoder
from compress.data.readers.byte_tokenizer import write_byte_tokenizer
from compress.export import (
    broken_seals,
    read_manifest,
    seal_,
    write_bundle_,
    write_manifest_,
)
from compress.model import Definition, keep_units_, load_module, structure_of
from compress.model.cutting.width import keep_features_
from compress.tasks import LanguageModelling

from ..conftest import TRANSFORMER


def test_a_bundle_holds_graph_module_and_configuration(
    tmp_path: Path, model: nn.Module, splits: Splits
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_bundle_(bundle, model, tmp_path / "model.onnx", splits.task, reader=NumbersReader(), max_length=0)
    assert (bundle / "onnx" / "model.onnx").read_bytes() == b"graph"
    assert (bundle / "onnx" / "model.onnx.data").read_bytes() == b"weights"
    config = json.loads((bundle / "config.json").read_text())
    assert config["id2label"] == {"0": "0", "1": "1", "2": "2"}
    assert config["label2id"] == {"0": 0, "1": 1, "2": 2}
    state = load_module(bundle / "pytorch").state_dict()
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())


def test_a_bundles_tokenizer_cuts_by_itself_and_pads_nothing(
    tmp_path: Path, model: nn.Module, splits: Splits, bert_directory: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    encoder = TextEncoder.from_directory(bert_directory)
    write_bundle_(bundle, model, tmp_path / "model.onnx", splits.task, reader=encoder, max_length=5)
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    assert tokenizer.encode("the film was very good").tokens == ["[CLS]", "the", "film", "was", "[SEP]"]
    assert tokenizer.encode("good").tokens == ["[CLS]", "good", "[SEP]"]
    settings = json.loads((bundle / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 5
    # Without it transformers 4 gives token types, which a decoder's generate() then refuses.
    assert settings["model_input_names"][:2] == ["input_ids", "attention_mask"]
    assert settings["pad_token"] == "[PAD]"


def _config_of(module: nn.Module, tmp_path: Path, generation: str = "{}") -> dict[str, Any]:
    """What a language model's bundle says of it; its tokenizer is of bytes, whose end is 256."""
    (tmp_path / "model.onnx").write_bytes(b"graph")
    encoder = TextEncoder.from_directory(write_byte_tokenizer(tmp_path / "bytes"))
    (tmp_path / "bytes" / "generation_config.json").write_text(generation)
    (tmp_path / "bundle").mkdir()
    task = LanguageModelling(encoder.inputs, vocabulary=257)
    write_bundle_(tmp_path / "bundle", module, tmp_path / "model.onnx", task, reader=encoder, max_length=16)
    config: dict[str, Any] = json.loads((tmp_path / "bundle" / "config.json").read_text())
    return config


def test_libraries_that_generate_read_a_decoder_of_one_s_own_as_they_read_llama(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "nhead": 4, "num_layers": 3, "max_length": 64}
    own = Definition.from_file(TRANSFORMER, "causal_lm", {"input_dim": 257, **sizes}).build()
    config = _config_of(own, tmp_path)
    assert config["model_type"] == "llama" and "CausalLM" in config["modelpress"]
    # optimum-onnx makes an empty past of these; transformers.js asks for the layers alone.
    assert (config["num_hidden_layers"], config["num_key_value_heads"], config["head_dim"]) == (3, 4, 8)
    assert config["hidden_size"] // config["num_attention_heads"] == 8
    assert config["eos_token_id"] == 256 and config["max_position_embeddings"] == 64
    # A prompt may be longer than the rows that it was measured on, which have 16 tokens.
    settings = json.loads((tmp_path / "bundle" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 64
    tokenizer = Tokenizer.from_file(str(tmp_path / "bundle" / "tokenizer.json"))
    assert len(tokenizer.encode("x" * 50).ids) == 50


def test_a_cut_decoder_s_configuration_has_the_heads_that_it_keeps(tmp_path: Path) -> None:
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    args = {"model_type": "llama", **sizes, **heads, "eos_token_id": [7, 9]}
    llama = Definition("hf", args, head="language-modelling").build()
    for site in structure_of(llama).attention:
        keep_units_(llama, site, [0, 1, 3])
    config = _config_of(llama, tmp_path, '{"eos_token_id": [7, 9, 11]}')
    assert (config["num_key_value_heads"], config["head_dim"], config["use_cache"]) == (3, 4, True)
    assert config["eos_token_id"] == [7, 9, 256]  # the model's own, and the one between its documents
    assert (tmp_path / "bundle" / "generation_config.json").read_text() == '{"eos_token_id": [7, 9, 11]}'


def test_a_manifest_says_inputs_labels_and_the_hash_of_each_file(tmp_path: Path, splits: Splits) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"graph")
    write_manifest_(tmp_path, splits.task, {"run_key": "abc"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["sha256"] == {"onnx/model.onnx": hashlib.sha256(b"graph").hexdigest()}
    assert manifest["run_key"] == "abc"
    assert manifest["labels"] == ["0", "1", "2"]
    assert [spec["name"] for spec in manifest["inputs"]] == list(splits.task.input_names)
    assert manifest["inputs"][0]["shape"][0] == "batch_size"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A directory with a file in a folder, sealed."""
    bundle = tmp_path / "bundle"
    (bundle / "onnx").mkdir(parents=True)
    (bundle / "onnx" / "model.onnx").write_bytes(b"graph")
    (bundle / "README.md").write_text("card")
    seal_(bundle, {})
    return bundle


def _wrong(bundle: Path) -> list[str]:
    return [phrase.split(" ")[0] for phrase in broken_seals(bundle, read_manifest(bundle))]


def test_a_sealed_directory_holds_wherever_it_is_copied(sealed: Path, tmp_path: Path) -> None:
    assert _wrong(sealed) == []
    assert _wrong(Path(shutil.copytree(sealed, tmp_path / "copy"))) == []


def test_a_manifest_that_names_nothing_seals_nothing(sealed: Path) -> None:
    (sealed / "manifest.json").write_text('{"sha256": {}}')
    assert _wrong(sealed) == ["README.md", "onnx/model.onnx"]


@pytest.mark.parametrize("name", ["new.py", "onnx/model.onnx.data", "onnx/manifest.json", "deep/er/.hidden"])
def test_a_file_that_no_manifest_names_is_named(sealed: Path, name: str) -> None:
    (sealed / name).parent.mkdir(parents=True, exist_ok=True)
    (sealed / name).write_bytes(b"")
    assert _wrong(sealed) == [name]


def test_a_manifest_in_a_folder_is_sealed_like_other_files(sealed: Path) -> None:
    (sealed / "onnx" / "manifest.json").write_text("{}")
    seal_(sealed, {})
    assert "onnx/manifest.json" in read_manifest(sealed)["sha256"] and _wrong(sealed) == []


def test_what_git_and_the_hub_leave_beside_is_passed_over(sealed: Path) -> None:
    for name in (".gitattributes", ".git/config", ".cache/huggingface/download/model.lock", "onnx/.DS_Store"):
        (sealed / name).parent.mkdir(parents=True, exist_ok=True)
        (sealed / name).write_bytes(b"x")
    assert _wrong(sealed) == []
    (sealed / ".cache" / "other").write_bytes(b"x")
    assert _wrong(sealed) == [".cache/other"]


def test_a_link_out_of_the_bundle_fails_even_to_equal_content(sealed: Path, tmp_path: Path) -> None:
    (sealed / "onnx" / "model.onnx").rename(tmp_path / "elsewhere")
    (sealed / "onnx" / "model.onnx").symlink_to(tmp_path / "elsewhere")
    assert _wrong(sealed) == ["onnx/model.onnx"]


@pytest.mark.parametrize("link", ["folder", "onnx/more"])
def test_a_link_to_a_folder_is_not_followed(sealed: Path, tmp_path: Path, link: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"x")
    (sealed / link).symlink_to(tmp_path / "outside", target_is_directory=True)
    assert _wrong(sealed) == [link]


def test_a_link_within_the_bundle_is_as_good_as_its_content(sealed: Path) -> None:
    (sealed / "onnx" / "model.onnx").rename(sealed / "onnx" / "same.onnx")
    (sealed / "onnx" / "model.onnx").symlink_to("same.onnx")
    assert _wrong(sealed) == ["onnx/same.onnx"], "which no manifest names"
    (sealed / "onnx" / "same.onnx").write_bytes(b"other")
    assert _wrong(sealed) == ["onnx/model.onnx", "onnx/same.onnx"]


def test_a_snapshot_of_the_hub_s_cache_holds_and_is_not_a_way_out(sealed: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--a--b"
    blobs, snapshot = home / "blobs", home / "snapshots" / "0" / "fp32"
    blobs.mkdir(parents=True)
    for at, file in enumerate(sorted(each for each in sealed.rglob("*") if each.is_file())):
        shutil.copy(file, blobs / str(at))
        link = snapshot / file.relative_to(sealed)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(at), link.parent))
    assert _wrong(snapshot) == []
    (tmp_path / "secret").write_bytes(b"card")
    (snapshot / "README.md").unlink()
    (snapshot / "README.md").symlink_to(tmp_path / "secret")
    assert _wrong(snapshot) == ["README.md"]


def test_names_that_lead_out_or_are_too_long_are_wrong_and_not_followed(sealed: Path) -> None:
    manifest = read_manifest(sealed)
    for name in ("../bundle/README.md", "/etc/passwd", "a" * 300, "onnx"):
        manifest["sha256"] |= {name: manifest["sha256"]["README.md"]}
    assert len(broken_seals(sealed, manifest)) == 4


def test_config_json_says_the_heads_and_neurons_that_are_left(tmp_path: Path) -> None:
    from ..model.test_cached import IDS, SHAPES, decoder

    (tmp_path / "model.onnx").write_bytes(b"")
    encoder = TextEncoder.from_directory(write_byte_tokenizer(tmp_path / "bytes"))
    task = LanguageModelling(encoder.inputs, vocabulary=257)

    def config_of(model: nn.Module, name: str) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        write_bundle_(tmp_path / name, model, tmp_path / "model.onnx", task, reader=encoder, max_length=8)
        found: dict[str, Any] = json.loads((tmp_path / name / "config.json").read_text())
        return found

    model = decoder("llama", vocabulary=257)
    before = config_of(model, "before")
    assert (before["num_attention_heads"], before["num_key_value_heads"]) == (4, 2)
    assert before["intermediate_size"] == 48 and "layers_after_pruning" not in before
    for site in structure_of(model).attention:
        keep_units_(model, site, [1])
    same = config_of(model, "same")
    assert (same["num_attention_heads"], same["num_key_value_heads"], same["head_dim"]) == (2, 1, 8)
    keep_units_(model, structure_of(model).feed_forward[1], range(10))
    left = config_of(model, "left")
    assert left["layers_after_pruning"] == {"intermediate_size": [48, 10, 48]}
    assert left["num_attention_heads"] == 2
    args = {**SHAPES["llama"], **IDS, "model_type": "olmo2", "vocab_size": 257}
    olmo = Definition("hf", args, head="language-modelling").build(seed=0)  # its heads can't be cut
    whole = config_of(olmo, "whole")
    assert (whole["num_attention_heads"], whole["num_key_value_heads"]) == (4, 2)
    assert whole["intermediate_size"] == 48


def test_config_json_states_a_cut_width_beside_the_size_that_loaders_divide_by_heads(
    text_model: nn.Module, text_splits: Splits, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    (tmp_path / "model.onnx").write_bytes(b"")
    task, reader = text_splits.task, text_splits.reader
    for name, width in (("whole", None), ("cut", 30)):
        if width is not None:
            keep_features_(text_model, range(width))
        (tmp_path / name).mkdir()
        file = tmp_path / "model.onnx"
        write_bundle_(tmp_path / name, text_model, file, task, reader=reader, max_length=16)
        config = AutoConfig.from_pretrained(tmp_path / name)
        assert config.hidden_size == 32 and config.hidden_size % config.num_attention_heads == 0
        assert getattr(config, "hidden_size_after_pruning", None) == width
