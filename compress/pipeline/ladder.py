"""The accuracy ladder of a run: the model after every stage as a file, all measured in one sitting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from compress.errors import ExportError, ParityError
from compress.export import ONNX_PATH
from compress.keys import graph_key
from compress.measure import Measurement, Rung, Step, measure_ladder
from compress.pipeline.cache import Cache
from compress.pipeline.exported import exported
from compress.pipeline.prepare import Prepared
from compress.pipeline.stage_inputs import Given
from compress.progress import Progress
from compress.timing import TimingPoint

__all__ = ["first_step", "ladder_of", "last_step", "step_after"]


def first_step(baseline: Path, prepared: Prepared) -> Step:
    """The uncompressed model."""
    return Step("original", baseline, prepared.splits.validation, stages=0)


def last_step(steps: Sequence[Step], onnx: Path, given: Given, prepared: Prepared) -> Step:
    """The model after the last stage, whose file is there already."""
    return _step(len(prepared.recipe.stages), steps, onnx, given, prepared)


def step_after(
    index: int,
    steps: Sequence[Step],
    module: nn.Module,
    given: Given,
    prepared: Prepared,
    cache: Cache,
    progress: Progress,
) -> list[Step]:
    """The model after a stage that isn't the last, as an ONNX file; none if it can't be exported.

    Args:
        index: of the stage.
        steps: those before; the next step also stands for stages that have none.
    """
    name = prepared.recipe.stages[index].name

    def make(directory: Path) -> dict[str, Any]:
        progress.say(f"exporting the model after {name}, for the ladder")
        return exported(module, prepared, given.splits, directory).parity.model_dump()

    key = graph_key(prepared.stage_keys[index], "step", prepared.recipe.export.model_dump(mode="json"))
    try:
        directory, _ = cache.file(key, make, what=f"the ONNX file after {name}")
    except (ExportError, ParityError) as error:
        progress.say(f"left out of the ladder: {name}: {error}")
        return []
    return [_step(index + 1, steps, directory / ONNX_PATH.name, given, prepared)]


def _step(done: int, steps: Sequence[Step], onnx: Path, given: Given, prepared: Prepared) -> Step:
    """The file after so many stages."""
    names = [stage.name for stage in prepared.recipe.stages[sum(step.stages for step in steps) : done]]
    return Step(" + ".join(names), onnx, given.splits.validation, len(names))


def ladder_of(
    steps: Sequence[Step], prepared: Prepared, measurement: Measurement, progress: Progress
) -> tuple[Rung, ...]:
    """Measure all steps where the report's first latency was taken; nothing where no ladder is wanted.

    Args:
        steps: the original, then the model after each stage.
    """
    recipe = prepared.recipe
    if len(recipe.stages) < 2 or not recipe.measure.ladder:
        return ()
    first = measurement.latency[0]
    return measure_ladder(
        steps,
        prepared.splits.task,
        TimingPoint(first.batch, first.sequence, first.threads),
        rounds=recipe.measure.rounds,
        seconds=recipe.measure.seconds,
        seed=recipe.seed,
        progress=progress,
    )
