"""Hidden features that matter least go; the score is the derivative that it claims to be."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import nn

from compress import load
from compress.data import Splits
from compress.data.readers.byte_tokenizer import write_byte_tokenizer
from compress.deploy.generate import Writer, Written
from compress.errors import StageError
from compress.export import check_parity, export_onnx
from compress.model.cutting.width import hidden_width, present_readers
from compress.model.forward import logits, to_tensors
from compress.pipeline import run
from compress.prune.width import WidthPruning, feature_importance, strongest
from compress.recovery import RecoveryConfig
from compress.report import load_report
from compress.stage import Context

from ..hf_families import FAMILIES, write_family


def test_the_strongest_features_are_kept_in_their_order() -> None:
    assert strongest(torch.tensor([0.3, 0.9, 0.1, 0.9, 0.3]), 3) == [0, 1, 3]


def test_importance_is_the_mean_absolute_derivative_of_one_gate_before_all_readers(
    model: nn.Module, splits: Splits
) -> None:
    rows = splits.validation.take(3, seed=0)
    (found,) = feature_importance(model, rows, splits.task, batch_size=2)
    weights = {path: model.get_submodule(path).weight for path in present_readers(model)}
    kept = {path: weight.data.clone() for path, weight in weights.items()}
    step, by_hand = 1e-2, torch.zeros(32)
    for feature in range(32):
        for batch in rows.batches(1):
            losses = []
            for gate in (1 + step, 1 - step):  # a gate on a feature scales the column of each reader
                for path, weight in weights.items():
                    weight.data.copy_(kept[path])
                    weight.data[:, feature] *= gate
                answer = logits(model, to_tensors(batch, splits.task.input_names)).double()
                losses.append(nn.functional.cross_entropy(answer, torch.from_numpy(batch["labels"])))
            by_hand[feature] += float((losses[0] - losses[1]).detach().abs() / (2 * step)) / 3
    # Central differences in fp32 with a step of 1e-2: about three digits of the larger scores.
    torch.testing.assert_close(found, by_hand, rtol=2e-2, atol=1e-4)


def test_features_that_nobody_reads_go_first(model: nn.Module, context: Context) -> None:
    deaf = [3, 17, 30]
    for path in present_readers(model):
        model.get_submodule(path).weight.data[:, deaf] = 0
    (scores,) = feature_importance(model, context.train, context.task)
    assert strongest(scores, 29) == [index for index in range(32) if index not in deaf]


@pytest.mark.parametrize(("asked", "left"), [({"width": 24}, 24), ({"sparsity": 0.5}, 16)])
def test_as_many_features_stay_as_are_asked_for(
    asked: dict[str, float], left: int, model: nn.Module, context: Context
) -> None:
    made = WidthPruning(**asked).apply(model, context)
    narrow = made.model
    assert hidden_width(narrow) == left and hidden_width(model) == 32
    assert (made.facts["width_before"], made.facts["width_kept"]) == (32, left)
    assert left / 32 < made.facts["importance_kept"] < 1
    assert made.facts["recovery"].startswith("none: ")


def test_recovery_trains_the_narrow_model(model: nn.Module, context: Context) -> None:
    recovery = RecoveryConfig(epochs=1, batch_size=16, learning_rate=1e-3, precision="fp32")
    made = WidthPruning(width=16, recovery=recovery).apply(model, context)
    assert len(made.curve) == 1 and "recovery" not in made.facts


def test_a_narrower_text_model_answers_in_onnx_as_in_torch(
    text_model: nn.Module, text_context: Context, tmp_path: Path
) -> None:
    narrow = WidthPruning(width=20).apply(text_model, text_context).model
    rows, task = text_context.validation, text_context.task
    path = export_onnx(narrow, rows, task, tmp_path / "model.onnx")
    check_parity(narrow, path, rows, task, min_agreement=1.0, max_metric_difference=0.0)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == list(task.input_names)


def test_widths_that_can_not_be_had_are_refused(model: nn.Module) -> None:
    with pytest.raises(StageError, match="width 32 keeps 32 of 32 hidden features; allowed: 1 to 31"):
        WidthPruning(width=32).rehearse(model)
    with pytest.raises(StageError, match=r"sparsity 0\.01 keeps 32 of 32 hidden features"):
        WidthPruning(sparsity=0.01).rehearse(model)
    for wrong in ({}, {"width": 8, "sparsity": 0.5}):
        with pytest.raises(ValidationError, match="give either width"):
            WidthPruning(**wrong)


def test_rehearsing_gives_the_shapes(model: nn.Module, context: Context) -> None:
    stage = WidthPruning(width=20)
    shapes = {name: value.shape for name, value in stage.rehearse(model).state_dict().items()}
    assert shapes == {
        name: value.shape for name, value in stage.apply(model, context).model.state_dict().items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "qwen2"])
def test_a_run_cuts_the_width_of_a_decoder_and_its_file_writes_on(model_type: str, tmp_path: Path) -> None:
    family = FAMILIES[model_type]
    ends = {
        "vocab_size": 257,
        "pad_token_id": None,
        "bos_token_id": 256,
        "eos_token_id": 256,
        "tie_word_embeddings": True,
    }
    directory = write_family(tmp_path / "model", family, decoder=True, **ends)
    write_byte_tokenizer(directory)
    recipe = {
        "model": {"hf": str(directory)},
        "data": {"source": "stdlib", "train_bytes": 20_000, "max_length": 24}
        | {"validation_limit": 8, "test_limit": 8},
        "stages": [{"prune/width": {"width": 24, "calibration_rows": 16}}],
        "export": {"parity_rows": 4},
        "measure": {"batch": [1], "threads": [1], "rounds": 3, "seconds": 0.01},
    }
    (tmp_path / "width.yaml").write_text(yaml.safe_dump(recipe))
    made = run(tmp_path / "width.yaml", tmp_path / "reports").directory
    facts = load_report(made).stages[0].facts
    assert (facts["width_before"], facts["width_kept"]) == (32, 24)
    module = load(made)
    assert hidden_width(module) == 24
    ids = torch.tensor([[97, 98, 99]])
    written = Written()
    list(Writer(made).write("abc", most=1, written=written))
    assert (written.ids or [256])[0] == int(logits(module, {"input_ids": ids})[0, -1].argmax())
