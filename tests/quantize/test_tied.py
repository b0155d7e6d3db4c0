"""A table tied to the output layer: the same integers, stored once; and layers that get 8 bits of 4."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.data import Splits, StdlibData, TextEncoder, load_splits
from compress.data.readers.byte_tokenizer import write_byte_tokenizer
from compress.errors import ParityError, StageError
from compress.export import check_parity, export_onnx
from compress.model import Definition, load_module, save_module
from compress.model.counts import weight_counts
from compress.model.layers.grouped import Int4Linear, Int8GroupLinear, SharedEmbedding
from compress.quantize.mixed.stage import Mixed, Schemes
from compress.quantize.qat import QatConfig
from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly
from compress.stage import Context

from ..conftest import TRANSFORMER

ARGS = {
    "input_dim": 257,
    "d_model": 48,
    "nhead": 4,
    "num_layers": 2,
    "max_length": 32,
    "tie_embeddings": True,
}
STRICT = {"min_agreement": 0.99, "max_metric_difference": 0.01}
STAGES = [
    Int4WeightOnly(zero_points=True, group_size=64, activations="int8"),
    Int4WeightOnly(zero_points=True, int8_layers=("classifier",)),
    Int4WeightOnly(algorithm="gptq", calibration_rows=16, int8_layers=("*.v_proj",)),
    Int8WeightOnly(zero_points=True, activations="int8"),
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    encoder = TextEncoder.from_directory(write_byte_tokenizer(tmp_path_factory.mktemp("bytes")))
    data = StdlibData(train_bytes=10_000, train_limit=16, max_length=16, validation_limit=16, test_limit=4)
    return load_splits(data, reader=encoder)


@pytest.fixture(scope="module")
def context(texts: Splits) -> Context:
    return Context(texts.task, texts.train, texts.validation)


@pytest.fixture(scope="module")
def tied() -> nn.Module:
    model = Definition.from_file(TRANSFORMER, "causal_lm", ARGS).build(seed=0)
    assert _table_and_head(model)[0].weight is _table_and_head(model)[1].weight
    return model


def _table_and_head(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    (table,) = (each for each in model.modules() if isinstance(each, nn.Embedding | SharedEmbedding))
    return table, model.get_submodule("classifier")


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_it_is_quantized_once_stored_once_and_comes_back(
    stage: Int4WeightOnly, tied: nn.Module, context: Context, texts: Splits, tmp_path: Path
) -> None:
    made = stage.apply(tied, context)
    new = made.model
    table, head = _table_and_head(new)
    assert isinstance(table, SharedEmbedding) and table.linear is head
    ids = torch.arange(257)[None]
    torch.testing.assert_close(table(ids)[0], head.dequantize(), rtol=0, atol=0)  # type: ignore[operator]
    assert made.facts["layers"]["shared_embedding"] == 1
    assert weight_counts(new)[0] == weight_counts(tied)[0]

    save_module(new, tmp_path)
    again = load_module(tmp_path)
    assert _table_and_head(again)[0].linear is _table_and_head(again)[1]
    rows = {"input_ids": ids[:, :16], "attention_mask": torch.ones(1, 16, dtype=torch.long)}
    with torch.no_grad():
        torch.testing.assert_close(again(**rows), new(**rows), rtol=0, atol=0)

    path = tmp_path / "model.onnx"
    export_onnx(new, texts.validation, texts.task, path)
    assert check_parity(new, path, texts.test, texts.task, **STRICT).agreement > 0.99
    stored = [each for each in onnx.load(path).graph.initializer if list(each.dims)[:1] == [257]]
    integers = [each for each in stored if each.data_type == onnx.TensorProto.UINT8 and len(each.dims) == 3]
    assert len(integers) == 1, "one set of integers for both"


def test_a_table_of_its_own_in_qat(tied: nn.Module, context: Context) -> None:
    qat = QatConfig.model_validate({"epochs": 1, "batch_size": 8})
    new = Int4WeightOnly(qat=qat).apply(tied, context).model
    assert not any(isinstance(each, SharedEmbedding) for each in new.modules())


def test_without_embeddings_the_table_stays_float(tied: nn.Module, context: Context) -> None:
    new = Int4WeightOnly(embeddings=False).apply(tied, context).model
    table, head = _table_and_head(new)
    assert isinstance(table, nn.Embedding) and isinstance(head, Int4Linear)


def test_some_layers_get_eight_bits(tied: nn.Module, context: Context) -> None:
    new = Int4WeightOnly(int8_layers=("*.v_proj", "classifier")).apply(tied, context).model
    modules = new.named_modules(remove_duplicate=False)
    kinds = {name: type(each) for name, each in modules if name.endswith(("_proj", "classifier"))}
    assert set(kinds.values()) == {Int4Linear, Int8GroupLinear}
    eight = {name for name, kind in kinds.items() if kind is Int8GroupLinear}
    assert eight == {name for name in kinds if name.endswith("v_proj")} | {"classifier"}
    assert eight

    def moved(model: nn.Module) -> float:
        weights = ((tied.get_submodule(name).weight.detach(), model.get_submodule(name)) for name in eight)
        return sum(float((each.dequantize() - weight).square().sum()) for weight, each in weights)

    assert moved(new) < 0.05 * moved(Int4WeightOnly().apply(tied, context).model)  # 17 times as fine


@pytest.mark.parametrize("call", ["apply", "rehearse"])
def test_a_pattern_that_matches_nothing_is_refused(call: str, tied: nn.Module, context: Context) -> None:
    stage = Int4WeightOnly(int8_layers=("clasifier",))
    with pytest.raises(StageError, match=r"int8_layers: 'clasifier' matches no .*classifier"):
        stage.apply(tied, context).model if call == "apply" else stage.rehearse(tied)


def test_a_tied_table_named_alone_is_told_which_name_counts(tied: nn.Module) -> None:
    with pytest.raises(StageError, match="embedding is tied to classifier .*name classifier"):
        Int4WeightOnly(int8_layers=("embedding",)).rehearse(tied)
    for stage in ({"int8_layers": ("embedding", "classifier")}, {"int8_layers": ("*.v_proj",)}):
        Int4WeightOnly.model_validate(stage).rehearse(tied)


def test_mixed_takes_the_layer_with_its_table(
    tied: nn.Module, context: Context, texts: Splits, tmp_path: Path
) -> None:
    schemes = Schemes(int4_weight_only=Int4WeightOnly(), int8_weight_only=Int8WeightOnly())
    new = Mixed(schemes=schemes, max_accuracy_drop=0.5, sensitivity_rows=16).apply(tied, context).model
    export_onnx(new, texts.validation, texts.task, tmp_path / "model.onnx")
    check_parity(new, tmp_path / "model.onnx", texts.test, texts.task, **STRICT)
    save_module(new, tmp_path)
    rows = {"input_ids": torch.arange(16)[None], "attention_mask": torch.ones(1, 16, dtype=torch.long)}
    with torch.no_grad():
        assert np.array_equal(load_module(tmp_path)(**rows).numpy(), new(**rows).numpy())


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_where_activations_are_rounded_a_failed_parity_says_what_may_be_why(
    activations: Literal["float", "int8"], context: Context, texts: Splits, tmp_path: Path
) -> None:
    # Untied, since a tied model with random weights names the token that it was given.
    definition = Definition.from_file(TRANSFORMER, "causal_lm", {**ARGS, "tie_embeddings": False})
    stage = Int4WeightOnly(activations=activations)
    one, other = (stage.apply(definition.build(seed=seed), context).model for seed in (0, 1))
    export_onnx(one, texts.validation, texts.task, tmp_path / "model.onnx")
    with pytest.raises(ParityError, match=r"export\.min_agreement") as caught:
        check_parity(other, tmp_path / "model.onnx", texts.test, texts.task, **STRICT)
    assert ("activations: float" in str(caught.value)) == (activations == "int8")
