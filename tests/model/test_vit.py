"""Vision Transformers of Hugging Face: where they can be cut, and that what is cut is saved and loaded."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model import LoadedModel, ModelConfig, load_model, load_module, save_module, structure_of
from compress.model.cutting.depth import keep_layers_, layer_count
from compress.model.cutting.units import keep_units_
from compress.model.cutting.width import hidden_width, keep_features_
from compress.model.files.definition import definition_of
from compress.model.observe.capture import positions_of
from compress.tasks import Classification, InputSpec

KINDS = {
    "vit": ("vit", "ViTForImageClassification"),
    "deit": ("deit", "DeiTForImageClassification"),
    "deit-with-teacher": ("deit", "DeiTForImageClassificationWithTeacher"),
}


def _load(directory: Path, scratch: Path) -> LoadedModel:
    return load_model(ModelConfig.model_validate({"hf": str(directory)}), seed=0, scratch=scratch)


@pytest.fixture(scope="module", params=KINDS)
def directory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, write_vit: Callable[..., Path]
) -> Path:
    model_type, kind = KINDS[request.param]
    return write_vit(tmp_path_factory.mktemp("vit") / request.param, model_type, kind=kind)


@pytest.fixture
def loaded(directory: Path, tmp_path: Path) -> LoadedModel:
    return _load(directory, tmp_path)


def _answers(model: nn.Module) -> Tensor:
    pictures = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits: Tensor = model.eval()(pixel_values=pictures).logits
    return logits


def test_it_is_loaded_with_its_labels_and_its_way_to_read_pictures(loaded: LoadedModel) -> None:
    assert loaded.label_order == ("class-0", "class-1", "class-2")
    assert loaded.tokenizer is None and loaded.text_inputs == () and loaded.has_trained_head
    assert loaded.processor is not None
    assert (loaded.processor.result, loaded.processor.mean) == ((12, 12), (0.4, 0.5, 0.6))


def test_without_a_preprocessor_file_size_and_channels_are_the_models(
    vit_directory: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(vit_directory, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    processor = _load(bare, tmp_path).processor
    assert processor is not None
    assert (processor.result, processor.mean, processor.channels) == ((12, 12), (0.5,) * 3, 3)


def test_a_body_without_a_head_is_refused_unless_it_is_trained(vit_directory: Path, tmp_path: Path) -> None:
    body = shutil.copytree(vit_directory, tmp_path / "body")
    config = json.loads((body / "config.json").read_text())
    (body / "config.json").write_text(json.dumps({**config, "architectures": ["ViTModel"]}))
    with pytest.raises(ModelError, match=r"ViTModel.*model\.train"):
        _load(body, tmp_path)


def test_a_student_of_a_model_that_detectors_use_may_have_fewer_layers(
    write_vit: Callable[..., Path], tmp_path: Path
) -> None:
    directory = write_vit(tmp_path / "dinov2", "dinov2", kind="Dinov2ForImageClassification")
    definition = definition_of(_load(directory, tmp_path).module)
    assert definition is not None
    student = definition.changed({"num_hidden_layers": 1}).build()
    assert [type(each).__name__ for each in student.modules()].count("Dinov2Layer") == 1


@pytest.mark.usefixtures("cuttable_vit")
def test_structure_names_all_heads_neurons_and_layers(loaded: LoadedModel) -> None:
    structure = structure_of(loaded.module)
    assert [site.units(loaded.module) for site in structure.attention] == [4, 4, 4]
    assert [site.units(loaded.module) for site in structure.feed_forward] == [48, 48, 48]
    assert layer_count(loaded.module) == 3
    assert hidden_width(loaded.module) == 32


@pytest.mark.usefixtures("cuttable_vit")
def test_heads_and_neurons_that_are_cut_are_those_that_were_silenced(loaded: LoadedModel) -> None:
    for site in structure_of(loaded.module).sites:
        silent, cut = copy.deepcopy(loaded.module), copy.deepcopy(loaded.module)
        kept = [unit for unit in range(site.units(cut)) if unit % 3]
        consumer = silent.get_submodule(site.consumer)
        assert isinstance(consumer, nn.Linear)
        weight = consumer.weight.data.unflatten(1, (-1, site.unit_size))
        weight[:, [unit for unit in range(weight.shape[1]) if unit not in kept]] = 0
        keep_units_(cut, site, kept)
        # The same sums of some dozens of fp32 products in another order.
        torch.testing.assert_close(_answers(cut), _answers(silent), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(_answers(cut), _answers(loaded.module), atol=1e-3)


@pytest.mark.usefixtures("cuttable_vit")
def test_a_block_without_units_is_what_its_bias_adds(loaded: LoadedModel) -> None:
    for site in structure_of(loaded.module).sites[:2]:
        silent, cut = copy.deepcopy(loaded.module), copy.deepcopy(loaded.module)
        consumer = silent.get_submodule(site.consumer)
        assert isinstance(consumer, nn.Linear) and consumer.bias is not None
        consumer.weight.data.zero_()
        consumer.bias.data.fill_(0.3)
        bias = cut.get_submodule(site.consumer).bias
        assert isinstance(bias, nn.Parameter)
        bias.data.fill_(0.3)
        keep_units_(cut, site, [])
        torch.testing.assert_close(_answers(cut), _answers(silent), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("cuttable_vit")
def test_the_width_is_cut_with_tokens_and_positions_and_all_is_loaded_again(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    model = loaded.module
    tokens = [
        name for name, _ in model.named_parameters() if name.endswith(("_token", "position_embeddings"))
    ]
    keep_features_(model, range(1, 25))
    keep_units_(model, structure_of(model).attention[0], [1, 2])
    keep_units_(model, structure_of(model).feed_forward[1], [])
    keep_layers_(model, [0, 1])
    assert hidden_width(model) == 24
    assert len(tokens) >= 2
    assert all(model.get_parameter(name).shape[-1] == 24 for name in tokens)
    save_module(model, tmp_path)
    again = load_module(tmp_path)
    assert type(again) is type(model)
    torch.testing.assert_close(_answers(again), _answers(model), rtol=0, atol=0)


@pytest.mark.usefixtures("cuttable_vit")
def test_positions_of_a_picture_are_its_patches_and_tokens(vit_directory: Path, tmp_path: Path) -> None:
    model = _load(vit_directory, tmp_path).module
    task = Classification((InputSpec("pixel_values", "float32", (3, 12, 12)),), ("a", "b", "c"))
    row = {"pixel_values": torch.zeros(3, 12, 12).numpy()}
    assert positions_of(model, structure_of(model).sites, row, task) == 3 * 3 + 1
    assert positions_of(model, (), row, task) is None


@pytest.mark.usefixtures("cuttable_vit")
def test_a_transformers_whose_heads_cannot_be_cut_is_named(vit_directory: Path, tmp_path: Path) -> None:
    model = _load(vit_directory, tmp_path).module
    model.vit.encoder = nn.Module()  # where layers were before
    model.vit.encoder.layer, model.vit.layers = model.vit.layers, None
    del model.vit.layers
    with pytest.raises(ModelError, match=r"vit .*transformers 5\.10 or newer"):
        structure_of(model)
