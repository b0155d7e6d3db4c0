"""Measurements of a run: two ONNX files compared, and the ladder of all stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.data import Split
from compress.measure import Measurement, Rung, Step, measure_ladder, measure_pair
from compress.measure.process.watch import wait_until_quiet
from compress.pipeline.prepare import Run
from compress.progress import Progress
from compress.recipe import Recipe
from compress.report import judged
from compress.system.exclusive import alone
from compress.tasks import Task

__all__ = ["ladder_of", "measured"]

_MOST_AGAIN = 2
_WAIT_S = 60  # for a quiet machine, per attempt


def measured(
    recipe: Recipe,
    baseline: Path,
    candidate: Path,
    test: Split,
    candidate_test: Split,
    task: Task,
    *,
    runtimes: Sequence[str],
    progress: Progress,
) -> Measurement:
    """Measure both files at all settings; repeat if the machine was too busy to judge the gates.

    Args:
        candidate_test: the rows of `test` as the candidate reads them.
        runtimes: as in `measure_pair`.

    Raises:
        MeasureError: as `measure_pair`.
    """
    how = recipe.measure

    def once() -> Measurement:
        return measure_pair(
            baseline,
            candidate,
            test,
            task,
            candidate_test=candidate_test,
            batch=how.batch,
            sequence=how.sequence,
            threads=how.threads,
            rounds=how.rounds,
            seconds=how.seconds,
            seed=recipe.seed,
            runtimes=runtimes,
            progress=progress,
        )

    found = once()
    for _ in range(_MOST_AGAIN):
        if not _not_judged(recipe, found):
            break
        progress.say(
            "the machine was busy, so not all gates can be judged: measuring again once it is quiet "
            f"(waiting {_WAIT_S} s at most)"
        )
        with alone():  # other jobs would be paused during timing
            if not wait_until_quiet(_WAIT_S, threads=max(how.threads)):
                break
        again = once()
        if _not_judged(recipe, again) <= _not_judged(recipe, found):
            found = again
    return found


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
        run.splits.task,
        measurement.latency[0].setting,
        rounds=recipe.measure.rounds,
        seconds=recipe.measure.seconds,
        seed=recipe.seed,
        progress=run.progress,
    )
