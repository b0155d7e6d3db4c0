"""Structured head pruning: remove whole attention heads by a Taylor score over calibration rows.

Michel et al. 2019, arXiv 1905.10650; scores are divided by the layer's L2 norm (sec. 4.1, after Molchanov et
al. 2017), so that layers are comparable. `prune/structured` prunes neurons too, and to a budget.
Shapes: h = heads.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compress.errors import StageError
from compress.prune.importance.removal import Removal, Scope, remove_in_steps, units_to_remove
from compress.prune.importance.taylor import taylor_importance
from compress.prune.stage import PruneStage
from compress.recovery import RecoveryConfig, recover_
from compress.stage import Context, StageResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.model.structure.sites import Structure

__all__ = ["HeadPruning"]


class HeadPruning(PruneStage):
    """Remove whole attention heads physically: q, k, v and out become narrower.

    With grouped queries (several query heads share one key/value head), such a group is scored, counted and
    removed as one.

    Attributes:
        sparsity: fraction of all heads to remove.
        scope: `global` ranks the heads of all layers together; `layer` removes the same share of each layer.
        min_heads: fewest heads that each layer keeps.
        steps: number of equal portions to remove, scoring again after each: slower, and safer at a high
            sparsity.
        calibration_rows: training rows used for scoring.
        recovery: training after the cut.
    """

    name: ClassVar[str] = "prune/heads"
    summary: ClassVar[str] = (
        "remove whole attention heads by their Taylor score (Michel et al. 2019): smaller and faster"
    )

    sparsity: float = Field(gt=0, lt=1)
    scope: Scope = "global"
    min_heads: int = Field(default=1, ge=1)
    steps: int = Field(default=4, ge=1, le=100)
    calibration_rows: int = Field(default=512, ge=1)
    recovery: RecoveryConfig | None = None

    @property
    def guess(self) -> str:
        """Which heads are removed from each layer; see `Stage.guess`."""
        return "which layers lose heads (shown: the first ones)"

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that this many heads can be removed, and remove the first ones."""
        from compress.model.cutting.units import keep_units_
        from compress.model.structure.find import structure_of

        structure = structure_of(model)
        before = [site.units(model) for site in structure.attention]
        left = self._heads_to_remove(before, structure)
        shape = copy.deepcopy(model)
        for site, count in zip(structure.attention, before, strict=True):
            gone = min(left, max(0, count - self.min_heads))
            if gone:
                keep_units_(shape, site, range(gone, count))
            left -= gone
        return shape

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return a copy with fewer heads."""
        from compress.model.cutting.units import keep_units_
        from compress.model.structure.find import structure_of

        pruned = copy.deepcopy(model).eval()
        structure = structure_of(pruned)
        before = [site.units(pruned) for site in structure.attention]
        remove = self._heads_to_remove(before, structure)
        calibration = context.train.take(self.calibration_rows, seed=context.seed)

        def score() -> list[Tensor]:
            return taylor_importance(
                pruned, structure.attention, calibration, context.task, device=context.device
            )

        def keep_(block: int, heads: list[int]) -> None:
            keep_units_(pruned, structure.attention[block], heads)

        with context.progress.bar("prune/heads: scoring heads", self.steps) as bar:
            kept = remove_in_steps(
                score,
                keep_,
                before,
                Removal(remove, self.steps, self.scope, self.min_heads),
                on_step=lambda left: bar.advance(1, f"{left} of {sum(before)} heads left"),
            )
        queries = structure.attention[0].queries
        facts = {
            **({"queries_per_group": queries} if queries > 1 else {}),  # the counts below are of such groups
            "heads_before": before,
            "heads_kept": [len(heads) for heads in kept],
            "heads_kept_indices": kept,
            "calibration_rows": len(calibration),
        }
        made = StageResult(pruned, facts)
        if self.recovery is not None:
            recover_(made, model, self.recovery, context, "prune/heads recovery")
        pruned.eval()
        return made

    def _heads_to_remove(self, before: Sequence[int], structure: Structure) -> int:
        if not before:
            raise StageError(f"prune/heads: {structure.nothing('attention')}")
        unit = structure.attention[0].unit_name
        return units_to_remove(self.name, unit, before, self.sparsity, self.min_heads, option="min_heads")
