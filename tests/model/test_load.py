"""Models load from local Hugging Face directories; what is wrong with one is said in a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.errors import ModelError
from compress.model import LoadedModel, ModelConfig, load_model
from compress.model.load import task_of


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


def test_pickled_weights_are_not_read(bert_directory: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(bert_directory, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot load the Hugging Face model"):
        load_hf(pickled, tmp_path)


def _changed(directory: Path, to: Path, **settings: object) -> Path:
    shutil.copytree(directory, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **settings}))
    return to


def _notes_or_refusal(directory: Path, scratch: Path, **more: object) -> tuple[str, ...] | str:
    try:
        return load_hf(directory, scratch, **more).notes
    except ModelError as error:
        return str(error)


TRAIN = {"epochs": 1}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"architectures": ["BertForTokenClassification"]}, "token classification"),
        ({"architectures": ["BertForQuestionAnswering"]}, "question answering"),
        ({"architectures": ["BertForMultipleChoice"]}, "multiple choice"),
        (
            {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "sequence-to-sequence",
        ),
        ({"model_type": "t5", "classifier_dropout": 0.0}, "sequence-to-sequence"),
        ({"model_type": "bart", "architectures": ["BartModel"]}, "sequence-to-sequence"),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "speech"),
        ({"architectures": ["Wav2Vec2ForCTC"]}, "speech"),
        ({"architectures": ["YolosForObjectDetection"]}, "object detection"),
        ({"architectures": ["SegformerForSemanticSegmentation"]}, "segmentation"),
        ({"problem_type": "regression"}, "regression"),
        ({"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}, "num_labels: 1"),
        ({"problem_type": "multi_label_classification"}, "multi-label"),
    ],
)
def test_a_model_for_another_task_is_refused_by_its_name_trained_or_not(
    bert_directory: Path, tmp_path: Path, settings: dict[str, object], name: str
) -> None:
    other = _changed(bert_directory, tmp_path / "other", **settings)
    for train in (None, TRAIN):
        said = _notes_or_refusal(other, tmp_path, train=train)
        assert isinstance(said, str) and name in said


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"architectures": ["BertModel"]}, "pretraining"),
        ({"architectures": None}, "pretraining"),
        ({"architectures": ["BertForMaskedLM"]}, "masked language modelling"),
        ({"architectures": ["BertForNextSentencePrediction"]}, "next sentence prediction"),
        ({"architectures": ["BertLMHeadModel"]}, "language modelling"),
        ({"architectures": ["BertForSomething"]}, "another task"),
    ],
)
def test_a_head_is_trained_on_an_encoder_and_a_note_says_so(
    bert_directory: Path, tmp_path: Path, settings: dict[str, object], name: str
) -> None:
    other = _changed(bert_directory, tmp_path / "other", **settings)
    (note,) = _notes_or_refusal(other, tmp_path, train=TRAIN)
    assert name in note
    said = _notes_or_refusal(other, tmp_path)
    assert isinstance(said, str) and name in said and "model.train" in said


@pytest.mark.parametrize("has_config", [True, False])
def test_a_sentence_transformer_is_named_as_one(
    bert_directory: Path, tmp_path: Path, has_config: bool
) -> None:
    other = _changed(bert_directory, tmp_path / "other", architectures=["BertModel"])
    (other / "modules.json").write_text("[]")
    if has_config:
        (note,) = _notes_or_refusal(other, tmp_path, train=TRAIN)
        assert "sentence embedding" in note
    else:
        (other / "config.json").unlink()
    said = _notes_or_refusal(other, tmp_path)
    assert isinstance(said, str) and "sentence embedding" in said


def test_a_single_label_classifier_has_no_notes(bert_directory: Path, tmp_path: Path) -> None:
    settings = {"problem_type": "single_label_classification"}
    assert _notes_or_refusal(_changed(bert_directory, tmp_path / "same", **settings), tmp_path) == ()


def test_a_bundle_of_one_logit_is_refused(bert_directory: Path, tmp_path: Path) -> None:
    from compress.pipeline import export_model

    export_model(bert_directory, tmp_path / "bundle", max_length=16)
    manifest = tmp_path / "bundle" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "labels": ["LABEL_0"]}))
    with pytest.raises(ModelError, match="num_labels: 1"):
        load_model(ModelConfig.model_validate({"bundle": tmp_path / "bundle"}), seed=0, scratch=tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """A function that puts a directory into an empty cache of the Hub under a name; there is no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read once, when it is imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str, directory: Path) -> None:
        folder = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(directory, folder / "snapshots" / ("0" * 40))
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0" * 40)

    return put


def test_a_name_on_the_hub_says_its_task_as_a_directory_does(
    bert_directory: Path, tmp_path: Path, hub: Callable[[str, Path], None]
) -> None:
    hub("org/reader", bert_directory)
    hub("org/writer", _changed(bert_directory, tmp_path / "a", architectures=["BertLMHeadModel"]))
    hub("org/tagger", _changed(bert_directory, tmp_path / "b", architectures=["BertForTokenClassification"]))
    for name, task in (("reader", "classification"), ("writer", "language-modelling")):
        assert task_of(ModelConfig(hf=f"org/{name}")) == task
    assert load_hf("org/reader", tmp_path).has_trained_head
    with pytest.raises(ModelError, match="token classification"):
        load_hf("org/tagger", tmp_path)
    with pytest.raises(ModelError, match="org/gone"):
        task_of(ModelConfig(hf="org/gone"))


@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",)])
def test_a_directory_without_a_tokenizer_is_refused_with_the_files_looked_for(
    bert_directory: Path, tmp_path: Path, left: tuple[str, ...]
) -> None:
    bare = Path(shutil.copytree(bert_directory, tmp_path / "bare"))
    for file in bare.glob("*token*"):
        if file.name not in left:
            file.unlink()
    with pytest.raises(ModelError, match=r"no tokenizer.*tokenizer\.json, .*vocab"):
        load_hf(bare, tmp_path)
