"""Base of the prune stages: checks the new model against the stage's facts.

Otherwise a cut without effect (a weight that is computed from others, or that is a copy of what was cut)
would be reported as done.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from compress.errors import StageError
from compress.stage import Context, Stage, StageResult

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PruneStage"]


class PruneStage(Stage):
    """A stage that removes part of a model.

    A subclass builds the new model in `pruned` and returns facts about it; each fact whose key is in
    `_MEASURES` is measured again on that model.
    """

    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "prune"

    @abstractmethod
    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return the new model and facts about it; `model` is left unchanged.

        Raises:
            StageError: the model has nothing that this stage can prune.
        """

    def apply(self, model: nn.Module, context: Context) -> StageResult:
        """Return the new model, after checking it against its facts.

        Raises:
            StageError: as `pruned`; or the new model contradicts the facts.
            ModelError: a weight is computed from others, so no part of it can be removed.
        """
        from compress.model.files.computed_weights import check_plain

        check_plain(model)
        made = self.pruned(model, context)
        _verify(self.name, made.model, made.facts)
        return made


def _verify(stage: str, model: nn.Module, facts: Mapping[str, Any]) -> None:
    for key, measure in _MEASURES.items():
        if key not in facts:
            continue
        claimed, found = facts[key], measure(model, facts[key])
        if found != claimed:
            raise StageError(
                f"{stage}: the cut failed: {key} should be {claimed} but is {found}; the model may compute "
                "or copy the weights that it multiplies with"
            )


def _at_least_so_sparse(model: nn.Module, claimed: Mapping[str, float]) -> dict[str, float]:
    """Return the share of zeros in each layer's weight, capped at the claimed share."""
    import torch

    found = {}
    for name, share in claimed.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        found[name] = min(share, round(1 - int(torch.count_nonzero(weight)) / weight.numel(), 4))
    return found


def _heads(model: nn.Module, claimed: list[int]) -> list[int]:
    from compress.model.structure.find import structure_of

    return [site.units(model) for site in structure_of(model).attention]


def _channels(model: nn.Module, claimed: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    from compress.model.cutting.width import feature_count
    from compress.model.structure.find import structure_of

    groups = {group.name: group for group in structure_of(model).channels}
    return {name: {**counts, "kept": feature_count(model, groups[name])} for name, counts in claimed.items()}


def _sites(model: nn.Module, claimed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from compress.model.structure.find import structure_of

    left = {(site.name, site.kind): site.units(model) for site in structure_of(model).sites}
    return [{**site, "kept": left.get((site["name"], site["kind"]), 0)} for site in claimed]


def _layers(model: nn.Module, claimed: list[int]) -> list[int]:
    from compress.model.cutting.depth import layer_count

    return claimed if layer_count(model) == len(claimed) else list(range(layer_count(model)))


def _width(model: nn.Module, claimed: int) -> int:
    from compress.model.cutting.width import hidden_width

    return hidden_width(model)


def _rank(model: nn.Module, claimed: int) -> int:
    from compress.model.cutting.vocabulary import token_embedding, token_table

    return token_table(token_embedding(model)[1]).embedding_dim


def _vocabulary(model: nn.Module, claimed: int) -> int:
    from compress.model.cutting.vocabulary import token_embedding, token_table

    return len(token_table(token_embedding(model)[1]).weight)


def _dimensions(model: nn.Module, claimed: int) -> int:
    from compress.model.files.embedder import Embedder

    return int(model.described("")["dimensions"]) if isinstance(model, Embedder) else 0


_MEASURES: dict[str, Callable[[nn.Module, Any], Any]] = {
    "sparsity_per_layer": _at_least_so_sparse,
    "heads_kept": _heads,
    "channels": _channels,
    "sites": _sites,
    "layers_kept": _layers,
    "width_kept": _width,
    "rank": _rank,
    "vocabulary_kept": _vocabulary,
    "dimensions_kept": _dimensions,
}
"""Fact key -> function of the new model and the claimed fact that returns the measured fact."""
