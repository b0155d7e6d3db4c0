"""A guard on a quantize stage: layers that cost too much keep more bits, the fewest bytes first.

The whole model is quantized; if the drop on validation rows is within the limit, nothing else happens. If
not, the damage of each group of layers is estimated (`mixed.first_order`), groups are moved back to more bits
in order of damage per byte, and bisection finds how few of them are enough (`mixed.assignment`), each time on
the model put together, so that the drop that is promised is the drop that was found.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from compress.stage import Context, Stage, StageResult

if TYPE_CHECKING:
    from torch import nn

    from compress.quantize.mixed.assignment import Goal, Search

__all__ = ["Guard", "guarded", "shares"]

_SENSITIVITY_ROWS = 128
_MORE_BITS = "8 bits"
_ALL = "quantized"


class Guard(BaseModel):
    """The largest loss that quantizing may cost; layers that cost too much keep more bits.

    Attributes:
        max_drop: largest allowed drop on validation rows, as a share of 1.
        of: what may drop. metric: the task's metric. agreement: the share of answers that are those of the
            float model, which needs no labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_drop: float = Field(default=0.01, ge=0, lt=1)
    of: Literal["metric", "agreement"] = "metric"


def guarded(
    stage: Stage,
    finer: Stage | None,
    guard: Guard,
    model: nn.Module,
    made: StageResult,
    context: Context,
) -> StageResult:
    """The result of a stage, or one in which some layers have more bits.

    Args:
        finer: the stage with more bits for every layer; None: there are none but float.
        model: the float model whose layers the stage replaced.
        made: the stage's own result.

    Raises:
        StageError: the drop is too large whatever is quantized; the message says by how much.
    """
    from compress.quantize.mixed.assignment import Goal, Search
    from compress.quantize.mixed.first_order import estimated
    from compress.quantize.mixed.sensitivity import Parts
    from compress.quantize.replace import facts_of_change

    goal = Goal(stage.name, "guard.max_drop", guard.max_drop, of=guard.of)
    drop, rows = _drop(goal, model, made.model, context), len(context.validation)
    facts = {"of": guard.of, "max_drop": guard.max_drop, "validation_rows": rows, "drop_of_all_layers": drop}
    if goal.allows(drop):
        return StageResult(made.model, made.facts | {"guard": {**facts, "drop": drop}})
    context.progress.say(f"{stage.name}: {drop:.4f} is lost on {rows} validation rows: finding out where")
    results = {stage.name: made}
    if finer is not None:
        results[_MORE_BITS] = finer.apply(model, context)
    parts = Parts(model, results, context)
    few = context.validation.take(_SENSITIVITY_ROWS, seed=context.seed).by_length()
    search = Search(goal, parts, context)
    best = search.best(estimated(parts, few, context))
    mixed = copy.deepcopy(parts.together(best.schemes)).eval()
    kept = _kept(search, best.schemes, stage.name)
    left = {
        path: "kept float by guard"
        for group, scheme in zip(parts.groups, best.schemes, strict=True)
        if scheme == search.float
        for path in group.layers
    }
    about = {"guard": {**facts, "drop": goal.drop(best)}, "kept_by_guard": kept}
    changed = facts_of_change(model, mixed, made.facts["left_float"] | left)
    return StageResult(mixed, made.facts | changed | about)


def shares(model: nn.Module, made: StageResult, context: Context) -> dict[str, float]:
    """Share of each group of layers in the divergence from the float model, largest first."""
    from compress.quantize.mixed.first_order import estimated_divergences
    from compress.quantize.mixed.sensitivity import Parts

    parts = Parts(model, {_ALL: made}, context)
    few = context.validation.take(_SENSITIVITY_ROWS, seed=context.seed).by_length()
    found = estimated_divergences(parts, _ALL, few, context)
    if not found:
        return {}
    total = sum(max(each, 0.0) for each in found) or 1.0
    named = {group.name: max(each, 0.0) / total for group, each in zip(parts.groups, found, strict=True)}
    return dict(sorted(named.items(), key=lambda each: -each[1]))


def _drop(goal: Goal, model: nn.Module, quantized: nn.Module, context: Context) -> float:
    """What a model loses on all validation rows."""
    from compress.quantize.mixed.sensitivity import answers, damage_of, disagreement_of

    rows, task = context.validation.by_length(), context.task
    truth, found = (answers(each, rows, context) for each in (model, quantized))
    of = disagreement_of if goal.of == "agreement" else lambda *them: -damage_of(*them).metric
    return of(found, truth, rows, task)


def _kept(search: Search, schemes: Sequence[str], usual: str) -> dict[str, dict[str, Any]]:
    """Groups of layers that have more bits: what they have, why, and what it costs."""
    parts = search.parts
    return {
        group.name: {
            "kept": scheme,
            "divergence": damage[usual].divergence,
            "more_bytes": int(parts.stored_bytes(group, scheme) - parts.stored_bytes(group, usual)),
        }
        for group, scheme, damage in zip(parts.groups, schemes, search.found, strict=True)
        if scheme != usual
    }
