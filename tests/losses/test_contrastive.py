"""The contrastive loss: by hand, and what is never a negative."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.errors import StageError
from compress.losses.config import ContrastiveTerm, LossConfig
from compress.losses.contrastive import Partners, contrastive_loss
from compress.prune.heads import HeadPruning
from compress.recovery import RecoveryConfig, check_recovery
from compress.tasks.links import Links
from tests.sentence_folders import prepared_embedder


def _links(pairs: list[tuple[int, int]], scores: list[float], rows: int, documents: list[int]) -> Links:
    ids = np.array([*range(rows - 1), -1])  # the last row is named by no link
    return Links(ids, np.array(pairs), np.array(scores), np.array(documents, dtype=np.int64))


def test_the_loss_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]], requires_grad=True)
    partner = torch.tensor([[False, True, False], [False] * 3, [False] * 3])
    negative = torch.tensor([[False, False, True], [True, False, True], [True, True, False]])
    loss = contrastive_loss(vectors, partner, negative, 0.5)
    assert loss.item() == pytest.approx(math.log(math.exp(0.6 / 0.5) + math.exp(0)) - 0.6 / 0.5)
    loss.backward()
    assert vectors.grad is not None and bool(torch.isfinite(vectors.grad).all())
    assert contrastive_loss(vectors, torch.zeros(3, 3, dtype=torch.bool), negative, 0.5).item() == 0
    alone = contrastive_loss(vectors, partner, torch.zeros(3, 3, dtype=torch.bool), 0.5)
    assert alone.item() == 0  # without negatives there is nothing to learn


def test_relevant_documents_queries_and_copies_are_no_negatives() -> None:
    # Queries 0 and 1, documents 2 to 5, and a changed copy; 0 has two relevant documents and a judged other.
    links = _links([(0, 2), (0, 3), (0, 4), (1, 5)], [2.0, 1.0, 0.0, 1.0], 7, [2, 3, 4, 5])
    partner, negative = Partners(links, 1.0).at(torch.tensor([0, 1, 2, 3, 4, 5, 6]))
    assert partner[0].nonzero().flatten().tolist() == [2, 3]
    assert negative[0].nonzero().flatten().tolist() == [4, 5]
    assert partner[1].nonzero().flatten().tolist() == [5]
    assert negative[1].nonzero().flatten().tolist() == [2, 3, 4]
    assert not partner[2:].any()
    partner, negative = Partners(links, 2.0).at(torch.tensor([3, 0, 5]))  # less relevant: neither
    assert not partner.any() and negative[1].tolist() == [False, False, True]


def test_pairs_with_scores_count_both_ways() -> None:
    links = _links([(0, 1), (2, 3)], [5.0, 2.0], 5, [])
    partner, negative = Partners(links, 4.0).at(torch.arange(5))
    assert partner.nonzero().tolist() == [[0, 1], [1, 0]]
    assert negative[2].tolist() == [True, True, False, False, False]  # 3 has a score with it


def test_what_brings_rows_into_one_batch() -> None:
    assert LossConfig.model_validate({"logits": 1}).least is None
    assert LossConfig.model_validate({"logits": 1, "contrastive": 0}).least is None
    above = LossConfig.model_validate({"contrastive": 1})
    assert above.least is not None and 0 < above.least < 1e-300 and not above.needs_teacher
    assert LossConfig.model_validate({"contrastive": {"least": 3}}).least == 3
    assert "contrastive" not in LossConfig.model_validate({"logits": 1}).model_dump()


def test_recovery_asks_for_what_its_losses_compare(tmp_path: Path) -> None:
    module, context = prepared_embedder(tmp_path)
    plain = HeadPruning(sparsity=0.5, recovery=RecoveryConfig(similarity=1.0))
    check_recovery(plain, context)
    assert plain.recovery is not None and plain.recovery.losses(has_layers=False).of_vectors == (
        "similarity",
    )
    joined = HeadPruning(sparsity=0.5, recovery=RecoveryConfig(contrastive=ContrastiveTerm(weight=0.1)))
    with pytest.raises(StageError, match=r"prune/heads: recovery\.contrastive"):
        check_recovery(joined, context)
    made = plain.apply(module, context)
    assert made.curve and all(np.isfinite(epoch["train_loss"]) for epoch in made.curve)
