"""Inspect a model: how many heads and neurons its task needs, and the cost of quantizing each layer.

Uses training and validation rows only.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.data import Split
from compress.errors import ModelError
from compress.model import LoadedModel, Structure, structure_of
from compress.model.layers.quantized import QuantizedModule
from compress.page.format import capital
from compress.pipeline.bundles.export import model_config_of, own_recipe
from compress.pipeline.cache import Cache
from compress.pipeline.inspection.attention import attention_facts
from compress.pipeline.inspection.curves import Bench, Curves, bench_of, curves_of, scores_of_kind
from compress.pipeline.prepare import Run, prepare
from compress.pipeline.stages import decided, trained_model, with_truth
from compress.progress import Progress, Silent
from compress.prune.importance.likeness import unit_likeness
from compress.prune.importance.ranking import held_by_top, normalised, units_holding, weakest_first
from compress.prune.importance.taylor import taylor_importance
from compress.quantize.calibrate import LEAST_ROWS
from compress.quantize.int8_dynamic import Int8Dynamic
from compress.quantize.int8_static import Int8Static
from compress.quantize.mixed.sensitivity import Parts, damages
from compress.quantize.stage import QuantizeLayers
from compress.quantize.weight_only import Int4WeightOnly, Int8WeightOnly
from compress.recipe import Recipe, load_recipe, recipe_of_model
from compress.report.inspection.data import Inspection, LayerHeads, LayerNeurons, QuantizedGroup
from compress.stage import Context
from compress.system.disk import scratch_directory
from compress.version import __version__

__all__ = ["inspect_model", "inspection_recipe"]

_QUANTIZED_ROWS = 128  # each group and scheme takes one pass over them
_CALIBRATION_ROWS = 256


def inspection_recipe(model: str, overrides: Sequence[str] = ()) -> Recipe:
    """Make the recipe for an inspection: a model and its data, without stages.

    Args:
        model: a recipe file (its stages are ignored), a Hugging Face directory or name, or a bundle.
        overrides: as in `load_recipe`. Unless the model is a recipe, they give the data; a run's bundle uses
            the data of its own recipe unless they name other rows.

    Raises:
        RecipeError, ModelError: none of these, or an invalid value.
    """
    if model.endswith((".yaml", ".yml")):
        return load_recipe(model, overrides, need_stages=False).model_copy(update={"stages": ()})
    name = re.sub(r"[^\w.-]+", "-", Path(model).name).strip(".-") or "model"
    config = model_config_of(model)
    has_rows = any(
        each.startswith(("data=", "data.source=", "data.train=", "data.name=")) for each in overrides
    )
    own = None if has_rows or config.bundle is None else own_recipe(config.bundle)
    return recipe_of_model(config, name[:80], overrides, data=None if own is None else own.data)


def inspect_model(
    recipe: Recipe,
    *,
    calibration_rows: int = 512,
    validation_rows: int = 500,
    sentences: int = 3,
    max_drop: float = 0.01,
    quick: bool = False,
    cache: Path | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Inspection:
    """Determine how many heads and neurons of a recipe's model its task needs.

    Args:
        recipe: its model and data; stages are ignored.
        calibration_rows: training rows for importance and likeness, sampled with the recipe's seed.
        validation_rows: maximum rows for the metric, sampled with the recipe's seed.
        sentences: validation rows whose attention is kept.
        max_drop: how much of the task's metric may be lost.
        quick: skip the curves of single layers and the cost of quantizing each, which take the most time.
        cache: cache folder of `run`, for a model that is trained first; None: not stored.
        command: the command as typed.

    Raises:
        CompressError: invalid input, or the model has no known heads or is quantized.
    """
    began = time.perf_counter()
    progress = progress or Silent()
    how = _Options(calibration_rows, validation_rows, sentences, max_drop, quick)
    with scratch_directory() as scratch:
        kept = Cache(cache or scratch / "cache", progress.say)
        run = prepare(recipe.model_copy(update={"stages": ()}), scratch, cache=kept, progress=progress)
        return Inspection(
            name=recipe.run_name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            modelpress_version=__version__,
            command=command,
            model=run.loaded.source,
            data=run.splits.source,
            max_drop=max_drop,
            **_measured(run, how),
            seconds=time.perf_counter() - began,
        )


@dataclass(frozen=True)
class _Options:
    """What to inspect; see `inspect_model`."""

    calibration_rows: int
    validation_rows: int
    sentences: int
    max_drop: float
    quick: bool


def _measured(run: Run, how: _Options) -> dict[str, Any]:
    """Everything that an inspection measures, as fields of `Inspection`."""
    structure = _structure(run.loaded)
    for note in run.splits.notes:
        run.progress.say(f"note: {note}")
    module, _ = trained_model(run)
    run = replace(run, splits=decided(module, with_truth(module, run.splits)))
    bench = bench_of(run, module.eval(), structure, how.validation_rows)
    calibration = run.splits.train.take(how.calibration_rows, seed=run.recipe.seed)
    units = _units(run, bench, calibration)
    curves = curves_of(bench, units.scores, how.max_drop, how.quick, run.progress)
    quantization = () if how.quick else _quantization(run, bench, calibration)
    return {
        "task": bench.task.name,
        "calibration_rows": len(calibration),
        "tokens": units.tokens,
        **_accuracy(bench),
        "evaluations": curves.passes,
        "need": curves.need,
        "joint": curves.joint,
        "neuron_curve": curves.neurons,
        "heads": _heads(structure, units, curves),
        "neurons": _neurons(structure, units.scores),
        "quantization": quantization,
        "quantization_rows": min(_QUANTIZED_ROWS, len(bench.rows)) if quantization else 0,
        "attention": attention_facts(run, module, structure.attention, how.sentences),
        "notes": _notes(run, bench),
    }


@dataclass(frozen=True)
class _Units:
    """Importance and likeness of heads and neurons on calibration rows.

    Attributes:
        scores: of the units of each site of the structure, [u] each.
        likeness: between the heads of each attention site, [u, u] each.
        tokens: number of tokens that likeness was measured on.
    """

    scores: Sequence[Tensor]
    likeness: Sequence[Tensor]
    tokens: int


def _units(run: Run, bench: Bench, calibration: Split) -> _Units:
    run.progress.say(f"scoring heads and neurons on {len(calibration):,} train rows")
    device, structure = run.recipe.device, bench.structure
    scores = taylor_importance(bench.model, structure.sites, calibration, bench.task, device=device)
    likeness, tokens = unit_likeness(bench.model, structure.attention, calibration, bench.task, device=device)
    return _Units(scores, likeness, tokens)


def _accuracy(bench: Bench) -> dict[str, Any]:
    """The metric of the full model on the validation rows, with its interval."""
    found = bench.task.score(bench.full, bench.batches.truth)
    return {
        "metric": found.metric,
        "validation_rows": found.rows,
        "units": found.units,
        "unit": found.unit,
        "accuracy": found.value,
        "accuracy_low": found.low,
        "accuracy_high": found.high,
    }


def _quantization(run: Run, bench: Bench, calibration: Split) -> tuple[QuantizedGroup, ...]:
    seed = run.recipe.seed
    context = Context(
        bench.task, calibration, bench.rows, device=run.recipe.device, seed=seed, progress=run.progress
    )
    rows = min(len(calibration), _CALIBRATION_ROWS)
    stages: dict[str, QuantizeLayers] = {
        "int8_dynamic": Int8Dynamic(),
        "int8_weight_only": Int8WeightOnly(),
        "int4_weight_only": Int4WeightOnly(),
    }
    if rows >= LEAST_ROWS:
        stages = {"int8_static": Int8Static(calibration_rows=rows), **stages}
    parts = Parts.of(bench.model, stages, context)
    few = bench.rows.take(_QUANTIZED_ROWS, seed=seed).by_length()
    return tuple(
        QuantizedGroup(
            name=group.name,
            divergence={name: each.divergence for name, each in found.items()},
            difference={name: each.metric for name, each in found.items()},
        )
        for group, found in zip(parts.groups, damages(parts, few, context), strict=True)
    )


def _structure(loaded: LoadedModel) -> Structure:
    if any(isinstance(module, QuantizedModule) for module in loaded.module.modules()):
        raise ModelError(f"{loaded.source} is quantized; inspect the float model that it was made from")
    structure = structure_of(loaded.module)
    if not structure.attention:
        raise ModelError(f"{loaded.source} has no attention heads to inspect")
    return structure


def _plain(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def _heads(structure: Structure, units: _Units, curves: Curves) -> tuple[LayerHeads, ...]:
    importance = scores_of_kind(structure, units.scores, "attention")
    gone = set(weakest_first(importance)[: curves.need.silenced])
    return tuple(
        LayerHeads(
            layer=site.layer,
            name=site.name,
            importance=_plain(normalised(importance[i])),
            needed=tuple(head for head in range(len(importance[i])) if (i, head) not in gone),
            curve=curves.layers[i] if curves.layers else (),
            likeness=tuple(_plain(row) for row in units.likeness[i]),
        )
        for i, site in enumerate(structure.attention)
    )


def _neurons(structure: Structure, scores: Sequence[Tensor]) -> tuple[LayerNeurons, ...]:
    of_neurons = scores_of_kind(structure, scores, "feed_forward")
    return tuple(
        LayerNeurons(
            layer=site.layer,
            name=site.name,
            neurons=len(each),
            top10=held_by_top(each, 0.1),
            top25=held_by_top(each, 0.25),
            top50=held_by_top(each, 0.5),
            for90=units_holding(each, 0.9),
            for99=units_holding(each, 0.99),
        )
        for site, each in zip(structure.feed_forward, of_neurons, strict=True)
    )


def _notes(run: Run, bench: Bench) -> tuple[str, ...]:
    recipe, splits, found = run.recipe, run.splits, list(run.notes)
    task, words, truth = bench.task, bench.task.words, bench.batches.truth
    constant, gain = task.above_constant(bench.full, truth)
    if gain.low <= 0:
        own, of_constant = (words.scale.text(each) for each in (task.value(bench.full, truth), constant))
        found.append(
            f"{words.not_above_constant('full', own, of_constant, 'validation')}. What such a model does not "
            "need says nothing about the task; check that it was trained"
        )
    trained_before = recipe.model.file is None and recipe.model.train is None
    judged_by_labels = not task.labels_from_model
    if trained_before and judged_by_labels and getattr(recipe.data, "validation", "") is None:
        found.append(
            "the validation rows were drawn from the train file: if the model was trained on them, its "
            f"{words.score} is too high here, which hides the cost of silencing; give rows that it has not "
            "seen as data.validation"
        )
    return tuple(map(capital, (*found, *splits.notes)))
