"""Sentence embedders through the whole pipeline: run, check, export, bundle, and every kind of stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

import compress
from compress.errors import DataError, RecipeError
from compress.export import ONNX_PATH, export_onnx
from compress.export.parity import check_parity
from compress.pipeline import inspection_recipe
from compress.pipeline.bundles.check import check_bundle
from compress.pipeline.bundles.export import export_model
from compress.pipeline.prepare import prepare
from compress.pipeline.run import run
from compress.recipe import load_recipe
from compress.registry import stage_class
from compress.stage import Context
from tests.hf_families import WORDS
from tests.inspecting import inspected
from tests.sentence_folders import prepared_embedder, write_sentence_folder, write_texts


def _recipe(folder: Path, stage: str, settings: dict[str, Any], **model: Any) -> Path:
    write_texts(folder / "texts.txt", 150)
    lines = {
        "model": {"hf": str(folder / "st"), **model},
        "data": {"source": "file", "task": "embedding", "train": str(folder / "texts.txt")},
        "stages": [{stage: settings}],
        "measure": {"batch": [1], "threads": [1], "rounds": 3, "seconds": 0.001},
        "gates": {"max_accuracy_drop": 0.5},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(lines), encoding="utf-8")  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_sentence_folder(folder / "st", dense=(16,))
    return run(_recipe(folder, "quantize/int8_dynamic", {}), folder / "out").directory


def test_an_inspection_counts_kept_neighbours(tmp_path: Path) -> None:
    write_sentence_folder(tmp_path / "st", dense=(16,))
    recipe = load_recipe(_recipe(tmp_path, "quantize/int8_dynamic", {}))
    found = inspected(recipe, tmp_path / "cache", quick=False)
    assert found.accuracy == 1 and found.quantization and not found.notes


def test_an_inspection_of_queries_and_documents_is_in_terms_of_search(tmp_path: Path) -> None:
    write_sentence_folder(tmp_path / "st", dense=(16,))
    draw = np.random.default_rng(0)
    for part in ("train", "validation", "test"):
        lines = ["query,document"]
        for number in range(30):
            words = draw.choice(WORDS, 6)
            lines.append(f"{' '.join(words)},{' '.join(words[:4])} {part} {number}")
        (tmp_path / f"{part}.csv").write_text("\n".join(lines), encoding="utf-8")
    files = [f"data.{part}={tmp_path / part}.csv" for part in ("train", "validation", "test")]
    kind = ["data.source=file", "data.task=embedding", "data.text=[query,document]"]
    recipe = inspection_recipe(str(tmp_path / "st"), [*kind, *files])
    found = inspected(recipe, tmp_path / "cache", ties=True)
    assert (found.task, found.metric, found.unit) == ("embedding", "nDCG@10", "query")
    assert found.words.scale.name == "number" and 0 < found.accuracy < 1


def test_a_run_judges_vectors_by_the_originals(finished: Path) -> None:
    measured = compress.load_report(finished).measurement
    assert measured.task == "embedding" and measured.answers is None and measured.labels == ()
    assert measured.baseline.accuracy.value == pytest.approx(1, abs=0.02)
    assert 0.5 < measured.candidate.accuracy.value <= 1 and measured.candidate.accuracy.correct is None
    assert measured.chance is not None and measured.chance.value < 0.6 < 0.4 + measured.chance.candidate.value
    assert measured.breakdown is not None
    cosine = measured.breakdown.rows[0]
    assert cosine[:2] == ("mean cosine", "1.0000") and 0.95 < float(cosine[2]) <= 1
    text = (finished / "report.md").read_text(encoding="utf-8")
    assert "mean cosine" in text and 'session.run(["sentence_embedding"]' in text
    assert {gate.name: gate.holds for gate in compress.load_report(finished).gates}["above_commonest"]


def test_the_file_has_states_and_vectors_and_the_bundle_says_how(finished: Path) -> None:
    session = ort.InferenceSession(finished / ONNX_PATH, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_outputs()] == ["last_hidden_state", "sentence_embedding"]
    ids = np.array([[2, 6, 7, 8, 3], [2, 9, 3, 0, 0]])
    feed = {"input_ids": ids, "attention_mask": (ids != 0) * 1, "token_type_ids": ids * 0}
    states, vectors = session.run(None, feed)
    module = compress.load(finished)
    with torch.no_grad():
        wanted = module(**{name: torch.from_numpy(each) for name, each in feed.items()})
    # int8 layers may round a value the other way.
    assert np.allclose(vectors, wanted.sentence_embedding, atol=0.05)
    assert np.allclose(states[0], wanted.last_hidden_state[0], atol=0.3)
    manifest = json.loads((finished / "manifest.json").read_text())
    assert (manifest["pooling"], manifest["normalize"], manifest["dimensions"]) == ("mean", True, 16)
    assert [each["name"] for each in manifest["outputs"]] == ["last_hidden_state", "sentence_embedding"]
    config = json.loads((finished / "config.json").read_text())
    assert config["architectures"] == ["BertModel"] and config["model_type"] == "bert"
    assert (finished / "2_Dense/model.safetensors").is_file() and (finished / "modules.json").is_file()


def test_a_bundle_is_checked_against_the_recipes_model_and_against_a_baseline(
    finished: Path, tmp_path: Path
) -> None:
    report = check_bundle(finished, values=["gates.max_accuracy_drop=null"])
    assert all(check.holds for check in report.checks)
    assert any("as reported" in check.name for check in report.checks)
    export_model(finished.parents[1] / "st", tmp_path / "baseline")
    against = check_bundle(finished, tmp_path / "baseline")
    assert against.measurement is not None and against.measurement.baseline.accuracy.value > 0.98
    assert against.measurement.candidate.accuracy.value < 1


def test_a_directory_is_exported_without_data(tmp_path: Path) -> None:
    folder = write_sentence_folder(tmp_path / "st", family="mpnet", pooling="max_tokens")
    parity = export_model(folder, tmp_path / "bundle")
    assert parity["agreement"] == 1 and abs(parity["metric_difference"]) < 0.02
    manifest = json.loads((tmp_path / "bundle/manifest.json").read_text())
    assert (manifest["task"], manifest["pooling"], manifest["max_length"]) == ("embedding", "max", 24)


def test_what_needs_labels_is_refused_before_work(tmp_path: Path) -> None:
    write_sentence_folder(tmp_path / "st")
    trained = load_recipe(_recipe(tmp_path, "quantize/int8_dynamic", {}, train={"epochs": 1}))
    with pytest.raises(RecipeError, match=r"model\.train"):
        prepare(trained, tmp_path)
    path = _recipe(tmp_path, "quantize/int8_dynamic", {})
    with pytest.raises(RecipeError, match=r"label"):
        load_recipe(path, ["data.label=score"])
    with pytest.raises(DataError):
        prepare(load_recipe(path, [f"data.test={tmp_path / 'texts.txt'}"]), tmp_path)


STAGES: dict[str, dict[str, Any]] = {
    "prune/heads": {"sparsity": 0.5},
    "prune/width": {"width": 16},
    "prune/structured": {"sparsity": 0.4, "recovery": {"epochs": 1}},
    "prune/vocabulary": {},
    "prune/magnitude": {"sparsity": 0.3},
    "quantize/int8_static": {},
    "quantize/int4_weight_only": {},
    "quantize/mixed": {},
    "distill/student": {
        "student": {"layers": 1},
        "train": {"epochs": 1},
        "losses": {"logits": 1, "similarity": 1, "hidden": 1, "relations": 1, "embedding": 1},
    },
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Context]:
    return prepared_embedder(tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize("name", STAGES)
def test_every_kind_of_stage_works_on_the_encoder_inside(
    prepared: tuple[nn.Module, Context], name: str
) -> None:
    module, context = prepared
    stage = stage_class(name)(**STAGES[name])
    stage.check(module, context)
    made = stage.apply(module, context).model
    ids = torch.tensor([[2, 6, 7, 8, 3]])
    with torch.no_grad():
        found, before = (
            each(ids, torch.ones_like(ids), torch.zeros_like(ids)).sentence_embedding
            for each in (made, module)
        )
    assert found.shape == before.shape and found.norm().item() == pytest.approx(1, abs=1e-4)
    assert not torch.equal(found, before) or name == "prune/vocabulary"


def test_rounding_flips_neighbours_and_is_no_loss_where_nobody_knows_them(
    prepared: tuple[nn.Module, Context], tmp_path: Path
) -> None:
    module, context = prepared
    made = stage_class("quantize/int8_dynamic")().apply(module, context).model
    unknown = context.task.no_labels(len(context.validation))
    rows = replace(context.validation, labels=unknown)
    path = export_onnx(made, rows, context.task, tmp_path / "model.onnx", check=False)
    found = check_parity(made, path, rows, context.task, min_agreement=0.99, max_metric_difference=0.0)
    assert found.metric_difference == 0 and found.agreement == 1


def test_shortened_vectors_are_whole_in_the_file_and_in_the_bundle(tmp_path: Path) -> None:
    write_sentence_folder(tmp_path / "st")
    path = _recipe(tmp_path, "prune/dimensions", {"keep": 8, "calibration_rows": 64})
    recipe = json.loads(path.read_text())
    distilled = {"losses": {"logits": 1, "similarity": 1, "hidden": 1}, "train": {"epochs": 1}}
    recipe["stages"] += [{"distill/student": distilled}, "quantize/int8_dynamic"]
    path.write_text(json.dumps({**recipe, "gates": {}}), encoding="utf-8")
    bundle = run(path, tmp_path / "out").directory
    session = ort.InferenceSession(bundle / ONNX_PATH, providers=["CPUExecutionProvider"])
    assert [each.shape[-1] for each in session.get_outputs()] == [32, 8]
    report = compress.load_report(bundle)
    assert report.stages[0].facts["dimensions_kept"] == 8 and report.measurement.breakdown is not None
    shown = [row[0] for row in report.measurement.breakdown.rows]
    assert shown and "mean cosine" not in shown  # there is none to vectors of another size
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["dimensions"] == 8 and manifest["outputs"][1]["shape"][-1] == 8
    kinds = [each["type"].rpartition(".")[2] for each in json.loads((bundle / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
    dense = json.loads((bundle / "2_Dense/config.json").read_text())
    assert (dense["in_features"], dense["out_features"], dense["bias"]) == (32, 8, False)
    ids = torch.tensor([[2, 6, 7, 8, 3]])
    vector = compress.load(bundle)(ids, torch.ones_like(ids), torch.zeros_like(ids)).sentence_embedding
    assert vector.shape == (1, 8) and vector.norm().item() == pytest.approx(1, abs=1e-4)
