"""Depth pruning: remove whole layers; the remaining ones are unchanged.

A Transformer's layers add to the residual stream, so one can be left out; `compress.layer_choice` chooses
which. `prune/structured` can also remove single sub-layers, to meet a budget.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from compress.errors import ModelError, StageError
from compress.layer_choice import Keep, best_layers, layers_to_keep
from compress.prune.stage import PruneStage
from compress.recovery import RecoveryConfig, recover_
from compress.stage import Context, StageResult

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LayerPruning"]


class LayerPruning(PruneStage):
    """Remove whole layers physically; the remaining ones keep their order.

    Attributes:
        layers: number of layers to keep, or their indices (from 0).
        keep: how to choose them when a number is given. best: repeatedly remove the layer whose removal
            changes the model's outputs on validation rows least (labels are not used). spaced: evenly spaced,
            including the last. first, last.
        recovery: training after the cut: from the labels, from the original model's outputs and from the
            hidden states that it passed to each layer that is kept.
    """

    name: ClassVar[str] = "prune/layers"
    summary: ClassVar[str] = (
        "remove whole layers, least important for validation first: smaller, and proportionally faster"
    )

    layers: int | tuple[int, ...]
    keep: Keep = Field(default="best")
    recovery: RecoveryConfig | None = None

    @model_validator(mode="after")
    def _some_layers(self) -> Self:
        if isinstance(self.layers, int):
            if self.layers < 1:
                raise ValueError(f"layers must be at least 1; got {self.layers}")
        elif not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers must be ascending numbers from 0; got {list(self.layers)}")
        elif self.keep != "best":
            raise ValueError(f"keep: {self.keep} is only allowed with layers as a number")
        return self

    @property
    def guess(self) -> str:
        """Which layers are kept; see `Stage.guess`."""
        return "which layers are kept (shown: the first ones)" if self._chosen_by_trying else ""

    @property
    def _chosen_by_trying(self) -> bool:
        return isinstance(self.layers, int) and self.keep == "best"

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that this many layers can be removed, and keep some."""
        from compress.model.cutting.depth import keep_layers_

        shape = copy.deepcopy(model)
        keep_layers_(shape, self._kept(shape, None)[0])
        return shape

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return a shallower copy.

        Raises:
            StageError: the number of layers to keep is not below the model's, or a layer doesn't exist.
            ModelError: the model doesn't say where its layers are, or can't be built with fewer.
        """
        from compress.model.cutting.depth import keep_layers_, layer_count

        pruned = copy.deepcopy(model).eval()
        total = layer_count(pruned)
        kept, facts = self._kept(pruned, context)
        keep_layers_(pruned, kept)
        made = StageResult(pruned, {**facts, "layers_before": total, "layers_kept": kept})
        if self.recovery is not None:
            learnt = inputs_of(kept, total)
            recover_(made, model, self.recovery, context, "prune/layers recovery", layers=learnt)
        pruned.eval()
        return made

    def _kept(self, model: nn.Module, context: Context | None) -> tuple[list[int], dict[str, int]]:
        """Return the layers to keep and facts on the choice; without a context, nothing is tried."""
        from compress.model.cutting.depth import layer_count

        try:
            total = layer_count(model)
        except ModelError as error:
            raise StageError(f"{self.name}: {error}") from error
        if not isinstance(self.layers, int):
            if self.layers[-1] >= total or len(self.layers) == total:
                raise StageError(
                    f"{self.name}: layers {list(self.layers)} must be some, but not all, of the model's "
                    f"layers 0 to {total - 1}"
                )
            return list(self.layers), {}
        if self.layers >= total:
            raise StageError(
                f"{self.name}: layers: {self.layers} of the model's {total} would be kept; allowed: 1 to "
                f"{total - 1}"
            )
        if self.keep != "best":
            return layers_to_keep(total, self.layers, self.keep), {}
        if context is None:
            return layers_to_keep(total, self.layers, "first"), {}
        return best_layers(model, self.layers, context, self.name)


def inputs_of(kept: Sequence[int], total: int) -> list[int]:
    """Return, for each kept layer, the original layer whose output was the input of the next kept layer.

    Of 6 layers with 0, 1 and 4 kept: 0 maps to 0 (the input of 1), 1 to 3 (the input of 4) and 4 to 5 (the
    final output).
    """
    return [*(following - 1 for following in kept[1:]), total - 1]
