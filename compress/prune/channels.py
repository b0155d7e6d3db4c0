"""Channel pruning: remove filters of convolutions and hidden units of recurrent layers.

Filters joined by a skip connection form one group with their batch norms; a hidden unit is removed with all
its gates. A channel's score is the mean over rows of |d loss / d gate| (Molchanov et al. 2017, arXiv
1611.06440, sec. 2.2, with the gate a factor 1 on the channel wherever a layer reads it).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compress.errors import ModelError, StageError, did_you_mean
from compress.prune.importance.removal import Removal, Scope, choose_units, remove_in_steps, units_to_remove
from compress.prune.stage import PruneStage
from compress.prune.width import feature_importance
from compress.recovery import RecoveryConfig, recover_
from compress.stage import Context, StageResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.model.structure.sites import Coupled

__all__ = ["ChannelPruning"]


class ChannelPruning(PruneStage):
    """Remove channels physically: convolutions, batch norms and recurrent layers become narrower.

    Attributes:
        sparsity: fraction of all channels to remove.
        groups: names of the groups to prune, as in the model's `structure()`; empty means all.
        scope: `global` ranks the channels of all groups together; `layer` removes the same share of each
            group.
        min_channels: fewest channels that each group keeps.
        multiple_of: round each group's kept channels to the nearest multiple, so the total may differ from
            `sparsity`. ONNX Runtime's fast convolutions work on blocks of 16 channels (8 without AVX512);
            other numbers cost as much as the next multiple, or far more.
        steps: number of equal portions to remove, scoring again after each.
        calibration_rows: training rows used for scoring.
        recovery: training after the cut.
    """

    name: ClassVar[str] = "prune/channels"
    summary: ClassVar[str] = (
        "remove filters of convolutions and hidden units of recurrent layers by their Taylor score: smaller "
        "and faster"
    )

    sparsity: float = Field(gt=0, lt=1)
    groups: tuple[str, ...] = ()
    scope: Scope = "global"
    min_channels: int = Field(default=4, ge=1)
    multiple_of: int = Field(default=1, ge=1)
    steps: int = Field(default=4, ge=1, le=100)
    calibration_rows: int = Field(default=512, ge=1)
    recovery: RecoveryConfig | None = None

    @property
    def guess(self) -> str:
        """Which channels are removed from each group; see `Stage.guess`."""
        return "how many channels each group loses (shown: equal shares)"

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that this many channels can be removed, and remove the last ones."""
        import torch

        from compress.model.cutting.width import keep_features_

        groups, before = self._groups(model)
        remove = self._channels_to_remove(before)
        even = [torch.arange(count, dtype=torch.float) for count in before]
        shape = copy.deepcopy(model)
        removal = self._removal(remove)
        for group, count, kept in zip(
            groups, before, choose_units(even, remove, scope="layer", least=self.min_channels), strict=True
        ):
            keep_features_(shape, range(removal.rounded(len(kept), count)), group)
        return shape

    def _removal(self, remove: int) -> Removal:
        return Removal(remove, self.steps, self.scope, self.min_channels, self.multiple_of)

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return a copy with fewer channels."""
        from compress.model.cutting.width import keep_features_

        pruned = copy.deepcopy(model).eval()
        groups, before = self._groups(pruned)
        remove = self._channels_to_remove(before)
        calibration = context.train.take(self.calibration_rows, seed=context.seed)

        def score() -> list[Tensor]:
            return feature_importance(pruned, calibration, context.task, groups, device=context.device)

        with context.progress.bar("prune/channels: scoring channels", self.steps) as bar:
            kept = remove_in_steps(
                score,
                lambda place, channels: keep_features_(pruned, channels, groups[place]),
                before,
                self._removal(remove),
                on_step=lambda left: bar.advance(1, f"{left} of {sum(before)} channels left"),
            )
        counts = {
            group.name: {"before": count, "kept": len(channels)}
            for group, count, channels in zip(groups, before, kept, strict=True)
        }
        made = StageResult(pruned, {"channels": counts, "calibration_rows": len(calibration)})
        if self.recovery is not None:
            recover_(made, model, self.recovery, context, "prune/channels recovery")
        pruned.eval()
        return made

    def _groups(self, model: nn.Module) -> tuple[list[Coupled], list[int]]:
        """Return the groups to prune and the number of channels of each."""
        from compress.model.cutting.width import feature_count
        from compress.model.structure.find import lacking, structure_of

        known = {group.name: group for group in structure_of(model).channels}
        if not known:
            raise ModelError(
                f"{lacking(model, 'channels', 'channels')}, so prune/channels has nothing to cut (examples: "
                "models/cnn.py, models/rnn.py; for Transformers use prune/structured or prune/width)",
                see="how-to/own-modules",
            )
        for name in self.groups:
            if name not in known:
                raise StageError(f"prune/channels: no group '{name}'{did_you_mean(name, known)}")
        chosen = [group for name, group in known.items() if not self.groups or name in self.groups]
        return chosen, [feature_count(model, group) for group in chosen]

    def _channels_to_remove(self, before: list[int]) -> int:
        return units_to_remove(
            self.name, "channel", before, self.sparsity, self.min_channels, option="min_channels"
        )
