"""Token labels through every stage, for each family of encoders: cut, quantized, taught, exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.data import FileData, Splits, load_splits
from compress.data.readers.tokenize import TextEncoder
from compress.data.readers.vocabulary import encode_again, smaller_encoder
from compress.export import check_parity, export_onnx
from compress.model import ModelConfig, load_model
from compress.model.forward import predict_logits
from compress.registry import stage_class
from compress.stage import Context

from ..hf_families import FAMILIES, write_family
from .token_rows import TAGS, sentences, write_sentences

ENCODERS = ("bert", "distilbert", "roberta", "electra", "modernbert", "deberta-v2", "mpnet", "albert")
QUICK = ("bert", "distilbert")
TRAIN = {"epochs": 1, "batch_size": 16, "precision": "fp32"}
STAGES: dict[str, dict[str, Any]] = {
    "prune/heads": {"sparsity": 0.5},
    "prune/layers": {"layers": 1},
    "prune/width": {"sparsity": 0.25},
    "prune/structured": {"sparsity": 0.25, "calibration_rows": 32, "search_rows": 16, "search_steps": 2},
    "prune/vocabulary": {"min_count": 20},
    "distill/student": {
        "student": {"layers": 1},
        "losses": {"labels": 0.5, "logits": 1, "hidden": 1},
        "rows": {"augment": 1},
        "train": TRAIN,
    },
    "quantize/int8_dynamic": {},
    "quantize/int8_static": {},
    "quantize/int4_weight_only": {"group_size": 16},
    "quantize/float16": {},
}
SHARED = ("prune/layers", "distill/student")  # one layer several times, as in ALBERT, has none to drop
WITHOUT = {"deberta-v2": ("prune/width",), "albert": SHARED}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, tuple[nn.Module, Splits]] = {}

    def load(name: str) -> tuple[nn.Module, Splits]:
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            write_family(directory, FAMILIES[name], tags=TAGS)
            path = write_sentences(directory / "rows.jsonl", sentences(80))
            model = load_model(ModelConfig(hf=str(directory)), seed=0, scratch=directory, task="token-labels")
            assert model.label_order == TAGS and model.tokenizer is not None
            reader = TextEncoder.from_directory(model.tokenizer, input_names=model.text_inputs)
            data = FileData(train=path, task="token-labels", text="words", label="tags", max_length=16)
            made[name] = model.module, load_splits(data, reader=reader, label_order=model.label_order)
        return made[name]

    return load


def _cases() -> list[Any]:
    return [
        pytest.param(family, stage, marks=() if family in QUICK else pytest.mark.slow)
        for family in ENCODERS
        for stage in STAGES
        if stage not in WITHOUT.get(family, ())
    ]


@pytest.mark.parametrize(("family", "name"), _cases())
def test_a_stage_leaves_a_tagger_that_is_exported(
    family: str, name: str, loaded: Any, tmp_path: Path
) -> None:
    model, splits = loaded(family)
    task, test = splits.task, splits.test
    context = Context(task, splits.train, splits.validation, reader=splits.reader)
    result = stage_class(name)(**STAGES[name]).apply(model, context)
    if result.kept_tokens:
        assert isinstance(splits.reader, TextEncoder)
        test = encode_again(test, smaller_encoder(splits.reader, result.kept_tokens))
    assert test.truth(task).labels.tolist() == splits.test.truth(task).labels.tolist()
    answers = predict_logits(result.model, test, task)
    assert answers.shape == (len(test.truth(task).labels), len(TAGS))
    assert not torch.equal(answers, predict_logits(model, splits.test, task))
    path = tmp_path / "model.onnx"
    task = replace(task, inputs=test.inputs)
    export_onnx(result.model, test, task, path, check=False)
    found = check_parity(result.model, path, test, task, min_agreement=0.9, max_metric_difference=0.1)
    assert found.rows == len(test)


def test_a_narrower_tagger_has_a_narrower_head(loaded: Any) -> None:
    model, splits = loaded("bert")
    context = Context(splits.task, splits.train, splits.validation, reader=splits.reader)
    made = stage_class("prune/width")(sparsity=0.25).apply(model, context).model
    assert made.get_submodule("classifier").in_features == 24
