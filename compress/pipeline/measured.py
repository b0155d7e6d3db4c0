"""Two ONNX files measured as a recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.data import Split
from compress.measure import Measurement, measure_pair
from compress.progress import Progress
from compress.recipe import Recipe

__all__ = ["measured"]


def measured(
    recipe: Recipe,
    baseline: Path,
    candidate: Path,
    test: Split,
    candidate_test: Split,
    *,
    runtimes: Sequence[str],
    progress: Progress,
) -> Measurement:
    """Measure both at all settings of the recipe.

    Args:
        candidate_test: the rows of `test` as the candidate reads them.
        runtimes: as in `measure_pair`.

    Raises:
        MeasureError: as `measure_pair`.
    """
    how = recipe.measure
    return measure_pair(
        baseline,
        candidate,
        test,
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
