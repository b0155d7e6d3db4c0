"""An embedding as two low-rank factors.

Shapes: v = tokens, r = rank, m = embedding width, b = batch, s = sequence.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["FactorizedEmbedding"]


class FactorizedEmbedding(nn.Module):
    """An embedding [v, m] as a table [v, r] and a projection [m, r]: v*r + r*m weights instead of v*m.

    Lan et al. 2019, "ALBERT", arXiv 1909.11942, sec. 3.1. The factors are a plain nn.Embedding and nn.Linear,
    so that they are quantized, exported and saved like any other.

    Args:
        num_embeddings: v.
        rank: r.
        embedding_dim: m.
        padding_idx: the token whose row of the table is not trained.
    """

    def __init__(
        self, num_embeddings: int, rank: int, embedding_dim: int, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        # Stored, and updated when cutting: quantizing replaces the factors.
        self.num_embeddings, self.rank, self.embedding_dim = num_embeddings, rank, embedding_dim
        self.padding_idx = padding_idx
        self.table = nn.Embedding(num_embeddings, rank, padding_idx=padding_idx)
        self.projection = nn.Linear(rank, embedding_dim, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map token ids [b, s] to [b, s, m]."""
        embedded: Tensor = self.projection(self.table(input_ids))
        return embedded

    def config(self) -> dict[str, Any]:
        """Constructor arguments, as plain data."""
        return {
            "num_embeddings": self.num_embeddings,
            "rank": self.rank,
            "embedding_dim": self.embedding_dim,
            "padding_idx": self.padding_idx,
        }
