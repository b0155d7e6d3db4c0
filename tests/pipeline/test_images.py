"""Pictures from folder to bundle: a vision Transformer is trained, cut, exported, measured and deployed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import compress
from compress.data import ImagesData, load_splits
from compress.errors import DataError, ModelError, RecipeError
from compress.model import ModelConfig, load_model, logits, predict_logits
from compress.pipeline import export_model
from compress.pipeline.prepare import prepare
from compress.recipe import load_recipe
from compress.report import load_report

PATCHES = "vit.embeddings.patch_embeddings.projection"
LEFT = {PATCHES, "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
CNN = Path(__file__).resolve().parents[2] / "models" / "cnn.py"
TRAIN = {"epochs": 2, "batch_size": 16, "learning_rate": 2e-3, "precision": "fp32"}


@pytest.fixture(scope="module")
def ran(
    cuttable_vit: None,
    vit_directory: Path,
    pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
    write_recipe: Callable[..., Path],
) -> Path:
    folder = tmp_path_factory.mktemp("images")
    recipe = write_recipe(
        folder / "vit.yaml",
        {"prune/heads": {"sparsity": 0.5}},
        "quantize/int8_dynamic",
        name="vit",
        model={"hf": str(vit_directory), "train": TRAIN},
        data={"source": "images", "train": str(pictures)},
        measure={
            **{"batch": [1], "threads": [1], "rounds": 3, "seconds": 0.01, "ladder": False},
            "runtimes": ["onnxruntime"],
        },
    )
    return compress.run(recipe, folder / "reports").directory


def test_a_bundle_of_a_vision_transformer_is_smaller_and_says_how_it_reads(ran: Path) -> None:
    report = load_report(ran)
    assert report.measurement.candidate.size.file_bytes < report.measurement.baseline.size.file_bytes
    assert sum(kept for kept in report.stages[0].facts["heads_kept"]) == 6  # half of 3 layers of 4
    assert report.measurement.latency[0].sequence is None
    left = report.stages[1].facts["left_float"]
    assert {*left} == LEFT and left[PATCHES] == "this stage leaves convolutions float"
    settings = json.loads((ran / "preprocessor_config.json").read_text())
    assert settings["image_processor_type"] == "ViTImageProcessor"
    assert (settings["size"], settings["image_mean"]) == ({"height": 12, "width": 12}, [0.4, 0.5, 0.6])
    manifest = json.loads((ran / "manifest.json").read_text())
    assert manifest["inputs"][0]["shape"] == ["batch_size", 3, 12, 12]
    assert manifest["image"]["colours"] == "RGB"
    assert "preprocessor_config.json" in manifest["accuracy"]["how"]
    config = json.loads((ran / "config.json").read_text())
    assert (config["model_type"], config["id2label"]["2"]) == ("vit", "class-2")


def test_the_program_in_the_card_answers_as_the_bundles_module_does(
    ran: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card = (ran / "README.md").read_text()
    assert "pip install numpy onnxruntime pillow" in card and "pipeline_tag: image-classification" in card
    (program,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    deployed = shutil.copytree(ran, tmp_path / "bundle")
    monkeypatch.chdir(deployed)
    found = load_model(ModelConfig(bundle=deployed), seed=0, scratch=tmp_path)
    assert found.processor is not None and found.label_order is not None
    for file in sorted(pictures.rglob("0[0-3].png")):
        shutil.copy(file, "image.png")
        namespace: dict[str, Any] = {}
        exec(compile(program, "README.md", "exec"), namespace)
        values = found.processor.values(found.processor.pixels(namespace["image"]))[None]
        np.testing.assert_allclose(namespace["feed"]["pixel_values"], values, rtol=1e-5, atol=1e-5)
        with torch.inference_mode():
            label = int(logits(found.module, {"pixel_values": torch.from_numpy(values)}).argmax())
        assert capsys.readouterr().out.strip() == found.label_order[label]


def test_the_file_takes_any_batch(ran: Path) -> None:
    session = onnxruntime.InferenceSession(ran / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("pixel_values", ["batch_size", 3, 12, 12])
    rows = np.zeros((5, 3, 12, 12), np.float32)
    assert session.run(None, {"pixel_values": rows})[0].shape == (5, 3)


def test_a_bundle_reads_pictures_as_it_did_before(ran: Path, pictures: Path, tmp_path: Path) -> None:
    loaded = load_model(ModelConfig(bundle=ran), seed=0, scratch=tmp_path)
    again = load_splits(ImagesData(train=pictures), label_order=loaded.label_order, reader=loaded.processor)
    assert load_report(ran).data.test_fingerprint == again.test.fingerprint()


def test_a_directory_is_exported_on_made_up_pictures(vit_directory: Path, tmp_path: Path) -> None:
    parity = export_model(vit_directory, tmp_path / "fp32")
    assert parity["agreement"] == 1
    manifest = json.loads((tmp_path / "fp32" / "manifest.json").read_text())
    assert manifest["parity"]["rows_from"] == "synthetic rows (random pixels), not real ones"
    assert manifest["max_length"] is None and (tmp_path / "fp32" / "preprocessor_config.json").is_file()


@pytest.mark.parametrize("stage", [compress.Int8Static(calibration_rows=16), compress.Float16()])
def test_a_stage_that_takes_convolutions_leaves_the_one_whose_weight_is_read_elsewhere(
    stage: compress.Stage, vit_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    loaded = load_model(ModelConfig(hf=str(vit_directory)), seed=0, scratch=tmp_path)
    splits = load_splits(ImagesData(train=pictures), reader=loaded.processor)
    context = compress.Context(task=splits.task, train=splits.train, validation=splits.validation)
    result = stage.apply(loaded.module, context)
    made = result.model
    left = result.facts["left_float"]
    assert {*left} == LEFT and left[PATCHES] == "the model reads its weight's type itself"
    before, after = (predict_logits(each, splits.test, splits.task) for each in (loaded.module, made))
    assert not torch.equal(before, after)
    # Integers of a tiny random model are coarse: what counts is that it is the same model still.
    assert float((before - after).abs().max()) < 0.2 * float(before.abs().max())


@pytest.fixture
def prepared(tmp_path: Path, write_recipe: Callable[..., Path]) -> Callable[..., object]:
    def at(**parts: Any) -> object:
        return prepare(load_recipe(write_recipe(tmp_path / "r.yaml", **parts)), tmp_path)

    return at


def test_pictures_for_a_model_of_texts_and_the_reverse(
    prepared: Callable[..., object],
    bert_directory: Path,
    vit_directory: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    images = {"source": "images", "train": str(pictures)}
    with pytest.raises(ModelError, match=r"'bert' .*input_ids.*data\.source images .*pixel_values"):
        prepared(model={"hf": str(bert_directory)}, data=images)
    with pytest.raises(ModelError, match=r"patch_classifier .*features"):
        prepared(data=images)
    (tmp_path / "rows.csv").write_text("text,label\na,0\n")
    with pytest.raises(ModelError, match=r"'vit' .*pixel_values.*data\.source file"):
        prepared(model={"hf": str(vit_directory)}, data={"source": "file", "train": "rows.csv"})


def test_pictures_of_another_size_than_the_models(
    prepared: Callable[..., object], vit_directory: Path, pictures: Path
) -> None:
    with pytest.raises(ModelError, match=r"8x8 .*3 channels.*data\.size.*data\.channels"):
        prepared(
            model={"hf": str(vit_directory)}, data={"source": "images", "train": str(pictures), "size": 8}
        )


def test_a_folder_that_is_not_there_and_calibrating_on_texts(
    prepared: Callable[..., object],
    vit_directory: Path,
    pictures: Path,
    tmp_path: Path,
    write_recipe: Callable[..., Path],
) -> None:
    with pytest.raises(DataError, match=r"data\.train: .*nowhere .*data\.train=DIR"):
        prepared(model={"hf": str(vit_directory)}, data={"source": "images", "train": "nowhere"})
    stage = {"quantize/int8_static": {"calibration": "synthetic"}}
    recipe = write_recipe(tmp_path / "s.yaml", stage, data={"source": "images", "train": str(pictures)})
    with pytest.raises(RecipeError, match="train"):
        load_recipe(recipe)


def test_a_users_own_network_reads_a_folder(prepared: Callable[..., Any], pictures: Path) -> None:
    found = prepared(
        model={
            "file": str(CNN),
            "builder": "image_classifier",
            "args": {"output_dim": 3, "channels": 1, "widths": [4, 4], "blocks": 1},
        },
        data={"source": "images", "train": str(pictures), "size": [10, 8], "channels": 1},
    )
    assert found.splits.task.inputs[0].shape == (1, 10, 8)
