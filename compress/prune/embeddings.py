"""Factorize the token embedding: replace a wide table by a narrow table and a projection.

Lan et al. 2019, "ALBERT", arXiv 1909.11942, sec. 3.1, for the form; the factors are the best low-rank
approximation with rows weighted by token frequency, as in Chen et al. 2018, "GroupReduce", arXiv 1806.06950.
Shapes: v = tokens, m = embedding width, r = rank.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compress.errors import StageError
from compress.prune.stage import PruneStage
from compress.recovery import RecoveryConfig, recover_
from compress.stage import Context, StageResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.model.layers.embedding import FactorizedEmbedding

__all__ = ["EmbeddingFactorization", "weighted_factors"]


def weighted_factors(weight: Tensor, counts: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Factors of the given rank with the least squared error over all token occurrences.

    With D = diag(sqrt(counts + 1)) and V the first right singular vectors of D W, the best approximation of
    D W is D W V V^T, so the factors are W V and V.

    Args:
        weight: [v, m].
        counts: occurrences of each token, [v]; one is added so that no token is ignored.
        rank: r, at most min(v, m).

    Returns:
        Table [v, r], projection [m, r] with orthonormal columns, and the relative error
        ||D (W - table projection^T)|| / ||D W|| (Frobenius).
    """
    import torch

    wide = weight.detach().double()
    scaled = wide * (counts.double() + 1).sqrt()[:, None]  # D W
    # Eigenvectors of the Gram matrix [m, m]: the right singular vectors of [v, m] at a fraction of the cost.
    values, vectors = torch.linalg.eigh(scaled.T @ scaled)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    basis = vectors[:, :rank]  # [m, r]
    error = float((values[rank:].sum() / values.sum().clamp(min=1e-300)).sqrt())
    return (wide @ basis).to(weight.dtype), basis.to(weight.dtype).contiguous(), error


class EmbeddingFactorization(PruneStage):
    """Replace the token embedding by a table of `rank` columns and a projection.

    Attributes:
        rank: columns of the table.
        recovery: training of the whole model afterwards.
    """

    name: ClassVar[str] = "prune/embeddings"
    summary: ClassVar[str] = "factorize the token embedding, weighted by token frequency: smaller, not faster"

    rank: int = Field(ge=1)
    recovery: RecoveryConfig | None = None

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that the rank saves weights, and insert uninitialized factors."""
        from compress.model.cutting.vocabulary import token_embedding

        shape = copy.deepcopy(model)
        path, _ = token_embedding(shape)
        shape.set_submodule(path, self._factors(shape))
        return shape

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return a copy with a factorized embedding.

        Raises:
            StageError: the model has no token embedding, or the rank saves nothing.
        """
        import torch

        from compress.data.readers.vocabulary import token_counts
        from compress.model.cutting.vocabulary import token_embedding

        made = copy.deepcopy(model).eval()
        path, wide = token_embedding(made)
        factors = self._factors(made)
        weight = wide.weight
        assert isinstance(weight, torch.Tensor)
        counts = torch.from_numpy(token_counts(context.train, len(weight)))
        table, projection, error = weighted_factors(weight, counts, self.rank)
        factors.table.weight = torch.nn.Parameter(table)
        factors.projection.weight = torch.nn.Parameter(projection)
        made.set_submodule(path, factors.eval())
        facts = {
            "rank": self.rank,
            "relative_error": round(error, 4),
            "weights_before": weight.numel(),
            "weights_after": table.numel() + projection.numel(),
        }
        result = StageResult(made, facts)
        if self.recovery is not None:
            recover_(result, model, self.recovery, context, "prune/embeddings recovery")
        made.eval()
        return result

    def _factors(self, model: nn.Module) -> FactorizedEmbedding:
        from compress.model.cutting.vocabulary import token_embedding
        from compress.model.layers.embedding import FactorizedEmbedding

        path, wide = token_embedding(model)
        if isinstance(wide, FactorizedEmbedding):
            raise StageError(f"prune/embeddings: {path} is already factorized, with rank {wide.rank}")
        if wide.max_norm is not None:
            raise StageError(f"prune/embeddings: {path} has max_norm, which factors can't reproduce")
        tokens, width = wide.num_embeddings, wide.embedding_dim
        most = (tokens * width - 1) // (tokens + width)
        if self.rank > most:
            raise StageError(
                f"prune/embeddings: rank {self.rank} saves nothing in {path} [{tokens}, {width}]; "
                f"allowed: 1 to {most}"
            )
        made = FactorizedEmbedding(tokens, self.rank, width, padding_idx=wide.padding_idx)
        return made.to(wide.weight)
