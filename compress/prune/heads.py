"""Structured head pruning: whole attention heads are removed, by a Taylor score over calibration rows.

Michel et al. 2019, arXiv 1905.10650, sec. 4.1: a head's importance is the mean over rows of |d loss / d
gate|, with the gate a factor 1 on the head's output; scores are divided by the layer's L2 norm (sec. 4.1,
after Molchanov et al. 2017), so that layers compare.
Shapes: b = batch, s = sequence, h = heads, d = head size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from compress.errors import StageError
from compress.stage import Context, Stage
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.structure import Structure
    from compress.task import Task

__all__ = ["HeadPruning", "choose_heads", "head_importance"]


def head_importance(
    model: nn.Module,
    structure: Structure,
    split: Split,
    task: Task,
    *,
    batch_size: int = 32,
    device: str = "cpu",
) -> list[Tensor]:
    """Score each head of each attention block: mean over rows of |d loss / d gate|, not yet normalised.

    Each row has its own gates, so one backward pass gives every row's derivative; padded positions have none,
    because the loss doesn't depend on them.

    Returns:
        One tensor [h] a block, on the CPU.
    """
    import torch

    from compress.model.calls import logits, to_tensors

    model = model.to(device).eval()
    totals = [torch.zeros(site.heads(model)) for site in structure.attention]
    gates: list[Tensor] = []
    handles = []
    for index, site in enumerate(structure.attention):

        def gate_heads(
            _: nn.Module, inputs: tuple[Tensor, ...], index: int = index, size: int = site.head_size
        ) -> tuple[Tensor, ...]:
            x = inputs[0]  # [b, s, h*d]
            gated = torch.unflatten(x, -1, (-1, size)) * gates[index][:, None, :, None]  # [b, s, h, d]
            return (gated.flatten(-2), *inputs[1:])

        handles.append(model.get_submodule(site.out).register_forward_pre_hook(gate_heads))
    try:
        for batch in split.batches(batch_size):
            tensors = to_tensors(batch, task.input_names, device)
            labels = torch.from_numpy(batch["labels"]).to(device)
            rows = len(labels)
            gates[:] = [torch.ones(rows, len(total), device=device, requires_grad=True) for total in totals]
            loss = task.loss(logits(model, tensors), labels) * rows  # the sum over rows
            for total, gradient in zip(totals, torch.autograd.grad(loss, gates), strict=True):
                total += gradient.abs().sum(0).cpu()
    finally:
        for handle in handles:
            handle.remove()
        model.to("cpu")
    return [total / len(split) for total in totals]


def choose_heads(
    importance: Sequence[Tensor], remove: int, *, scope: Literal["global", "layer"], min_heads: int
) -> list[list[int]]:
    """Choose which heads stay.

    Args:
        importance: one tensor [h] a block.
        remove: heads to remove in all.
        scope: `global` removes the least important after each block's L2 norm is divided out; `layer` removes
            the same share of each block.
        min_heads: each block keeps at least so many.

    Returns:
        Kept head indices of each block, ascending; exactly `remove` heads are missing.
    """
    room = [max(0, len(scores) - min_heads) for scores in importance]
    if scope == "layer":
        quota = _even_quota(room, remove)
    ranked = sorted(
        (float(score / (scores.norm() + 1e-12)), block, head)
        for block, scores in enumerate(importance)
        for head, score in enumerate(scores)
    )
    gone: list[set[int]] = [set() for _ in importance]
    for _, block, head in ranked:
        limit = min(room[block], quota[block]) if scope == "layer" else room[block]
        if sum(map(len, gone)) < remove and len(gone[block]) < limit:
            gone[block].add(head)
    return [
        [head for head in range(len(scores)) if head not in gone[block]]
        for block, scores in enumerate(importance)
    ]


def _even_quota(room: list[int], remove: int) -> list[int]:
    # One after the other from the first block on, so that counts differ by one at the most.
    quota = [0] * len(room)
    while sum(quota) < min(remove, sum(room)):
        block = min((q, i) for i, q in enumerate(quota) if q < room[i])[1]
        quota[block] += 1
    return quota


class HeadPruning(Stage):
    """Remove whole attention heads, physically: q, k, v and out become narrower.

    Attributes:
        sparsity: fraction of all heads to remove.
        scope: `global` lets each layer keep as many as matter there; `layer` removes the same share
            everywhere.
        min_heads: each layer keeps at least so many.
        steps: remove in so many equal portions and score again after each: slower, and safer at a high
            sparsity.
        calibration_rows: training rows that the score is taken over.
        recovery: training after the cut.
    """

    name: ClassVar[str] = "prune/heads"
    kind: ClassVar[Literal["prune", "distill", "quantize"]] = "prune"
    summary: ClassVar[str] = (
        "remove whole attention heads by their Taylor score (Michel et al. 2019): smaller and faster"
    )

    sparsity: float = Field(gt=0, lt=1)
    scope: Literal["global", "layer"] = "global"
    min_heads: int = Field(default=1, ge=1)
    steps: int = Field(default=4, ge=1, le=100)
    calibration_rows: int = Field(default=512, ge=1)
    recovery: TrainConfig | None = None

    def rehearse(self, model: nn.Module) -> nn.Module:
        """See that so many heads can go, and cut the first ones."""
        from compress.model.structure import keep_heads_, structure_of

        structure = structure_of(model)
        before = [site.heads(model) for site in structure.attention]
        left = self._heads_to_remove(before)
        shape = copy.deepcopy(model)
        for site, count in zip(structure.attention, before, strict=True):
            gone = min(left, max(0, count - self.min_heads))
            if gone:
                keep_heads_(shape, site, range(gone, count))
            left -= gone
        return shape

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy with fewer heads."""
        from compress.model.structure import keep_heads_, structure_of

        pruned = copy.deepcopy(model).eval()
        structure = structure_of(pruned)
        before = [site.heads(pruned) for site in structure.attention]
        remove = self._heads_to_remove(before)
        kept = [list(range(count)) for count in before]
        calibration = context.train.take(self.calibration_rows, seed=context.seed)
        with context.progress.bar("prune/heads: scoring heads", self.steps) as bar:
            for step in range(1, self.steps + 1):
                so_far = sum(before) - sum(map(len, kept))
                portion = round(remove * step / self.steps) - so_far
                if portion > 0:
                    scores = head_importance(
                        pruned, structure, calibration, context.task, device=context.device
                    )
                    chosen = choose_heads(scores, portion, scope=self.scope, min_heads=self.min_heads)
                    for block, site in enumerate(structure.attention):
                        if len(chosen[block]) < len(kept[block]):
                            keep_heads_(pruned, site, chosen[block])
                            kept[block] = [kept[block][head] for head in chosen[block]]
                bar.advance(1, f"{sum(map(len, kept))} of {sum(before)} heads left")
        context.facts["heads_before"] = before
        context.facts["heads_kept"] = [len(heads) for heads in kept]
        context.facts["heads_kept_indices"] = kept
        context.facts["calibration_rows"] = len(calibration)
        if self.recovery is not None:
            context.fit_(pruned, self.recovery, "prune/heads recovery")
        return pruned.eval()

    def _heads_to_remove(self, before: Sequence[int]) -> int:
        if not before:
            raise StageError("prune/heads: the model has no attention block")
        remove = round(sum(before) * self.sparsity)
        room = sum(max(0, count - self.min_heads) for count in before)
        if remove > room:
            raise StageError(
                f"prune/heads: sparsity {self.sparsity:g} would remove {remove} of {sum(before)} heads, but "
                f"with min_heads {self.min_heads} at most {room} can go; use a sparsity up to "
                f"{room / sum(before):.2f}"
            )
        if remove == 0:
            raise StageError(f"prune/heads: sparsity {self.sparsity:g} of {sum(before)} heads removes none")
        return remove
