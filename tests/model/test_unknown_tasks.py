"""Models of tasks that are not known, as transformers saves them: refused by name, before work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from compress.errors import ModelError
from compress.pipeline import export_model
from compress.pipeline.prepare import Run, prepare
from compress.recipe import load_recipe

from ..hf_families import FAMILIES, write_family

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 30,
    "max_position_embeddings": 40,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 30}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
TWO = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": 30,
    **ENDS,
}
WHISPER = {**TWO, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20}
SOUND = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (16, 16),
    "conv_stride": (2, 2),
    "conv_kernel": (3, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
_TEXT = {name: BERT[name] for name in BERT if name != "max_position_embeddings"}
CLIP = {
    "text_config": {**_TEXT, "max_position_embeddings": 40},
    "vision_config": {**_TEXT, "image_size": 8, "patch_size": 4},
    "projection_dim": 16,
}
MODELS: dict[str, tuple[str, dict[str, object], str]] = {
    "BertForQuestionAnswering": ("BertConfig", BERT, "question answering"),
    "BertForMultipleChoice": ("BertConfig", BERT, "multiple choice"),
    "T5ForConditionalGeneration": ("T5Config", T5, "sequence-to-sequence"),
    "T5ForSequenceClassification": ("T5Config", T5, "sequence-to-sequence"),
    "MarianMTModel": ("MarianConfig", TWO, "sequence-to-sequence"),
    "WhisperForConditionalGeneration": ("WhisperConfig", WHISPER, "speech"),
    "Wav2Vec2ForSequenceClassification": ("Wav2Vec2Config", SOUND, "speech"),
    "Wav2Vec2Model": ("Wav2Vec2Config", SOUND, "speech"),
}
ENCODERS: dict[str, tuple[str, dict[str, object], str]] = {
    "BertForMaskedLM": ("BertConfig", BERT, "masked language modelling"),
    "BertForPreTraining": ("BertConfig", BERT, "pretraining"),
}


@pytest.fixture(scope="module")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the directory of a model, with a tokenizer."""
    root = tmp_path_factory.mktemp("unknown")
    tokenizer = write_family(root / "tokenizer", FAMILIES["bert"])
    both = {**MODELS, **ENCODERS, "CLIPModel": ("CLIPConfig", CLIP, "")}

    def make(name: str) -> Path:
        config, sizes, _ = both[name]
        if not (root / name).exists():
            left = shutil.ignore_patterns("config.json", "*.safetensors")
            shutil.copytree(tokenizer, root / name, ignore=left)
            model = getattr(transformers, name)(getattr(transformers, config)(**sizes))
            model.save_pretrained(root / name)
        return root / name

    return make


def _prepared(model: Path, tmp_path: Path, *, train: bool) -> Run:
    rows = tmp_path / "rows.csv"
    words = ("good", "bad")
    rows.write_text("text,label\n" + "".join(f"{x} film {row},{x}\n" for x in words for row in range(20)))
    trained = ", train: {epochs: 1}" if train else ""
    (tmp_path / "r.yaml").write_text(
        f"model: {{hf: {model}{trained}}}\ndata: {{source: file, train: {rows}, max_length: 8}}\n"
        "stages: [quantize/int8_dynamic]\n"
    )
    return prepare(load_recipe(tmp_path / "r.yaml"), tmp_path)


@pytest.mark.parametrize("name", list(MODELS))
def test_it_is_refused_by_name_by_run_trained_or_not_and_by_export(
    name: str, directory_of: Callable[[str], Path], tmp_path: Path
) -> None:
    model, task = directory_of(name), MODELS[name][2]
    for train in (False, True):
        with pytest.raises(ModelError, match=task):
            _prepared(model, tmp_path, train=train)
    with pytest.raises(ModelError, match=task):
        export_model(model, tmp_path / "out", max_length=8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", list(ENCODERS))
def test_a_new_head_on_an_encoder_is_said_before_work_and_only_with_training(
    name: str, directory_of: Callable[[str], Path], tmp_path: Path
) -> None:
    model, task = directory_of(name), ENCODERS[name][2]
    with pytest.raises(ModelError, match=task):
        _prepared(model, tmp_path, train=False)
    with pytest.raises(ModelError, match=task):
        export_model(model, tmp_path / "out", max_length=8)
    first, *_ = _prepared(model, tmp_path, train=True).notes
    assert task in first and "new head" in first


def test_two_towers_are_no_classifier_of_texts(directory_of: Callable[[str], Path], tmp_path: Path) -> None:
    model = directory_of("CLIPModel")
    for work in (
        lambda: _prepared(model, tmp_path, train=False),
        lambda: export_model(model, tmp_path / "out", max_length=8),
    ):
        with pytest.raises(ModelError, match="CLIP"):
            work()
    with pytest.raises(ModelError, match="images"):
        _prepared(model, tmp_path, train=True)
