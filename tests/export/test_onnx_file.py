"""An exported file answers batches and lengths that it was not traced with, under the Hub's names."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from compress.data import Split, Splits, TextEncoder
from compress.errors import ExportError, ModelError, ParityError
from compress.export import DEFAULT_OPSET, export_onnx
from compress.export.lowering.nodes import SCOPES
from compress.model import ModelConfig, load_model
from compress.model.files.definition import Definition
from compress.tasks import Classification


@pytest.fixture(scope="module")
def arrays_file(tmp_path_factory: pytest.TempPathFactory, definition: Definition, splits: Splits) -> Path:
    path = tmp_path_factory.mktemp("arrays") / "model.onnx"
    return export_onnx(definition.build(seed=0), splits.validation, splits.task, path)


@pytest.fixture(scope="module")
def bert(bert_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    config = ModelConfig.model_validate({"hf": str(bert_directory)})
    return load_model(config, seed=0, scratch=tmp_path_factory.mktemp("scratch")).module


@pytest.fixture(scope="module")
def bert_file(tmp_path_factory: pytest.TempPathFactory, bert: nn.Module, bert_directory: Path) -> Path:
    names = ("input_ids", "attention_mask", "token_type_ids")
    encoder = TextEncoder.from_directory(bert_directory, input_names=names)
    rows, _ = encoder.encode(["the film was good", "a very bad plot"], max_length=16)
    split = Split("validation", rows, np.zeros(2, np.int64), encoder.inputs)
    path = tmp_path_factory.mktemp("bert") / "model.onnx"
    return export_onnx(bert, split, Classification(encoder.inputs, ("0", "1")), path)


# Traced with two rows of length 5; the position table has 8.
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 5), (3, 8), (33, 2)])
def test_batch_and_length_are_free(
    arrays_file: Path, definition: Definition, batch: int, length: int
) -> None:
    features = np.random.default_rng(0).normal(size=(batch, length, 4)).astype(np.float32)
    (found,) = ort.InferenceSession(arrays_file).run(["logits"], {"features": features})
    with torch.inference_mode():
        expected = definition.build(seed=0)(torch.from_numpy(features)).numpy()
    # fp32 sums of 32 products in another order: a few units in the last place of values around 1.
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("batch", "length"), [(1, 2), (5, 40)])
def test_batch_and_length_of_a_text_model_are_free(
    bert_file: Path, bert: nn.Module, batch: int, length: int
) -> None:
    draw = np.random.default_rng(0)
    mask = (np.arange(length) < draw.integers(2, length + 1, (batch, 1))).astype(np.int64)
    ids = draw.integers(5, 16, (batch, length)) * mask
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (found,) = ort.InferenceSession(bert_file).run(["logits"], feed)
    with torch.inference_mode():
        expected = bert(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)  # as above


def test_inputs_outputs_and_dimensions_have_the_hubs_names(bert_file: Path) -> None:
    session = ort.InferenceSession(bert_file)
    shape = ["batch_size", "sequence_length"]
    assert [(value.name, value.shape) for value in session.get_inputs()] == [
        ("input_ids", shape),
        ("attention_mask", shape),
        ("token_type_ids", shape),
    ]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("logits", ["batch_size", 2])]


def test_a_file_is_valid_onnx_of_the_stated_opset_and_stands_alone(arrays_file: Path) -> None:
    graph = onnx.load(arrays_file)
    onnx.checker.check_model(graph, full_check=True)
    assert {item.domain: item.version for item in graph.opset_import}[""] == DEFAULT_OPSET
    assert [path.name for path in arrays_file.parent.iterdir()] == ["model.onnx"]


class _Branching(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.mean(1) if features.sum() > 0 else features.amax(1)


class _FixedLength(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return (features + torch.ones(5, 4)).mean(1)


def test_a_file_says_nothing_of_the_machine_that_made_it(bert_file: Path) -> None:
    whole = bert_file.read_bytes()
    for trace in (b'File "', b"site-packages", str(Path(__file__).parents[2]).encode()):
        assert trace not in whole
    nodes = onnx.load(bert_file).graph.node
    scopes = [entry.value for node in nodes for entry in node.metadata_props if entry.key == SCOPES]
    assert any("bert.encoder.layer.0.attention.self.query" in scope for scope in scopes)
    assert {entry.key for node in nodes for entry in node.metadata_props} == {SCOPES}


@pytest.fixture(scope="module")
def attention_file(tmp_path_factory: pytest.TempPathFactory, bert: nn.Module, bert_directory: Path) -> Path:
    names = ("input_ids", "attention_mask", "token_type_ids")
    encoder = TextEncoder.from_directory(bert_directory, input_names=names)
    rows, _ = encoder.encode(["the film was good", "a very bad plot"], max_length=16)
    split = Split("validation", rows, np.zeros(2, np.int64), encoder.inputs)
    path = tmp_path_factory.mktemp("attention") / "model.onnx"
    return export_onnx(bert, split, Classification(encoder.inputs, ("0", "1")), path, opset=23)


def test_attention_of_opset_23_is_given_whole_queries_keys_and_values(
    attention_file: Path, bert: nn.Module
) -> None:
    types = [node.op_type for node in onnx.load(attention_file).graph.node]
    assert types.count("Attention") == bert.config.num_hidden_layers  # type: ignore[union-attr]
    assert "Softmax" not in types and "Transpose" not in types


@pytest.mark.parametrize(("batch", "length"), [(1, 2), (1, 1), (5, 40)])
def test_attention_of_opset_23_answers_as_pytorch_also_where_rows_are_padded(
    attention_file: Path, bert: nn.Module, batch: int, length: int
) -> None:
    draw = np.random.default_rng(0)
    ids = draw.integers(5, 16, size=(batch, length))
    mask = (np.arange(length) < draw.integers(1, length + 1, size=(batch, 1))).astype(np.int64)
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    session = ort.InferenceSession(attention_file)
    (found,) = session.run(["logits"], {each.name: given[each.name] for each in session.get_inputs()})
    with torch.inference_mode():
        expected = bert(**{name: torch.from_numpy(value) for name, value in given.items()}).logits.numpy()
    # fp32 sums in another order: a few units in the last place of values around 1.
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("module", [_Branching(), _FixedLength()])
def test_a_module_that_cannot_be_exported_is_one_clear_error(
    module: nn.Module, splits: Splits, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError) as caught:
        export_onnx(module, splits.validation, splits.task, tmp_path / "model.onnx")
    message = str(caught.value)
    assert message.startswith(type(module).__name__)
    if isinstance(module, _Branching):
        number = inspect.getsourcelines(_Branching.forward)[1] + 1
        assert f"test_onnx_file.py:{number}, `return features.mean(1) if features.sum() > 0" in message
        assert "torch.where" in message and "torch.cond" in message
    assert len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_one_row_is_too_few_to_trace_with(model: nn.Module, splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"two rows .*validation .* 1"):
        export_onnx(model, splits.validation.take(1, seed=0), splits.task, tmp_path / "model.onnx")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_module_of_another_precision_is_written_in_float32_and_left_alone(
    definition: Definition, splits: Splits, tmp_path: Path, dtype: torch.dtype
) -> None:
    module = definition.build(seed=0).to(dtype)
    path = export_onnx(module, splits.validation, splits.task, tmp_path / "model.onnx")
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}
    features = splits.test.rows[0]["features"][None]
    (found,) = ort.InferenceSession(path).run(None, {"features": features})
    with torch.inference_mode():
        expected = definition.build(seed=0).to(dtype).float()(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)  # as above


class _Dropping(nn.Module):
    """Dropout in the ways that a module may have it, and a part that was frozen by hand."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.always = always
        self.frozen, self.dropout, self.head = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)
        self.frozen.eval()

    def forward(self, features: Tensor) -> Tensor:
        x = self.dropout(self.frozen(features.mean(1)))
        return self.head(nn.functional.dropout(x, training=self.always or self.training))


def test_dropout_of_training_is_not_exported_and_each_part_keeps_its_mode(
    splits: Splits, tmp_path: Path
) -> None:
    module = _Dropping(always=False).train()
    module.frozen.eval()
    path = export_onnx(module, splits.validation, splits.task, tmp_path / "model.onnx")
    assert [each.training for each in module.children()] == [False, True, True] and module.training
    assert not {"Dropout", "RandomUniformLike"} & {node.op_type for node in onnx.load(path).graph.node}


def test_a_module_that_answers_at_random_is_refused(splits: Splits, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match=r"F\.dropout"):
        export_onnx(_Dropping(always=True), splits.validation, splits.task, path)
    assert not path.exists()
    export_onnx(_Dropping(always=True), splits.validation, splits.task, path, check=False)
    assert path.exists()


def test_a_file_that_is_refused_leaves_no_weights_beside_it(
    model: nn.Module, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(module: nn.Module, path: Path, *_: object, **__: object) -> None:
        path.with_name(f"{path.name}.data").write_bytes(b"weights above 2 GB are kept beside the graph")
        raise ParityError("the answers differ")

    monkeypatch.setattr(import_module("compress.export.onnx_file"), "check_answers", refuse)
    with pytest.raises(ParityError):
        export_onnx(model, splits.validation, splits.task, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
