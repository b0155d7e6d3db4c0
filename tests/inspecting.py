"""An inspection whose figures hold when what it says is done to the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from compress.data import Splits
from compress.model import keep_units_, structure_of
from compress.pipeline import inspect_model, prepare
from compress.pipeline.cache import Cache
from compress.pipeline.stages import decided, trained_model, with_truth
from compress.recipe import Recipe
from compress.report import Inspection, inspection_markdown
from compress.train import evaluate

__all__ = ["inspected"]


def inspected(
    recipe: Recipe, folder: Path, *, max_drop: float = 0.05, quick: bool = True, ties: bool = False
) -> Inspection:
    """Inspect all validation rows, and check the metric of the whole model and of the cut one.

    Args:
        ties: the cut model's answers differ by rounding only, so that its order is nobody's.
    """
    recipe = recipe.model_copy(update={"stages": ()})
    found = inspect_model(
        recipe, calibration_rows=40, validation_rows=10_000, max_drop=max_drop, quick=quick, cache=folder
    )
    run = prepare(recipe, folder / "scratch", cache=Cache(folder))
    module, _ = trained_model(run)
    splits = decided(module, with_truth(module, run.splits))
    assert (found.task, found.validation_rows) == (splits.task.name, len(splits.validation))
    assert found.accuracy_low <= found.accuracy <= found.accuracy_high
    assert found.accuracy == pytest.approx(_metric(module, splits), abs=1e-6)
    for site, heads in zip(structure_of(module).attention, found.heads, strict=True):
        keep_units_(module, site, heads.needed)
    assert ties or found.need.accuracy == pytest.approx(_metric(module, splits), abs=1e-6)
    assert all(point.low <= point.difference <= point.high for point in (*found.joint, *found.neuron_curve))
    words = splits.task.words
    page = inspection_markdown(found)
    assert words.score in page and (words.score == "accuracy" or "accuracy" not in page)
    return found


def _metric(module: nn.Module, splits: Splits) -> float:
    return evaluate(module, splits.validation, splits.task)["validation_metric"]
