"""Factors of the embedding are the best of their rank for the words that occur."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress.errors import DataError, ModelError, StageError
from compress.model import predict_logits
from compress.prune.embeddings import EmbeddingFactorization, weighted_factors
from compress.recovery import RecoveryConfig
from compress.stage import Context


def test_the_direction_of_the_word_that_occurs_is_kept() -> None:
    # Weighted by sqrt(count + 1): the first row is 1 * sqrt(9) = 3 long, the second 2 * sqrt(1) = 2.
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    table, projection, error = weighted_factors(weight, torch.tensor([8, 0]), 1)
    torch.testing.assert_close(table @ projection.T, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert error == pytest.approx((4 / 13) ** 0.5)
    table, projection, error = weighted_factors(weight, torch.tensor([0, 0]), 1)
    torch.testing.assert_close(table @ projection.T, torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert error == pytest.approx((1 / 5) ** 0.5)


def test_no_other_factors_of_the_rank_have_a_smaller_weighted_error() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, counts = torch.randn(40, 12, generator=draw), torch.randint(0, 50, (40,), generator=draw)
    table, projection, error = weighted_factors(weight, counts, 5)
    scale = (counts + 1.0).sqrt()[:, None]
    left = torch.linalg.svdvals((scale * weight).double())  # Eckart and Young: the tail is the least error
    least = (left[5:].square().sum() / left.square().sum()).sqrt()
    reached = (scale * (weight - table @ projection.T)).norm() / (scale * weight).norm()
    assert error == pytest.approx(float(least), rel=1e-9)  # both in fp64
    assert float(reached) == pytest.approx(error, rel=1e-5)  # factors rounded to fp32
    torch.testing.assert_close(projection.T @ projection, torch.eye(5), rtol=0, atol=1e-6)


def test_a_table_of_low_rank_answers_as_before(text_model: nn.Module, text_context: Context) -> None:
    text_model = copy.deepcopy(text_model)
    words = text_model.bert.embeddings.word_embeddings
    words.weight.data = words.weight.data[:, :4] @ torch.randn(
        4, 32, generator=torch.Generator().manual_seed(0)
    )
    result = EmbeddingFactorization(rank=4).apply(text_model, text_context)
    made = result.model
    rows = text_context.validation
    # The same numbers up to fp32 rounding of two factors, through two layers.
    torch.testing.assert_close(
        predict_logits(made, rows, text_context.task),
        predict_logits(text_model, rows, text_context.task),
        rtol=1e-4,
        atol=1e-5,
    )
    assert result.facts["relative_error"] == 0
    assert (result.facts["weights_before"], result.facts["weights_after"]) == (
        512,
        4 * 16 + 4 * 32,
    )


def test_recovery_trains_the_factors(text_model: nn.Module, text_context: Context) -> None:
    recovery = RecoveryConfig(epochs=1, batch_size=32, learning_rate=1e-3, precision="fp32")
    made = EmbeddingFactorization(rank=3).apply(text_model, text_context)
    bare = made.model
    made = EmbeddingFactorization(rank=3, recovery=recovery).apply(text_model, text_context)
    trained = made.model
    assert len(made.curve) == 1
    a, b = (each.bert.embeddings.word_embeddings.projection.weight for each in (bare, trained))
    assert a.shape == b.shape == (32, 3) and not torch.equal(a, b)


def test_rehearsing_gives_the_shapes(text_model: nn.Module, text_context: Context) -> None:
    stage = EmbeddingFactorization(rank=3)
    shapes = {name: value.shape for name, value in stage.rehearse(text_model).state_dict().items()}
    made = stage.apply(text_model, text_context).model
    assert shapes == {name: value.shape for name, value in made.state_dict().items()}


def test_what_can_not_be_factorized_is_refused(
    model: nn.Module, text_model: nn.Module, context: Context, text_context: Context
) -> None:
    with pytest.raises(ModelError, match=r"Transformer\b.*token_embedding"):
        EmbeddingFactorization(rank=2).rehearse(model)
    # 16 * 32 = 512 weights: rank 10 has 480, rank 11 has 528.
    with pytest.raises(
        StageError, match=r"rank 11 saves nothing in .*word_embeddings \[16, 32\]; .* 1 to 10"
    ):
        EmbeddingFactorization(rank=11).rehearse(text_model)
    once = EmbeddingFactorization(rank=3).apply(text_model, text_context).model
    with pytest.raises(StageError, match="already factorized, with rank 3"):
        EmbeddingFactorization(rank=2).apply(once, text_context)
    with pytest.raises(DataError, match="train rows .*input_ids"):
        EmbeddingFactorization(rank=2).apply(text_model, context)
