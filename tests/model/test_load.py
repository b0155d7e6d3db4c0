"""Models load from local Hugging Face directories; what is wrong with one is said in a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compress.data import TextEncoder
from compress.errors import ModelError
from compress.model import LoadedModel, ModelConfig, load_model
from compress.model.files.definition import definition_of
from compress.model.files.load import task_of
from compress.model.files.save import load_module, save_module

from ..hf_families import FAMILIES, write_family


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
    with pytest.raises(ModelError, match="nobody/nothing-here"):
        load_hf("nobody/nothing-here", tmp_path)


def test_a_corrupt_safetensors_file_is_one_clear_error(bert_directory: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(bert_directory, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"broken"):
        load_hf(broken, tmp_path)


def test_a_bundle_is_not_taken_for_a_hugging_face_model(bert_directory: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(bert_directory, tmp_path / "bundle")
    for folder in ("onnx", "pytorch"):
        (bundle / folder).mkdir()
    (bundle / "model.safetensors").rename(bundle / "pytorch" / "model.safetensors")
    (bundle / "manifest.json").write_text("{}")
    for asked in (lambda: task_of(ModelConfig(hf=str(bundle))), lambda: load_hf(bundle, tmp_path)):
        with pytest.raises(ModelError) as refused:
            asked()
        assert (refused.value.key, refused.value.value) == ("model.hf", str(bundle))
        assert f"model.bundle={bundle}" in str(refused.value)
    # With weights beside it, it is a model that another tool added a manifest to.
    shutil.copy(bert_directory / "model.safetensors", bundle)
    assert load_hf(bundle, tmp_path).label_order == ("0", "1")


def _quantized(directory: Path) -> str:
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (directory / "config.json").write_text(json.dumps(config))
    return "gptq"


def _without_a_shard(directory: Path) -> str:
    weights = load_file(directory / "model.safetensors")
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    at = {name: first if index % 2 else second for index, name in enumerate(sorted(weights))}
    save_file({name: weights[name] for name in weights if at[name] == first}, directory / first)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": at}))
    (directory / "model.safetensors").unlink()
    return second


def _adapter(directory: Path) -> str:
    (directory / "config.json").unlink()
    settings = {"base_model_name_or_path": "some/base", "peft_type": "LORA"}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return "some/base"


def _without_weights(directory: Path) -> str:
    (directory / "model.safetensors").unlink()
    return "model.safetensors"


def test_a_tokenizer_that_only_sentencepiece_can_read_says_so(
    bert_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(bert_directory, tmp_path / "pieces")
    for file in directory.glob("*token*"):
        file.unlink()
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "AlbertTokenizer"}))
    (directory / "spiece.model").write_bytes(b"\n\x00")
    monkeypatch.setattr("compress.model.files.hf.own_tokenizer.find_spec", lambda name: None)
    with pytest.raises(ModelError) as caught:
        load_hf(directory, tmp_path)
    assert "spiece.model" in str(caught.value) and "sentencepiece" in str(caught.value)


@pytest.mark.parametrize("spoil", [_quantized, _without_a_shard, _adapter, _without_weights])
def test_weights_that_cannot_be_used_are_refused_with_what_is_wrong(
    bert_directory: Path, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    directory = shutil.copytree(bert_directory, tmp_path / "spoiled")
    named = spoil(directory)
    with pytest.raises(ModelError) as caught:
        load_hf(directory, tmp_path)
    assert named in str(caught.value) and "model.hf" in str(caught.value.problems[0].key)


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
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
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
        ({"architectures": ["BertForTokenClassification"]}, "token labels"),
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
        ({"model_type": "hubert", "architectures": ["HubertForSequenceClassification"]}, "speech"),
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
    for name, task in (
        ("reader", "classification"),
        ("writer", "language-modelling"),
        ("tagger", "token-labels"),
    ):
        assert task_of(ModelConfig(hf=f"org/{name}")) == task
    assert load_hf("org/reader", tmp_path).has_trained_head
    with pytest.raises(ModelError, match="token labels"):
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


def _changed_weights(directory: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _lacks_its_head(weights: dict[str, Tensor]) -> None:
    del weights["classifier.weight"]


def _has_another_shape(weights: dict[str, Tensor]) -> None:
    weights["classifier.weight"] = torch.zeros(5, 32)


def _has_more_layers(weights: dict[str, Tensor]) -> None:
    weights["bert.encoder.layer.2.output.dense.weight"] = torch.zeros(32, 64)


def _has_an_adapter(weights: dict[str, Tensor]) -> None:
    name = "bert.encoder.layer.0.attention.self.query"
    weights[f"{name}.base_layer.weight"] = weights.pop(f"{name}.weight")
    weights[f"{name}.lora_A.default.weight"] = torch.zeros(2, 32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_lacks_its_head, r"lack .*classifier\.weight"),
        (_has_another_shape, r"classifier\.weight.*is \[5.*32\].*needs \[2.*32\]"),
        (_has_more_layers, r"layer\.2\.output\.dense\.weight"),
        (_has_an_adapter, "adapter"),
    ],
)
def test_weights_that_are_not_the_model_s_are_refused(
    change: Callable[[dict[str, Tensor]], None], said: str, bert_directory: Path, tmp_path: Path
) -> None:
    directory = shutil.copytree(bert_directory, tmp_path / "changed")
    _changed_weights(directory, change)
    with pytest.raises(ModelError, match=said):
        load_hf(directory, tmp_path)


def test_weights_that_no_answer_depends_on_may_be_there(bert_directory: Path, tmp_path: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        weights["bert.embeddings.position_ids"] = torch.arange(40)[None]
        weights["cls.seq_relationship.bias"] = torch.zeros(2)  # of a head that was taken off

    directory = shutil.copytree(bert_directory, tmp_path / "changed")
    _changed_weights(directory, change)
    ids = torch.tensor([[2, 7, 8, 3]])
    changed, whole = (load_hf(each, tmp_path).module for each in (directory, bert_directory))
    assert torch.equal(changed(input_ids=ids).logits, whole(input_ids=ids).logits)


def test_a_head_that_is_still_to_be_trained_may_be_missing_and_nothing_else(
    bert_directory: Path, tmp_path: Path
) -> None:
    def takes_the_head_off(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.startswith("classifier") or "pooler" in name]:
            del weights[name]

    def takes_a_layer_off(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if "layer.1." in name]:
            del weights[name]

    directory = shutil.copytree(bert_directory, tmp_path / "body")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    _changed_weights(directory, takes_the_head_off)
    training = {"train": {"epochs": 1}}
    assert not load_hf(directory, tmp_path, **training).has_trained_head
    _changed_weights(directory, takes_a_layer_off)
    with pytest.raises(ModelError, match=r"lack .*encoder\.layer\.1"):
        load_hf(directory, tmp_path, **training)


def test_a_language_model_s_tied_head_is_not_missing(tmp_path: Path) -> None:
    directory = write_family(tmp_path / "gpt2", FAMILIES["gpt2"], decoder=True)
    assert "lm_head.weight" not in load_file(directory / "model.safetensors")
    config = ModelConfig.model_validate({"hf": str(directory)})
    load_model(config, seed=0, scratch=tmp_path, task="language-modelling")
    _changed_weights(directory, lambda weights: weights.__delitem__("transformer.wte.weight"))
    with pytest.raises(ModelError, match="lack tensors"):
        load_model(config, seed=0, scratch=tmp_path, task="language-modelling")


def test_an_image_model_without_attention_is_loaded(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    loaded = load_hf(tmp_path / "resnet", tmp_path)
    assert loaded.processor is not None and loaded.label_order is not None and len(loaded.label_order) == 3
    again = definition_of(loaded.module)
    assert again is not None and type(again.build()) is type(loaded.module)


def test_a_classifier_that_answers_at_the_last_token_needs_the_tokenizer_s_pad_token(tmp_path: Path) -> None:
    for pad_id, said in ((None, "without a pad token"), (0, "padded rows wrongly")):
        directory = write_family(tmp_path / str(pad_id), FAMILIES["llama"], pad_token_id=pad_id)
        with pytest.raises(ModelError, match=f"{said}.* pad_token_id .* to 3"):
            load_hf(directory, tmp_path)


def test_without_a_pad_token_of_its_own_a_tokenizer_fills_with_the_model_s(tmp_path: Path) -> None:
    directory = write_family(tmp_path / "gpt2", FAMILIES["gpt2"])
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (directory / name).is_file():
            said = json.loads((directory / name).read_text())
            said.pop("pad_token", None)
            (directory / name).write_text(json.dumps(said))
    loaded = load_hf(directory, tmp_path)
    assert loaded.tokenizer is not None
    assert TextEncoder.from_directory(loaded.tokenizer).pad_id == 3


def test_the_tokenizer_that_is_shipped_is_the_one_that_transformers_loads(tmp_path: Path) -> None:
    """Of a class that lowers all letters, which tokenizer.json alone doesn't do."""
    from transformers import AutoTokenizer

    directory = write_family(tmp_path / "bert", FAMILIES["bert"])
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": "BertTokenizer"}))
    wanted = AutoTokenizer.from_pretrained(directory)("A Good film")["input_ids"]
    loaded = load_hf(directory, tmp_path)
    assert loaded.tokenizer is not None
    ours, theirs = (TextEncoder.from_directory(each) for each in (loaded.tokenizer, directory))
    assert ours.tokenizer.encode("A Good film").ids == wanted
    assert theirs.tokenizer.encode("A Good film").ids != wanted, "vacuous"


PARTS_OF_ONE = """
import torch
from torch import nn

def build():
    joined = torch.randn(6, 4)
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2))
    model[0].weight = nn.Parameter(joined[:3])
    return model
"""


def test_weights_that_are_parts_of_one_tensor_are_saved(tmp_path: Path) -> None:
    """As transformers leaves them where it splits a checkpoint's joined queries, keys and values."""
    (tmp_path / "parts.py").write_text(PARTS_OF_ONE)
    config = ModelConfig.model_validate({"file": str(tmp_path / "parts.py"), "builder": "build"})
    module = load_model(config, seed=0, scratch=tmp_path).module
    (tmp_path / "saved").mkdir()
    save_module(module, tmp_path / "saved")
    x = torch.rand(2, 4)
    assert torch.equal(load_module(tmp_path / "saved")(x), module(x))
