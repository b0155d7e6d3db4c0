"""A directory appears whole or not at all, and what was there before comes back when the new one fails."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from torch import nn

from compress.data import Splits, TextEncoder
from compress.data.byte_tokenizer import write_byte_tokenizer
from compress.errors import OutputError
from compress.export import new_directory, write_bundle_, write_manifest_
from compress.model import Definition, keep_units_, load_module, structure_of
from compress.task import Task

from ..conftest import TRANSFORMER


def test_a_directory_appears_when_the_block_ends(tmp_path: Path) -> None:
    with new_directory(tmp_path / "deep" / "run") as directory:
        (directory / "file").write_text("whole")
        assert not (tmp_path / "deep" / "run").exists()
    assert (tmp_path / "deep" / "run" / "file").read_text() == "whole"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_directory_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    with new_directory(tmp_path / "run"):
        pass
    (tmp_path / "plain").mkdir()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_nothing_is_left_of_a_block_that_fails(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_directory(tmp_path / "run") as directory:
        (directory / "half").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    message = r"cannot write .*run: No space left on device"
    with pytest.raises(OutputError, match=message), new_directory(tmp_path / "run"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    with pytest.raises(OutputError, match=r"exists already"), new_directory(tmp_path):
        pytest.fail("the block must not begin")
    assert (tmp_path / "old").read_text() == "x"


def test_a_replaced_directory_keeps_nothing_of_the_old_one(tmp_path: Path) -> None:
    _old(tmp_path / "run")
    with new_directory(tmp_path / "run", replace=True) as directory:
        (directory / "new").write_text("x")
        assert (tmp_path / "run" / "old").is_file()
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "new"]


def test_the_old_directory_stays_when_the_block_fails(tmp_path: Path) -> None:
    _old(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "run", replace=True):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "old"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_the_old_directory_comes_back_when_the_swap_itself_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    _old(tmp_path / "run")
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if ".partial-" in Path(source).name:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises((KeyboardInterrupt, OutputError)), new_directory(tmp_path / "run", replace=True):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "old"]


def test_a_directory_below_a_file_is_refused_before_the_block(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match=r"cannot write in .*file: "),
        new_directory(tmp_path / "file" / "run"),
    ):
        pytest.fail("the block must not begin")


def test_a_bundle_holds_graph_module_and_configuration(
    tmp_path: Path, model: nn.Module, splits: Splits
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_bundle_(bundle, model, tmp_path / "model.onnx", splits.task, encoder=None, max_length=0)
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
    write_bundle_(bundle, model, tmp_path / "model.onnx", splits.task, encoder=encoder, max_length=5)
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
    task = Task(encoder.inputs, vocabulary=257)
    write_bundle_(tmp_path / "bundle", module, tmp_path / "model.onnx", task, encoder=encoder, max_length=16)
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


def _old(directory: Path) -> None:
    directory.mkdir()
    (directory / "old").write_text("x")


def test_config_json_says_the_heads_and_neurons_that_are_left(tmp_path: Path) -> None:
    from ..model.test_cached import decoder

    (tmp_path / "model.onnx").write_bytes(b"")
    encoder = TextEncoder.from_directory(write_byte_tokenizer(tmp_path / "bytes"))
    task = Task(encoder.inputs, vocabulary=257)

    def config_of(model: nn.Module, name: str) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        write_bundle_(tmp_path / name, model, tmp_path / "model.onnx", task, encoder=encoder, max_length=8)
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
