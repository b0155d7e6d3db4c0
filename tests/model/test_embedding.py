"""The embedding of the vocabulary: rows go with their ids, and factors stand in for a table."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.model import ModelConfig, load_model, load_module, save_module
from compress.model.cutting.vocabulary import keep_tokens_, token_embedding, token_table
from compress.model.files.definition import Definition, definition_of
from compress.model.forward import logits
from compress.model.layers.embedding import FactorizedEmbedding
from compress.model.limits import positions_start_at
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.weight_only import Int4WeightOnly
from compress.stage import Context

TRANSFORMER = Path(__file__).resolve().parents[2] / "models" / "transformer.py"
SIZES = {"input_dim": 300, "d_model": 16, "nhead": 2, "num_layers": 1, "max_length": 8, "dropout": 0.0}
IDS = torch.tensor([[3, 7, 8], [9, 12, 3]])


def _classifier() -> nn.Module:
    return Definition.from_file(TRANSFORMER, "token_classifier", {**SIZES, "output_dim": 2}).build()


def _factorized() -> nn.Module:
    model = _classifier()
    model.set_submodule("embedding", FactorizedEmbedding(300, 4, 16))
    return model.eval()


def _hf(directory: Path, scratch: Path) -> nn.Module:
    return load_model(ModelConfig.model_validate({"hf": str(directory)}), seed=0, scratch=scratch).module


@pytest.mark.parametrize("make", [_classifier, _factorized])
def test_kept_tokens_get_their_place_as_id_and_the_answers_stay(make, tmp_path: Path) -> None:
    model = make()
    before = model(IDS)
    kept = [0, 3, 7, 8, 9, 12, 299]
    keep_tokens_(model, kept)
    new = torch.tensor([[kept.index(i) for i in row] for row in IDS.tolist()])
    assert torch.equal(model(new), before)
    assert token_table(token_embedding(model)[1]).weight.shape[0] == 7
    save_module(model, tmp_path)
    assert torch.equal(load_module(tmp_path)(new), before)


def test_a_hugging_face_model_follows_in_configuration_and_definition(
    hf_directory: Path, tmp_path: Path
) -> None:
    # A copy: transformers maps weights from the file unaligned, and kernels then sum in another order.
    model = copy.deepcopy(_hf(hf_directory, tmp_path))
    original = copy.deepcopy(model)
    kept = [0, 1, 2, 3, 5, 10, 15]
    keep_tokens_(model, kept)
    old = {"input_ids": torch.tensor([[2, 5, 10, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    new = {**old, "input_ids": torch.tensor([[2, 4, 5, 3]])}
    expected = logits(original, old)
    assert torch.equal(logits(model, new), expected)
    assert model.config.vocab_size == 7 and original.config.vocab_size == 16
    definition = definition_of(model)
    assert definition is not None and definition.args["vocab_size"] == 7
    save_module(model, tmp_path)
    back = load_module(tmp_path)
    assert torch.equal(logits(back, new), expected) and back.config.vocab_size == 7


def test_special_token_ids_of_the_configuration_move_with_their_tokens(
    bert_directory: Path, tmp_path: Path
) -> None:
    model = _hf(bert_directory, tmp_path)
    model.config.sep_token_id, model.config.eos_token_id = 3, [3, 4]
    keep_tokens_(model, [0, 2, 3])
    assert (model.config.pad_token_id, model.config.sep_token_id, model.config.eos_token_id) == (0, 2, [2])
    assert model.bert.embeddings.word_embeddings.padding_idx == 0


def test_tokens_that_positions_are_counted_from_may_not_move(tmp_path: Path) -> None:
    import transformers

    config = transformers.RobertaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.RobertaForSequenceClassification(config)
    assert positions_start_at(model) == 1  # RoBERTa's own pad_token_id
    with pytest.raises(ModelError, match="token 1 "):
        keep_tokens_(model, [1, 2, 3])
    keep_tokens_(model, [0, 1, 5])
    assert positions_start_at(_classifier()) is None


def test_ids_that_are_not_there_are_refused() -> None:
    for wrong in ([], [3, 2], [-1, 2], [0, 300]):
        with pytest.raises(ModelError, match=r"must be some of 0\.\.299, ascending"):
            keep_tokens_(_classifier(), wrong)


def test_what_has_no_float_table_of_its_own_is_refused(model: nn.Module, context: Context) -> None:
    with pytest.raises(ModelError, match=r"Transformer\b.*token_embedding"):
        token_embedding(model)
    tied = Definition.from_file(TRANSFORMER, "causal_lm", {**SIZES, "tie_embeddings": True}).build()
    with pytest.raises(ModelError, match=r"embedding shares its weight with classifier \(tied embeddings\)"):
        token_embedding(tied)
    scaling = _classifier()
    scaling.embedding = type("Scaled", (nn.Embedding,), {})(300, 32)
    with pytest.raises(ModelError, match=r"embedding is Scaled, which computes more"):
        token_embedding(scaling)
    with pytest.raises(ModelError, match=r"embedding is Int8Embedding, not a float embedding"):
        token_embedding(Int8Dynamic().apply(_classifier(), context).model)
    with pytest.raises(ModelError, match=r"embedding\.table is Int4Embedding"):
        token_embedding(Int4WeightOnly().apply(_factorized(), context).model)


@pytest.mark.parametrize("stage", [None, Int8Dynamic(), Int4WeightOnly()])
def test_factors_are_saved_and_come_back_equal_quantized_too(stage, context: Context, tmp_path: Path) -> None:
    model = _factorized()
    if stage is not None:
        model = stage.apply(model, context).model
        assert [type(module).__name__ for module in model.embedding.children()] == (
            ["Int8Embedding", "Int8Linear"]
            if stage.name.endswith("dynamic")
            else ["Int4Embedding", "Int4Linear"]
        )
    save_module(model, tmp_path)
    back = load_module(tmp_path)
    assert isinstance(back.embedding, FactorizedEmbedding)
    assert torch.equal(back(IDS), model(IDS))
