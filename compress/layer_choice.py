"""Choice of the layers that a shallower model keeps: by position, or greedily by effect on the outputs.

The greedy choice removes whole layers, as Men et al. 2024 (arXiv 2403.03853) and Kim et al. 2024 (arXiv
2402.02834) do for language models. Here the criterion is the change of the model's own outputs, re-evaluated
after every removal, since two similar layers cannot both be removed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from compress.losses.plan import spread_layers

if TYPE_CHECKING:
    from torch import nn

    from compress.stage import Context

__all__ = ["Keep", "LayerKeep", "best_layers", "layers_to_keep", "least_harmful"]

LayerKeep = Literal["spaced", "first", "last"]
Keep = Literal["spaced", "first", "last", "best"]
_JUDGING_ROWS = 512  # of validation
_JUDGING_BYTES = 2**29  # of the model's outputs, which are kept in memory


def layers_to_keep(total: int, count: int, keep: LayerKeep) -> list[int]:
    """Indices of the `count` layers to keep, ascending: evenly spaced including the last, first, or last.

    Raises:
        ValueError: the model has fewer layers.
    """
    if count > total:
        raise ValueError(f"a student of {count} layers is deeper than its teacher of {total}")
    if keep == "first":
        return list(range(count))
    if keep == "last":
        return list(range(total - count, total))
    return spread_layers(total, count)


def least_harmful(total: int, count: int, harm: Callable[[list[int]], float]) -> list[int]:
    """Remove layers one at a time, each time the least harmful one.

    Args:
        harm: loss of a choice of layers, ascending; lower is better.

    Returns:
        The `count` layers kept, ascending.
    """
    kept = list(range(total))
    while len(kept) > count:
        rests = [[each for each in kept if each != gone] for gone in kept]
        kept = min(rests, key=harm)
    return kept


def best_layers(
    model: nn.Module, count: int, context: Context, name: str
) -> tuple[list[int], dict[str, int]]:
    """Layers to keep so that the outputs on validation rows change least, and facts about the choice.

    Uses at most 512 rows, and no more than have half a gigabyte of outputs.

    Args:
        name: of the stage, for the progress bar.
    """
    from compress.model.cutting.depth import layer_count, with_layers
    from compress.model.forward import predict_logits

    task, device = context.task, context.device
    rows = context.validation.take(_JUDGING_ROWS, seed=context.seed)
    row_bytes = 4 * task.numbers(rows.labels[:1].size)
    rows = rows.take(max(1, _JUDGING_BYTES // row_bytes), seed=context.seed)
    size = task.rows_a_call(32)
    model.to(device)
    truth = predict_logits(model, rows, task, batch_size=size, device=device)
    total = layer_count(model)
    tries = sum(range(count + 1, total + 1))
    with context.progress.bar(f"{name}: choosing layers", tries) as bar:

        def harm(kept: list[int]) -> float:
            with with_layers(model, kept):
                answers = predict_logits(model, rows, task, batch_size=size, device=device)
            bar.advance(1)
            return float(task.divergence(answers, truth, 1.0))

        kept = least_harmful(total, count, harm)
    model.to("cpu")
    return kept, {"judging_rows": len(rows)}
