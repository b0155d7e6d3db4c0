"""A bundle lies as the Hub's ONNX models do: optimum-onnx and transformers.js find its files where they look.

optimum-onnx 0.1.0 asks for transformers 4, so it can't stand beside the 5 that we use: what it looks for is
looked for here by its rules. (By hand it did load an int8 bundle, with transformers 4.57.6.)
"""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import transformers
from tokenizers import Tokenizer

import compress

from ..sentence_folders import write_sentence_folder

TEXT = "the film was very good a poor plot the very " * 3  # more than the 12 tokens that are kept


@pytest.fixture(scope="module")
def bundle(bert_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "bert"
    compress.export_model(bert_directory, output, max_length=12)
    return output


def _found_by_optimum(bundle: Path) -> Path:
    """Which file ORTModel.from_pretrained(bundle) loads.

    find_files_matching_pattern (optimum/utils/file_utils.py) takes every *.onnx at any depth; then
    ORTModel._infer_file_path (optimum/onnxruntime/modeling.py) the first that is called model.onnx, and any
    other only for want of one.
    """
    files = list(bundle.glob("**/*.onnx"))
    assert files, "optimum-onnx would convert the model itself"
    return next((file for file in files if file.name == "model.onnx"), files[0])


def _found_by_transformers_js(bundle: Path) -> Path:
    """Which file a pipeline of transformers.js loads with dtype fp32: the default in Node, not in browsers.

    PreTrainedModel.from_pretrained (src/models/modeling_utils.js) looks in the folder onnx; getCoreModelFile
    (src/utils/model-loader.js) joins "model", the suffix of the dtype, which is empty for fp32, and ".onnx".
    """
    suffix = ""
    return bundle / "onnx" / f"model{suffix}.onnx"


def test_optimum_and_transformers_js_find_the_same_and_only_model(bundle: Path) -> None:
    assert _found_by_optimum(bundle) == _found_by_transformers_js(bundle)
    assert _found_by_optimum(bundle).is_file()
    # One file holds all: neither of them looks for external data that config.json does not announce.
    assert [file.name for file in (bundle / "onnx").iterdir()] == ["model.onnx"]


def test_configuration_at_the_top_is_one_that_transformers_reads(bundle: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(bundle)
    # OptimizedModel.from_pretrained (optimum/modeling_base.py) and transformers.js choose a class
    # by model_type; their text-classification pipelines take the labels' names from id2label.
    assert (config.model_type, config.id2label) == ("bert", {0: "0", 1: "1"})
    assert json.loads((bundle / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]


def test_model_takes_what_a_tokenizer_gives_and_gives_logits(bundle: Path) -> None:
    session = onnxruntime.InferenceSession(bundle / "onnx" / "model.onnx")
    # ORTModelForSequenceClassification.forward feeds these three by name and reads "logits".
    assert {i.name for i in session.get_inputs()} <= {"input_ids", "attention_mask", "token_type_ids"}
    assert {i.type for i in session.get_inputs()} == {"tensor(int64)"}
    assert [output.name for output in session.get_outputs()] == ["logits"]
    # Batch and length must be free: both pad to the longest text.
    feed = {i.name: np.ones((3, 7), dtype=np.int64) for i in session.get_inputs()}
    assert session.run(None, feed)[0].shape == (3, 2)


def test_tokenizer_of_transformers_cuts_where_the_bundles_own_does(bundle: Path) -> None:
    own = Tokenizer.from_file(str(bundle / "tokenizer.json")).encode(TEXT).ids
    theirs = transformers.AutoTokenizer.from_pretrained(bundle)(TEXT, truncation=True)["input_ids"]
    assert own == theirs
    assert len(own) == 12


def test_tokenizer_class_is_one_that_transformers_4_knows(bundle: Path, bert_directory: Path) -> None:
    before, after = (
        json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]
        for folder in (bert_directory, bundle)
    )
    assert (before, after) == ("TokenizersBackend", "PreTrainedTokenizerFast")


def test_every_file_may_be_read_by_whoever_may_read_the_bundle(bundle: Path) -> None:
    """A service seldom runs as who compressed the model; safetensors writes for the owner alone."""
    modes = {stat.S_IMODE(path.stat().st_mode) for path in bundle.rglob("*") if path.is_file()}
    assert modes == {stat.S_IMODE((bundle / "config.json").stat().st_mode)}


def test_a_bundle_of_vectors_has_what_its_clients_read(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    compress.export_model(write_sentence_folder(tmp_path / "st"), output)
    outputs = [
        each.name for each in onnxruntime.InferenceSession(output / "onnx" / "model.onnx").get_outputs()
    ]
    # sentence-transformers, and feature-extraction of transformers.js, pool the first of them.
    assert outputs == ["last_hidden_state", "sentence_embedding"]
    assert json.loads((output / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"] is True
    assert (output / "modules.json").is_file() and (output / "sentence_bert_config.json").is_file()
    # fastembed (common/preprocessor_utils.py) refuses a directory without these.
    settings = json.loads((output / "tokenizer_config.json").read_text())
    assert (settings["model_max_length"], settings["pad_token"]) == (24, "[PAD]")
    assert json.loads((output / "config.json").read_text())["pad_token_id"] == 0
