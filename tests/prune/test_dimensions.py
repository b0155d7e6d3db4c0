"""Shorter vectors: the directions by hand, what is folded into which layer, and what is chosen."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compress.data import Split
from compress.errors import StageError
from compress.model.files.config import ModelConfig
from compress.model.files.definition import add_dense_, definition_of
from compress.model.files.embedder import Embedder
from compress.model.files.load import load_model
from compress.model.forward import predict_logits
from compress.prune.dimensions import DimensionPruning, principal_directions
from compress.stage import Context

from ..sentence_folders import prepared_embedder, write_sentence_folder


def test_directions_are_about_zero_and_strongest_first() -> None:
    vectors = torch.tensor([[0.0, -2.0, 0.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    rows, shares = principal_directions(vectors)  # squares 5, 1 and 0
    assert rows[:2].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert shares.tolist() == pytest.approx([5 / 6, 1 / 6, 0])


def test_no_other_cut_keeps_inner_products_better() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(40, 6, generator=draw) + 2, dim=-1).double()
    rows, _ = principal_directions(vectors)
    kept = vectors @ rows[:3].T
    error = (kept @ kept.T - vectors @ vectors.T).norm()
    singular = torch.linalg.svdvals(vectors)
    # Eckart and Young: what no matrix of rank 3 can have.
    assert float(error) == pytest.approx(float((singular[3:] ** 4).sum().sqrt()), rel=1e-6)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Embedder, Context]:
    return prepared_embedder(tmp_path_factory.mktemp("dimensions"))


def _vectors(model: nn.Module, context: Context) -> torch.Tensor:
    return predict_logits(model, context.validation, context.task)


def test_vectors_are_turned_cut_and_normalized_again(prepared: tuple[Embedder, Context]) -> None:
    model, context = prepared
    result = DimensionPruning(keep=8, method="pca").apply(model, context)
    made, facts = result.model, result.facts
    before, after = _vectors(model, context), _vectors(made, context)
    directions, _ = principal_directions(_vectors(model, replace(context, validation=context.train)))
    wanted = F.normalize(before @ directions[:8].T.float(), dim=-1)
    # The layer reads vectors before normalization, so float32 rounds elsewhere.
    torch.testing.assert_close(after, wanted, rtol=1e-4, atol=1e-5)
    table = facts["neighbour_overlap_by_dimensions_on_validation"]
    assert list(table) == [f"{count} dimensions" for count in (8, 16, 32)] and table["32 dimensions"] == {
        "first": 1.0,
        "pca": 1.0,
    }
    assert table["8 dimensions"]["pca"] == pytest.approx(
        context.task.value(after.numpy(), context.validation.truth(context.task)), abs=1e-4
    )
    assert (facts["dimensions_before"], facts["dimensions_kept"], facts["method"]) == (32, 8, "pca")
    assert 0.5 < facts["squares_kept"] < 1


@pytest.mark.parametrize("method", ["auto", "first", "pca"])
def test_auto_is_what_keeps_more_on_validation(prepared: tuple[Embedder, Context], method: str) -> None:
    model, context = prepared
    facts = DimensionPruning(keep=8, method=method).apply(model, context).facts  # type: ignore[arg-type]
    at = facts["neighbour_overlap_by_dimensions_on_validation"]["8 dimensions"]
    assert facts["method"] == (method if method != "auto" else max(at, key=at.__getitem__))
    assert ("calibration_rows" in facts) == (method != "first")


def test_auto_takes_the_first_numbers_if_the_others_say_nothing(prepared: tuple[Embedder, Context]) -> None:
    model, context = prepared
    weight = torch.zeros(32, 32)
    weight[:8, :8] = torch.eye(8)
    nested = _with_dense(model, weight)
    context = replace(context, teacher=nested, validation=_without_labels(context))
    result = DimensionPruning(keep=8).apply(nested, context)
    assert result.facts["method"] == "first"
    assert torch.allclose(_vectors(result.model, context), _vectors(nested, context)[:, :8], atol=1e-6)


def test_a_last_layer_without_activation_takes_the_cut_in(
    prepared: tuple[Embedder, Context], tmp_path: Path
) -> None:
    model, context = prepared
    weight = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    linear = _with_dense(model, weight)
    made = DimensionPruning(keep=6, method="first").apply(linear, context).model
    assert [tuple(layer.linear.weight.shape) for layer in made.dense] == [(6, 32)]  # type: ignore[union-attr]
    definition = definition_of(made)
    assert definition is not None
    rebuilt = definition.build()
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == {
        name: value.shape for name, value in made.state_dict().items()
    }
    folder = write_sentence_folder(tmp_path / "st", dense=(16,))  # with Tanh
    bent = load_model(ModelConfig(hf=str(folder)), seed=0, scratch=tmp_path, task="embedding").module
    made = DimensionPruning(keep=4, method="first").apply(bent, context).model
    assert [tuple(layer.linear.weight.shape) for layer in made.dense] == [(16, 32), (4, 16)]  # type: ignore[union-attr]
    wanted = F.normalize(_vectors(bent, context)[:, :4], dim=-1)
    assert torch.allclose(_vectors(made, context), wanted, atol=1e-5)


def test_what_cannot_be_cut_is_refused_before_work(
    prepared: tuple[Embedder, Context], model: nn.Module, context: Context
) -> None:
    embedder, of_texts = prepared
    for stage in (DimensionPruning(keep=32), DimensionPruning(keep=99)):
        with pytest.raises(StageError, match="keep"):
            stage.rehearse(embedder)
    with pytest.raises(StageError, match="too few"):
        DimensionPruning(keep=8, calibration_rows=31).check(embedder, of_texts)
    DimensionPruning(keep=8, calibration_rows=31, method="first").check(embedder, of_texts)
    with pytest.raises(StageError, match="omit it"):
        DimensionPruning(keep=8).check(model, context)
    with pytest.raises(StageError, match=r"model\.pooling"):
        DimensionPruning(keep=8).check(model, of_texts)


def _without_labels(context: Context) -> Split:
    return replace(context.validation, labels=np.full((len(context.validation), 1), np.nan, np.float32))


def _with_dense(model: Embedder, weight: torch.Tensor) -> Embedder:
    made = copy.deepcopy(model)
    add_dense_(made, weight)
    return made
