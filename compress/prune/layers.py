"""Depth pruning: whole layers go, and those that stay are as they were.

A Transformer's layers add to what flows past them, so one can be left out; which, is chosen by
`compress.layer_choice`. `prune/structured` can remove single sub-layers too, to a budget.
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
    """Remove whole layers, physically: fewer stay, in their order.

    Attributes:
        layers: how many stay, or which (from 0).
        keep: which stay, where their number is given. best: of all the one without which the model's answers
            on validation rows change least goes, again and again; labels are not looked at. spaced: spread
            evenly with the last. first, last.
        recovery: training after the cut, from the labels, from the model's answers and from the states that
            it gave to each layer that stays.
    """

    name: ClassVar[str] = "prune/layers"
    summary: ClassVar[str] = (
        "remove whole layers, those that are missed least on validation: smaller, and faster in proportion"
    )

    layers: int | tuple[int, ...]
    keep: Keep = Field(default="best")
    recovery: RecoveryConfig | None = None

    @model_validator(mode="after")
    def _some_layers(self) -> Self:
        if isinstance(self.layers, int):
            if self.layers < 1:
                raise ValueError(f"layers: at least 1; got {self.layers}")
        elif not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers: numbers from 0, ascending; got {list(self.layers)}")
        elif self.keep != "best":
            raise ValueError(f"keep: {self.keep} goes with a number of layers")
        return self

    @property
    def guess(self) -> str:
        """Which go; see `Stage.guess`."""
        return "which layers stay (shown: the first ones)" if self._chosen_by_trying else ""

    @property
    def _chosen_by_trying(self) -> bool:
        return isinstance(self.layers, int) and self.keep == "best"

    def rehearse(self, model: nn.Module) -> nn.Module:
        """See that so many layers can go, and keep some."""
        from compress.model.cutting.depth import keep_layers_

        shape = copy.deepcopy(model)
        keep_layers_(shape, self._kept(shape, None)[0])
        return shape

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return a shallower copy.

        Raises:
            StageError: as many layers are asked for as there are, or more, or one that isn't there.
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
        """The layers that stay, and facts on how they were chosen; without a context nothing is tried."""
        from compress.model.cutting.depth import layer_count

        try:
            total = layer_count(model)
        except ModelError as error:
            raise StageError(f"{self.name}: {error}") from error
        if not isinstance(self.layers, int):
            if self.layers[-1] >= total or len(self.layers) == total:
                raise StageError(
                    f"{self.name}: layers {list(self.layers)}: the model has {total} (0 to {total - 1}); "
                    "name some of them, not all"
                )
            return list(self.layers), {}
        if self.layers >= total:
            raise StageError(
                f"{self.name}: layers: {self.layers} would stay and the model has {total}; "
                f"allowed: 1 to {total - 1}"
            )
        if self.keep != "best":
            return layers_to_keep(total, self.layers, self.keep), {}
        if context is None:
            return layers_to_keep(total, self.layers, "first"), {}
        return best_layers(model, self.layers, context, self.name)


def inputs_of(kept: Sequence[int], total: int) -> list[int]:
    """For each layer that stays the first model's whose output the next one that stays was given.

    Of 6 layers with 0, 1 and 4 left: 0 gives what 1 was given, the output of 0; 1 what 4 was given, that of
    3; and 4 what came out of all, that of 5.
    """
    return [*(following - 1 for following in kept[1:]), total - 1]
