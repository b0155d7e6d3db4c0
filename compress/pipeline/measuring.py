"""Measurements of a run: two ONNX files compared, and the ladder of all stages."""

from __future__ import annotations

from collections.abc import Sequence

from compress.measure import (
    FilePair,
    Floor,
    Measurement,
    Rung,
    Step,
    measure_floor,
    measure_ladder,
    measure_pair,
)
from compress.measure.latency import Rounds
from compress.measure.process.monitor import wait_until_quiet
from compress.pipeline.prepare import Run
from compress.progress import Progress
from compress.recipe import Recipe
from compress.report import judged
from compress.system.exclusive import alone

__all__ = ["floor_of", "ladder_of", "measured"]

_MOST_AGAIN = 2
_WAIT_S = 60  # for a quiet machine, per attempt


def measured(recipe: Recipe, pair: FilePair, *, runtimes: Sequence[str], progress: Progress) -> Measurement:
    """Measure both files at all settings; repeat if the machine was too busy to judge the gates.

    Args:
        runtimes: replaces the recipe's.

    Raises:
        MeasureError: as `measure_pair`.
    """
    how = recipe.measure.model_copy(update={"runtimes": tuple(runtimes)})
    found = measure_pair(pair, how, seed=recipe.seed, progress=progress)
    for _ in range(_MOST_AGAIN):
        if not _not_judged(recipe, found):
            break
        progress.say(
            "not all gates can be judged because the machine was busy; measuring again if it becomes quiet "
            f"within {_WAIT_S} s"
        )
        with alone():  # other jobs would be paused during timing
            if not wait_until_quiet(_WAIT_S, threads=max(how.threads)):
                break
        again = measure_pair(pair, how, seed=recipe.seed, progress=progress)
        if _not_judged(recipe, again) <= _not_judged(recipe, found):
            found = again
    return found


def floor_of(run: Run, measurement: Measurement) -> tuple[Floor | None, tuple[str, ...]]:
    """What is reached without a Transformer, or a note if that can't be measured."""
    if not run.recipe.measure.floor or measurement.answers is None:
        return None, ()
    found = measure_floor(run.splits, measurement.answers, seed=run.recipe.seed)
    if isinstance(found, str):
        return None, (f"no model without a Transformer was measured: {found}",)
    return found, ()


def _not_judged(recipe: Recipe, found: Measurement) -> int:
    return sum(bool(gate.not_judged) for gate in judged(recipe.gates, found))


def ladder_of(run: Run, steps: Sequence[Step], measurement: Measurement) -> tuple[Rung, ...]:
    """Measure all steps at the setting of the report's first latency; empty if no ladder is wanted.

    Args:
        steps: the original, then the model after each stage.
    """
    recipe = run.recipe
    if len(recipe.stages) < 2 or not recipe.measure.ladder:
        return ()
    return measure_ladder(
        steps,
        measurement.latency[0].setting,
        Rounds(recipe.measure.rounds, recipe.measure.seconds, recipe.seed),
        progress=run.progress,
    )
