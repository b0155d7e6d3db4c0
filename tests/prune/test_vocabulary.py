"""Tokens that the training rows don't need go from tokenizer and table, and nothing changes on those rows."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.data import FileData, NumbersReader, Splits, TextEncoder, load_splits
from compress.data.readers.vocabulary import encode_again, smaller_encoder
from compress.errors import ModelError, StageError
from compress.model import ModelConfig, load_model, predict_logits
from compress.prune.embeddings import EmbeddingFactorization
from compress.prune.vocabulary import VocabularyPruning, tokens_of_words
from compress.stage import Context, StageResult
from compress.train_config import TrainConfig

SHARED = Path(os.environ.get("MODELPRESS_SHARED", Path(__file__).parents[3] / "shared"))


def _words(made: StageResult, context: Context) -> list[str]:
    assert context.encoder is not None
    return [str(context.encoder.tokenizer.id_to_token(index)) for index in made.kept_tokens]


def test_words_that_never_occur_go_and_special_tokens_stay(
    text_model: nn.Module, text_context: Context
) -> None:
    made = VocabularyPruning().apply(text_model, text_context)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert _words(made, text_context) == [*special, "good", "bad", "film", "a", "the", "was"]
    facts = made.facts
    assert (facts["vocabulary_before"], facts["vocabulary_kept"]) == (16, 11)
    assert facts["validation_rows_split_otherwise"] == 0
    assert facts["validation_unknown_before"] == facts["validation_unknown_after"] == 0
    assert facts["validation_tokens_before"] == facts["validation_tokens_after"]


def test_the_rows_new_ids_get_the_answers_that_the_old_ids_got(
    text_model: nn.Module, text_context: Context
) -> None:
    # A copy: transformers maps weights from the file unaligned, and kernels then sum in another order.
    text_model = copy.deepcopy(text_model)
    made = VocabularyPruning().apply(text_model, text_context)
    pruned = made.model
    assert text_context.encoder is not None
    rows = encode_again(text_context.train, smaller_encoder(text_context.encoder, made.kept_tokens))
    answers = predict_logits(pruned, rows, text_context.task)
    assert torch.equal(answers, predict_logits(text_model, text_context.train, text_context.task))


def _on(directory: Path, text_splits: Splits, scratch: Path) -> tuple[nn.Module, Context]:
    loaded = load_model(ModelConfig.model_validate({"hf": str(directory)}), seed=0, scratch=scratch)
    encoder = TextEncoder.from_directory(directory, input_names=loaded.text_inputs)
    encoder.tokenizer.enable_truncation(16)
    task = replace(text_splits.task, inputs=encoder.inputs)
    parts = [encode_again(part, encoder) for part in (text_splits.train, text_splits.validation)]
    context = Context(task=task, train=parts[0], validation=parts[1], reader=encoder)
    # A copy: transformers maps weights from the file unaligned, and kernels then sum in another order.
    return copy.deepcopy(loaded.module), context


def test_every_known_architecture_answers_as_before(
    hf_directory: Path, text_splits: Splits, tmp_path: Path
) -> None:
    model, context = _on(hf_directory, text_splits, tmp_path)
    made = VocabularyPruning().apply(model, context)
    pruned = made.model
    assert len(made.kept_tokens) == 11 and context.encoder is not None
    rows = encode_again(context.train, smaller_encoder(context.encoder, made.kept_tokens))
    answers = predict_logits(pruned, rows, context.task)
    assert torch.equal(answers, predict_logits(model, context.train, context.task))
    words = EmbeddingFactorization(rank=3).apply(pruned, replace(context, train=rows)).model
    assert predict_logits(words, rows, context.task).isfinite().all()


@pytest.mark.parametrize("hf_directory", ["roberta"], indirect=True)
def test_tokens_that_positions_are_counted_from_stay_with_all_below(
    hf_directory: Path, tmp_path: Path, text_splits: Splits
) -> None:
    model, context = _on(hf_directory, text_splits, tmp_path)
    model.roberta.embeddings.padding_idx = 7  # "fine", which never occurs
    made = VocabularyPruning().apply(model, context)
    assert made.kept_tokens[:8] == tuple(range(8)) and 8 not in made.kept_tokens


def test_protected_words_stay_and_rare_ones_go(
    text_model: nn.Module, text_context: Context, text_splits: Splits
) -> None:
    counts = torch.bincount(torch.tensor([i for row in text_splits.train.rows for i in row["input_ids"]]))
    least = min((int(counts[i]), i) for i in range(5, 16) if i < len(counts) and counts[i] > 0)
    stage = VocabularyPruning(min_count=least[0] + 1, protect=("plot", "not"))
    made = stage.apply(text_model, text_context)
    assert {"plot", "not"} <= set(_words(made, text_context))
    assert least[1] not in made.kept_tokens
    facts = made.facts
    assert facts["validation_unknown_before"] == 0 < facts["validation_unknown_after"]
    assert 0 < facts["validation_rows_split_otherwise"] <= 1


def test_recovery_trains_on_rows_in_new_ids(text_model: nn.Module, text_context: Context) -> None:
    recovery = TrainConfig(epochs=1, batch_size=32, learning_rate=1e-3, precision="fp32")
    made = VocabularyPruning(recovery=recovery).apply(text_model, text_context)
    pruned = made.model
    assert len(made.curve) == 1 and "best_epoch" in made.facts
    assert pruned.bert.embeddings.word_embeddings.weight.shape[0] == 11


def test_a_factorized_embedding_loses_rows_of_its_table(text_model: nn.Module, text_context: Context) -> None:
    factorized = EmbeddingFactorization(rank=3).apply(text_model, text_context).model
    pruned = VocabularyPruning().apply(factorized, text_context).model
    embedding = pruned.bert.embeddings.word_embeddings
    assert embedding.table.weight.shape == (11, 3) and embedding.config()["num_embeddings"] == 11


def test_a_word_is_protected_with_all_its_pieces(text_context: Context) -> None:
    assert text_context.encoder is not None
    assert tokens_of_words(text_context.encoder, ["very fine", "[MASK]"]) == {4, 7, 14}
    with pytest.raises(StageError, match="'zebra'"):
        tokens_of_words(text_context.encoder, ["zebra"])


def test_models_and_rows_without_tokens_are_refused(
    model: nn.Module, context: Context, text_model: nn.Module, text_context: Context
) -> None:
    with pytest.raises(ModelError, match=r"Transformer\b.*token_embedding"):
        VocabularyPruning().rehearse(model)
    with pytest.raises(StageError, match="not tokenized"):
        VocabularyPruning().apply(text_model, replace(text_context, reader=NumbersReader()))


def test_a_vocabulary_of_which_all_is_needed_is_refused(text_model: nn.Module, text_context: Context) -> None:
    with pytest.raises(StageError, match="all 16.*1 times"):
        VocabularyPruning(protect=("fine", "poor", "plot", "very", "not")).apply(text_model, text_context)


@pytest.mark.slow
def test_a_real_tokenizer_splits_the_training_rows_as_before(tmp_path: Path) -> None:
    assert SHARED.is_dir(), f"{SHARED}: no reviews and model; set MODELPRESS_SHARED"
    directory = SHARED / "models" / "minilm-reviews"
    files = {
        part: str(SHARED / "data" / "reviews" / f"{part}.csv") for part in ("train", "validation", "test")
    }
    loaded = load_model(ModelConfig.model_validate({"hf": str(directory)}), seed=0, scratch=tmp_path)
    encoder = TextEncoder.from_directory(directory, input_names=loaded.text_inputs)
    splits = load_splits(FileData.model_validate({"source": "file", **files}), reader=encoder)
    context = Context(task=splits.task, train=splits.train, validation=splits.validation, reader=encoder)
    made = VocabularyPruning().apply(loaded.module, context)
    kept = made.kept_tokens
    assert 12_000 < len(kept) < 16_000  # of 30,522; 12,134 occur, and 1,994 are single characters
    rows = encode_again(splits.train, smaller_encoder(encoder, kept)).rows
    for old, new in zip(splits.train.rows, rows, strict=True):
        assert [kept[index] for index in new["input_ids"]] == old["input_ids"].tolist()
