"""Width pruning: remove the least important hidden features from every layer at once, physically.

A feature's score is the mean over rows of |d loss / d gate|, as for heads (Michel et al. 2019, arXiv
1905.10650, sec. 4.1), for one gate: a factor 1 on the feature wherever a layer reads it. By the chain rule it
is the sum of the derivatives of one gate per reader.
Shapes: m = hidden features, b = rows of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from compress.errors import StageError
from compress.prune.importance.unit_gates import gate_gradients
from compress.prune.stage import PruneStage
from compress.recovery import RecoveryConfig, recover_
from compress.stage import Context, StageResult

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.structure.sites import Coupled
    from compress.tasks import Task

__all__ = ["WidthPruning", "feature_importance", "strongest"]


def feature_importance(
    model: nn.Module, split: Split, task: Task, groups: Sequence[Coupled | None] = (None,), **options: Any
) -> list[Tensor]:
    """Score each feature of the groups in one pass: [m] per group, on the CPU.

    Args:
        groups: None means the hidden width between layers.
        options: passed to `gate_gradients`.

    Raises:
        ModelError: the model doesn't define a group.
        StageError: a gradient is not finite.
    """
    import torch

    from compress.model.cutting.width import feature_count, hidden_group, present_readers
    from compress.model.structure.sites import Site

    # A reader's inputs are units too: one column each, or several after a flattened image.
    counts, readers, of = [], [], []
    for place, given in enumerate(groups):
        group = given or hidden_group(model)
        counts.append(feature_count(model, group))
        for path in present_readers(model, group):
            reader = model.get_submodule(path)
            columns = getattr(reader, "in_features", getattr(reader, "in_channels", counts[-1]))
            readers.append(Site(path, "feed_forward", 0, (), path, int(columns) // counts[-1]))
            of.append(place)
    totals = [torch.zeros(count) for count in counts]
    for gradients in gate_gradients(model, readers, split, task, **options):
        for place, total in enumerate(totals):
            mine = [gradient for gradient, its in zip(gradients, of, strict=True) if its == place]
            total += torch.stack(mine).sum(0).abs().sum(0)  # [readers, b, m] -> [m]
    return [total / len(split) for total in totals]


def strongest(scores: Tensor, count: int) -> list[int]:
    """Indices of the `count` highest scores [m], ascending; ties go to the first."""
    import torch

    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())


class WidthPruning(PruneStage):
    """Remove hidden features: columns of embeddings and readers, rows of writers, entries of LayerNorms.

    Attributes:
        width: hidden features to keep; multiples of 16 suit the kernels.
        sparsity: alternative to width: fraction of the hidden features to remove.
        calibration_rows: training rows used for scoring.
        recovery: training after the cut; needed in practice, because the cut touches every layer (removing a
            quarter of MiniLM's features without it costs 8 points of accuracy).
    """

    name: ClassVar[str] = "prune/width"
    summary: ClassVar[str] = (
        "remove hidden features from all layers at once by their Taylor score: smaller and faster; needs "
        "recovery"
    )

    width: int | None = Field(default=None, ge=1)
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    calibration_rows: int = Field(default=512, ge=1)
    recovery: RecoveryConfig | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.width is None) == (self.sparsity is None):
            raise ValueError("give either width (features to keep) or sparsity (the fraction to remove)")
        return self

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that the model has a hidden width that can be cut, and keep the first features."""
        from compress.model.cutting.width import hidden_width, keep_features_, own_size_

        shape = copy.deepcopy(model)
        own_size_(shape)
        keep_features_(shape, range(self._kept(hidden_width(shape))))
        return shape

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return a narrower copy.

        Raises:
            StageError: the number of features to keep is not below the model's.
            ModelError: the model doesn't define which tensors have the hidden width.
        """
        from compress.model.cutting.width import hidden_width, keep_features_, own_size_

        pruned = copy.deepcopy(model).eval()
        own_size_(pruned)
        before = hidden_width(pruned)
        count = self._kept(before)
        calibration = context.train.take(self.calibration_rows, seed=context.seed)
        (scores,) = feature_importance(pruned, calibration, context.task, device=context.device)
        keep_features_(pruned, strongest(scores, count))
        share = float(scores.sort().values[-count:].sum() / scores.sum().clamp(min=1e-12))
        facts: dict[str, Any] = {
            "width_before": before,
            "width_kept": count,
            "importance_kept": round(share, 4),
            "calibration_rows": len(calibration),
        }
        made = StageResult(pruned, facts)
        if self.recovery is None:
            facts["recovery"] = "none: the cut affects every layer; add recovery to regain accuracy"
        else:
            recover_(made, model, self.recovery, context, "prune/width recovery")
        pruned.eval()
        return made

    def _kept(self, before: int) -> int:
        if self.width is not None:
            count, asked = self.width, f"width {self.width}"
        else:
            assert self.sparsity is not None
            count, asked = before - round(before * self.sparsity), f"sparsity {self.sparsity:g}"
        if not 1 <= count < before:
            raise StageError(
                f"prune/width: {asked} keeps {count} of {before} hidden features; allowed: 1 to {before - 1}"
            )
        return count
