"""Magnitude pruning: set the weights of smallest absolute value to zero (unstructured).

Han et al. 2015, arXiv 1506.02626; the cubic ramp is eq. 1 of Zhu & Gupta 2017, arXiv 1710.01878.
The zeros are stored in dense tensors: ONNX Runtime multiplies them like any other number, so there is no
speed-up and no smaller file, only a file that compresses better.
Shapes: o = output features, i = input features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compress.errors import StageError
from compress.prune.stage import PruneStage
from compress.stage import Context, StageResult
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["MagnitudePruning", "cubic_sparsity", "keep_masks"]


def cubic_sparsity(done: float, final: float) -> float:
    """Return the sparsity after a share `done` of the ramp, in [0, 1]: final * (1 - (1 - done)^3)."""
    return final * (1.0 - (1.0 - min(1.0, max(0.0, done))) ** 3)


def keep_masks(
    weights: Mapping[str, Tensor], sparsity: float, scope: Literal["global", "layer"]
) -> dict[str, Tensor]:
    """Mark the weights to keep.

    Args:
        weights: name -> weight, [o, i] each.
        sparsity: fraction to drop, in [0, 1).
        scope: `global` ranks all weights together, `layer` those of each tensor.

    Returns:
        Name -> boolean mask of the weight's shape; exactly floor(n * sparsity) are False, with n the number
        of weights in total (global) or per tensor (layer). Of equal magnitudes the first is dropped.
    """
    import torch

    if scope == "layer":
        return {
            name: _keep_largest(weight.abs().flatten(), sparsity).view_as(weight)
            for name, weight in weights.items()
        }
    flat = torch.cat([weight.abs().flatten() for weight in weights.values()])
    parts = torch.split(_keep_largest(flat, sparsity), [weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight) for (name, weight), part in zip(weights.items(), parts, strict=True)}


def _keep_largest(magnitudes: Tensor, sparsity: float) -> Tensor:
    import torch

    keep = torch.ones_like(magnitudes, dtype=torch.bool)
    keep[torch.argsort(magnitudes, stable=True)[: int(magnitudes.numel() * sparsity)]] = False
    return keep


class MagnitudePruning(PruneStage):
    """Set the smallest weights of the Linear layers to zero.

    Attributes:
        sparsity: fraction of the Linear layers' weights to set to zero.
        scope: rank all weights together, or those of each layer.
        schedule: `one_shot` cuts once, before any recovery; `cubic` cuts progressively during recovery.
        ramp: share of the recovery steps over which a cubic schedule reaches its sparsity.
        skip: name patterns of layers to leave dense.
        recovery: training after (one_shot) or during (cubic) the cut; zeros stay zero.
    """

    name: ClassVar[str] = "prune/magnitude"
    summary: ClassVar[str] = "set the smallest weights to zero (unstructured: no speed-up in ONNX Runtime)"

    sparsity: float = Field(gt=0, lt=1)
    scope: Literal["global", "layer"] = "global"
    schedule: Literal["one_shot", "cubic"] = "one_shot"
    ramp: float = Field(default=0.7, gt=0, le=1)
    skip: tuple[str, ...] = ()
    recovery: TrainConfig | None = None

    @model_validator(mode="after")
    def _cubic_fits_its_training(self) -> Self:
        if self.schedule == "cubic" and self.recovery is None:
            raise ValueError(
                "schedule cubic prunes during training; set recovery, e.g. recovery: {epochs: 3}"
            )
        if self.schedule == "cubic" and self.recovery is not None and self.recovery.ema is not None:
            raise ValueError(
                "recovery.ema with schedule cubic would average in weights from before they were set to "
                "zero; omit recovery.ema or use schedule one_shot"
            )
        return self

    def rehearse(self, model: nn.Module) -> nn.Module:
        """Check that there is something to prune."""
        _linear_layers(model, self.skip)
        return model

    def pruned(self, model: nn.Module, context: Context) -> StageResult:
        """Return a copy with zeros in its Linear weights."""
        pruned = copy.deepcopy(model)
        layers = _linear_layers(pruned, self.skip)
        masks: dict[str, Tensor] = {}

        def cut_(sparsity: float) -> None:
            masks.update(
                keep_masks({n: layer.weight.detach() for n, layer in layers.items()}, sparsity, self.scope)
            )
            hold_()

        def hold_() -> None:
            for name, mask in masks.items():
                layers[name].weight.data.mul_(mask.to(layers[name].weight.device))

        if self.schedule == "one_shot":
            cut_(self.sparsity)
        made = StageResult(pruned)
        if self.recovery is not None:
            self._recover_(made, context, masks, cut_, hold_)
        made.facts |= {
            "weights_zeroed": sum(int((~mask).sum()) for mask in masks.values()),
            "weights_in_scope": sum(mask.numel() for mask in masks.values()),
            "sparsity_per_layer": {n: round(1 - float(mask.float().mean()), 4) for n, mask in masks.items()},
            "speed": "no speed-up is expected: zeros are stored and multiplied like other numbers",
        }
        pruned.eval()
        return made

    def _recover_(
        self,
        made: StageResult,
        context: Context,
        masks: dict[str, Tensor],
        cut_: Callable[[float], None],
        hold_: Callable[[], None],
    ) -> None:
        assert self.recovery is not None

        def after_step(step: int, total: int) -> None:
            # A cut sorts all weights, so only every 20th step of the ramp and its last one cut.
            end = max(1, int(total * self.ramp))
            if self.schedule == "cubic" and step <= end and (step % 20 == 0 or step == end):
                cut_(cubic_sparsity(step / end, self.sparsity))
            else:
                hold_()

        # An epoch that ends before the ramp is less sparse than requested, so it can't be the best epoch.
        first = math.ceil(self.recovery.epochs * self.ramp) if self.schedule == "cubic" else 1
        made.fit_(
            context,
            self.recovery,
            "prune/magnitude recovery",
            after_step=after_step,
            state=masks,
            first_kept_epoch=first,
        )


def _linear_layers(model: nn.Module, skip: Sequence[str]) -> dict[str, nn.Linear]:
    from torch import nn

    named = model.named_modules(remove_duplicate=False)  # a shared layer has several names
    linear = {name: module for name, module in named if isinstance(module, nn.Linear)}
    for pattern in skip:
        if not any(fnmatch(name, pattern) for name in linear):
            raise StageError(f"prune/magnitude: skip pattern '{pattern}' matches no Linear layer")
    skipped = [name for name in linear if any(fnmatch(name, pattern) for pattern in skip)]
    dense = {id(linear[name].weight): name for name in skipped}
    kept: dict[str, nn.Linear] = {}
    seen: set[int] = set()
    for name, module in linear.items():
        if name not in skipped and id(module.weight) in dense:
            raise StageError(
                f"prune/magnitude: skip leaves {dense[id(module.weight)]} dense, but {name} shares its "
                "weight; skip both or neither"
            )
        if name not in skipped and id(module.weight) not in seen:
            seen.add(id(module.weight))
            kept[name] = module
    if not kept:
        raise StageError("prune/magnitude: the model has no float Linear layer to prune")
    return kept
