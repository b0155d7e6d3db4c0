"""Two ONNX files measured as a recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.data import Split
from compress.measure import Measurement, measure_pair
from compress.measure.process.watch import wait_until_quiet
from compress.progress import Progress
from compress.recipe import Recipe
from compress.report import judged
from compress.system.exclusive import alone
from compress.tasks import Task

__all__ = ["measured"]

_MOST_AGAIN = 2
_WAIT_S = 60  # for a quiet machine, each time


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
    """Measure both at all settings of the recipe; again, if the machine was too busy to judge the gates.

    Args:
        candidate_test: the rows of `test` as the candidate reads them.
        runtimes: as in `measure_pair`.

    Raises:
        MeasureError: as `measure_pair`.
    """
    found = _once(recipe, baseline, candidate, test, candidate_test, task, runtimes, progress)
    for _ in range(_MOST_AGAIN):
        if not _not_judged(recipe, found):
            break
        progress.say(
            "the machine was busy, so not all gates can be judged: measuring again once it is quiet "
            f"(waiting {_WAIT_S} s at most)"
        )
        with alone():  # other jobs would stand still while this is timed
            if not wait_until_quiet(_WAIT_S, threads=max(recipe.measure.threads)):
                break
        again = _once(recipe, baseline, candidate, test, candidate_test, task, runtimes, progress)
        if _not_judged(recipe, again) <= _not_judged(recipe, found):
            found = again
    return found


def _not_judged(recipe: Recipe, found: Measurement) -> int:
    return sum(bool(gate.not_judged) for gate in judged(recipe.gates, found))


def _once(
    recipe: Recipe,
    baseline: Path,
    candidate: Path,
    test: Split,
    candidate_test: Split,
    task: Task,
    runtimes: Sequence[str],
    progress: Progress,
) -> Measurement:
    how = recipe.measure
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
