"""Inspect a model: how many heads and neurons its task needs, and the cost of quantizing each layer.

Uses training and validation rows only.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from compress.data import Split
from compress.errors import ModelError, RecipeError
from compress.model import LoadedModel, Structure, structure_of
from compress.model.layers.quantized import QuantizedModule
from compress.pipeline.attention_summary import attention_facts
from compress.pipeline.cache import Cache
from compress.pipeline.curves import Bench, Curves, bench_of, curves_of, scores_of_kind
from compress.pipeline.export import model_config_of, own_recipe
from compress.pipeline.prepare import Run, prepare
from compress.pipeline.stages import trained_model
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
from compress.tasks import task_class
from compress.tasks.statistics import paired_interval, proportion_interval
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
        validation_rows: maximum rows for accuracy, sampled with the recipe's seed.
        sentences: validation rows whose attention is kept.
        max_drop: the accuracy that may be lost, in [0, 1].
        quick: skip the curves of single layers and the cost of quantizing each, which take the most time.
        cache: cache folder of `run`, for a model that is trained first; None: not stored.
        command: the command as typed.

    Raises:
        CompressError: invalid input, or the model has no known heads or is quantized.
    """
    began = time.perf_counter()
    progress = progress or Silent()
    kind = task_class(recipe.data.task)
    if kind.names_tokens or kind.several_labels:
        raise RecipeError(
            f"{recipe.path or recipe.run_name}: inspect is for classifiers with one label a row: "
            f"for a {kind.words.model} begin with prune/structured, whose report says what is kept where"
        )
    with scratch_directory() as scratch:
        kept = Cache(cache or scratch / "cache", progress.say)
        run = prepare(recipe.model_copy(update={"stages": ()}), scratch, cache=kept, progress=progress)
        structure = _structure(run.loaded)
        for note in run.splits.notes:
            progress.say(f"note: {note}")
        module, _ = trained_model(run)
        bench = bench_of(run, module.eval(), structure, validation_rows)
        calibration = run.splits.train.take(calibration_rows, seed=recipe.seed)
        progress.say(f"scoring heads and neurons on {len(calibration):,} train rows")
        scores = taylor_importance(module, structure.sites, calibration, bench.task, device=recipe.device)
        likeness, tokens = unit_likeness(
            module, structure.attention, calibration, bench.task, device=recipe.device
        )
        curves = curves_of(bench, scores, max_drop, quick, progress)
        quantization = () if quick else _quantization(bench, module, calibration, recipe, progress)
        attention = attention_facts(run, module, structure.attention, sentences)
    low, high = proportion_interval(int(bench.full.sum()), len(bench.full))
    return Inspection(
        name=recipe.run_name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        modelpress_version=__version__,
        command=command,
        model=run.loaded.source,
        data=run.splits.source,
        calibration_rows=len(calibration),
        validation_rows=len(bench.full),
        tokens=tokens,
        evaluations=curves.passes,
        max_drop=max_drop,
        accuracy=_share(bench.full),
        accuracy_low=low,
        accuracy_high=high,
        need=curves.need,
        heads=_heads(structure, scores, likeness, curves),
        joint=curves.joint,
        neurons=_neurons(structure, scores),
        neuron_curve=curves.neurons,
        attention=attention,
        quantization=quantization,
        quantization_rows=min(_QUANTIZED_ROWS, len(bench.full)) if quantization else 0,
        notes=_notes(run, bench),
        seconds=time.perf_counter() - began,
    )


def _quantization(
    bench: Bench, module: nn.Module, calibration: Split, recipe: Recipe, progress: Progress
) -> tuple[QuantizedGroup, ...]:
    context = Context(
        bench.task, calibration, bench.rows, device=recipe.device, seed=recipe.seed, progress=progress
    )
    rows = min(len(calibration), _CALIBRATION_ROWS)
    stages: dict[str, QuantizeLayers] = {
        "int8_dynamic": Int8Dynamic(),
        "int8_weight_only": Int8WeightOnly(),
        "int4_weight_only": Int4WeightOnly(),
    }
    if rows >= LEAST_ROWS:
        stages = {"int8_static": Int8Static(calibration_rows=rows), **stages}
    parts = Parts(module, stages, context)
    few = bench.rows.take(_QUANTIZED_ROWS, seed=recipe.seed).by_length()
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
        raise ModelError(f"{loaded.source} is quantized: inspect the float model that it was made from")
    structure = structure_of(loaded.module)
    if not structure.attention:
        raise ModelError(f"{loaded.source} has no attention block with heads left to inspect")
    return structure


def _plain(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def _share(right: Tensor) -> float:
    return int(right.sum()) / len(right)


def _heads(
    structure: Structure, scores: Sequence[Tensor], likeness: Sequence[Tensor], curves: Curves
) -> tuple[LayerHeads, ...]:
    importance = scores_of_kind(structure, scores, "attention")
    gone = set(weakest_first(importance)[: curves.need.silenced])
    return tuple(
        LayerHeads(
            layer=site.layer,
            name=site.name,
            importance=_plain(normalised(importance[i])),
            needed=tuple(head for head in range(len(importance[i])) if (i, head) not in gone),
            curve=curves.layers[i] if curves.layers else (),
            likeness=tuple(_plain(row) for row in likeness[i]),
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
    rows, task, right = bench.rows, bench.task, bench.full.numpy()
    constant = task.constant(rows.answers, rows.answer_lengths) == rows.answers
    gained, lost = int((right & ~constant).sum()), int((constant & ~right).sum())
    chance = float(constant.mean())
    if paired_interval(gained, lost, len(right))[0] <= 0:
        found.append(
            "the full model is not measurably better than always naming the commonest label: it answers "
            f"{_share(bench.full):.1%} of the validation rows right, and {chance:.1%} of them have that "
            "label. Which heads such a model doesn't need says nothing about the task; was it trained?"
        )
    trained_before = recipe.model.file is None and recipe.model.train is None
    if trained_before and getattr(recipe.data, "validation", "") is None:
        found.append(
            "the validation rows were drawn from the train file: if the model was trained on them, accuracy "
            "is too high here and hides what silencing costs; give rows that it has not seen as "
            "data.validation"
        )
    return tuple(note[:1].upper() + note[1:] for note in (*found, *splits.notes))
