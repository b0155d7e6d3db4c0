"""What each stage leaves of language models that people serve: it is saved, and its file answers alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import StageError
from compress.export import export_onnx
from compress.model import load_module, save_module, structure_of
from compress.model.forward import logits
from compress.pipeline.prepare import prepare
from compress.recipe import load_recipe
from compress.registry import stage_class
from compress.stage import Context

from ..hf_families import FAMILIES, WORDS, write_family

NEW = ("qwen3", "gemma3_text", "gpt_neox", "olmo2", "phi3", "phi3, longrope", "smollm3")
QUICK = ("gpt_neox", "phi3")  # fused projections, interleaved and grouped
_TRAIN = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "precision": "fp32"}
CUTS: dict[str, dict[str, Any]] = {
    "prune/heads": {"sparsity": 0.5, "calibration_rows": 8},
    "prune/layers": {"layers": [1]},
    "prune/structured": {"macs": 0.7, "calibration_rows": 32, "search_rows": 16, "search_steps": 2},
    "prune/width": {"width": 16, "calibration_rows": 8},
    "distill/student": {"student": {"layers": 1}, "train": _TRAIN},
}
INTEGERS = ("quantize/int8_dynamic", "quantize/int4_weight_only")


def _prepared(family: str, folder: Path) -> tuple[nn.Module, Context]:
    """A language model, and what a stage is given for 48 rows of 12 tokens."""
    write_family(folder / "model", FAMILIES[family], decoder=True)
    draw, corpus = np.random.default_rng(0), folder / "corpus"
    corpus.mkdir()
    for number in range(8):
        (corpus / f"{number}.txt").write_text(" ".join(draw.choice(WORDS, 160)))
    limits = {"validation_limit": 8, "test_limit": 8, "train_limit": 32}
    data = {"source": "corpus", "train": str(corpus), "max_length": 12, **limits}
    recipe = {"model": {"hf": str(folder / "model")}, "data": data, "stages": ["quantize/int8_dynamic"]}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    made = prepare(load_recipe(folder / "recipe.yaml"), folder)
    module, splits = made.loaded.module.eval(), made.splits
    return module, Context(splits.task, splits.train, splits.validation, teacher=module, reader=splits.reader)


def _saved_equal(made: nn.Module, directory: Path, context: Context) -> None:
    rows = {"input_ids": torch.randint(4, 18, (2, 12), generator=torch.Generator().manual_seed(0))}
    rows["attention_mask"] = torch.ones_like(rows["input_ids"])
    with torch.no_grad():
        answers = logits(made, rows)
        directory.mkdir(parents=True)
        save_module(made, directory)
        assert answers.isfinite().all()
        assert torch.equal(logits(load_module(directory), rows), answers)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NEW]
)
def test_what_a_stage_leaves_is_smaller_and_the_same_when_loaded_again(family: str, tmp_path: Path) -> None:
    model, context = _prepared(family, tmp_path)
    before = sum(each.numel() for each in model.parameters())
    for name, settings in CUTS.items():
        stage = stage_class(name)(**settings)
        if (family, name) == ("olmo2", "prune/heads"):
            with pytest.raises(StageError, match="span all heads"):
                stage.rehearse(model)
            continue
        stage.rehearse(model)
        made = stage.apply(model, context).model
        assert sum(each.numel() for each in made.parameters()) < before, name
        _saved_equal(made, tmp_path / name, context)
        if name in ("prune/heads", "prune/structured"):
            units = [site.units(made) for site in structure_of(made).sites]
            assert sum(units) < sum(site.units(model) for site in structure_of(model).sites)
    for name in INTEGERS:
        made = stage_class(name)().apply(model, context).model
        assert not isinstance(made.get_submodule(structure_of(model).sites[0].consumer), nn.Linear)
        _saved_equal(made, tmp_path / name, context)


@pytest.mark.parametrize("size", [17, 18, 26])
def test_a_teacher_of_the_same_tokens_may_have_a_padded_table(size: int, tmp_path: Path) -> None:
    model, context = _prepared("llama", tmp_path)
    assert context.task.classes == 18
    teacher = write_family(tmp_path / "teacher", FAMILIES["llama"], decoder=True, vocab_size=size)
    student = {"student": {"layers": 1}, "teachers": [{"hf": str(teacher)}], "train": _TRAIN}
    stage = stage_class("distill/student")(**student, losses={"labels": 1, "logits": 1})
    if size < 18:  # it lacks a token, and rows have it
        with pytest.raises(StageError, match="teacher"):
            stage.check(model, context)
        return
    stage.check(model, context)
    made = stage.apply(model, context)
    assert np.isfinite(made.curve[-1]["train_loss"])
    with torch.no_grad():
        answers = logits(made.model, {"input_ids": torch.full((1, 4), 7)})
    assert answers.shape[-1] == 18
    common = context.task.of_teacher(torch.arange(26.0).repeat(2, 1))
    assert common.shape == (2, 18) and context.task.of_teacher(common[:, :16])[0, 16:].max() < -1e3


@pytest.mark.slow
@pytest.mark.parametrize("family", NEW)
def test_the_file_of_a_cut_and_quantized_decoder_answers_as_the_model(family: str, tmp_path: Path) -> None:
    model, context = _prepared(family, tmp_path)
    cut = stage_class("prune/width")(**CUTS["prune/width"]).apply(model, context).model
    cut = stage_class("prune/structured")(**CUTS["prune/structured"]).apply(cut, context).model
    for name in INTEGERS:
        made = stage_class(name)().apply(cut, context).model
        path = tmp_path / f"{name.replace('/', '-')}.onnx"  # compared with the model as it is written
        assert export_onnx(made, context.validation, context.task, path).is_file()
