"""Run a recipe: the only orchestrator."""

from __future__ import annotations

import datetime
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from compress.data import Splits
from compress.data.words import unknown_token_notes
from compress.errors import work_begun
from compress.export import write_bundle_, write_manifest_
from compress.losses import TargetPlace
from compress.measure import Step, installed_runtimes
from compress.model.counts import weight_counts
from compress.model.files.computed_weights import plain_weights_
from compress.model.parts import PARTS, bytes_by_part
from compress.model.saturation import saturation_risk
from compress.pipeline.cache import Cache
from compress.pipeline.caveats import lines_before_work, warnings_of
from compress.pipeline.cost import Cost
from compress.pipeline.exported import Exported, exported, exported_baseline
from compress.pipeline.ladder import first_step, ladder_of, last_step, step_after
from compress.pipeline.manifest import manifest_facts
from compress.pipeline.measured import measured
from compress.pipeline.prepare import Prepared, check_output, prepare
from compress.pipeline.room import check_disk
from compress.pipeline.stage_inputs import Given
from compress.pipeline.timer import OnnxTimer
from compress.progress import Progress, Silent
from compress.recipe import Recipe, load_recipe
from compress.report import (
    DataFacts,
    EpochRecord,
    GateRecord,
    ModelFacts,
    PartSize,
    RunReport,
    StageRecord,
    judged,
    last_promise,
    load_report,
    to_model_card,
    write_reports,
)
from compress.stage import Context
from compress.system.disk import new_directory, remove_leftovers, scratch_directory
from compress.system.distributed import from_main, is_main
from compress.system.locks import only_one
from compress.train import evaluate, fit_
from compress.version import __version__

__all__ = ["Outcome", "outcome_of", "run", "trained_model"]

_SATURATION_ROWS = 64  # answered one at a time, twice


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        report: what it says of itself.
        already_done: it was there before, and nothing was repeated.
        gates: the recipe's, as they are now; those in the report are of when it was made.
    """

    directory: Path
    report: RunReport
    already_done: bool
    gates: tuple[GateRecord, ...] = ()


@dataclass(frozen=True)
class _Made:
    """What the stages of a recipe gave, and what it began with."""

    base: nn.Module
    training: dict[str, Any]
    module: nn.Module
    records: list[StageRecord]
    given: Given
    baseline: Exported
    steps: list[Step]


def run(
    recipe: Recipe | str | Path,
    output: str | Path = "reports",
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Run a recipe: train or load the model, apply the stages, export, prove, measure, report.

    Args:
        recipe: a recipe or its file.
        output: the folder in which the run's directory is made, and the cache (`.cache`).
        overwrite: replace a run of the same name.

    Returns:
        The outcome. A run that is there already, whole and of the same recipe, data and versions, is not
        repeated.

    Raises:
        CompressError: wrong input (before work starts) or failed work; nothing half-written is left.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(Path(recipe))
    progress = progress or Silent()
    target = Path(output) / recipe.run_name
    with scratch_directory() as scratch:
        prepared = prepare(recipe, scratch)

        def is_done() -> bool:
            return check_output(target, prepared.run_key, overwrite=overwrite)

        cache = Cache(Path(output) / ".cache", progress.say)
        for folder in (target.parent, cache.root):
            from_main(partial(remove_leftovers, folder))
        if from_main(is_done):
            return outcome_of(recipe, output, already_done=True)
        from_main(lambda: check_disk(prepared, cache, target))
        with only_one(cache.root, f"run-{recipe.run_name}", f"writes {target}", progress.say):
            if from_main(is_done):  # by another run that was waited for
                return outcome_of(recipe, output, already_done=True)
            own = new_directory(target, replace=target.exists()) if is_main() else nullcontext(scratch)
            with own as directory, work_begun():
                report = _work(prepared, directory, cache, scratch, progress)
    return Outcome(target, report, already_done=False, gates=report.gates)


def outcome_of(recipe: Recipe, output: str | Path, *, already_done: bool) -> Outcome:
    """What a run that has ended left behind."""
    target = Path(output) / recipe.run_name
    report = load_report(target)
    return Outcome(target, report, already_done, gates=judged(recipe.gates, report.measurement))


def _work(prepared: Prepared, directory: Path, cache: Cache, scratch: Path, progress: Progress) -> RunReport:
    began = time.perf_counter()
    recipe, splits = prepared.recipe, prepared.splits
    for line in lines_before_work(recipe, splits):
        progress.say(f"note: {line}")
    base, training = trained_model(prepared, cache, progress)
    baseline = exported_baseline(base, prepared, cache, progress)
    module, records = base, []
    given = Given(splits, prepared.encoder, base)
    steps = [first_step(baseline.path, prepared)]
    for index in range(len(recipe.stages)):
        module, record, given = _staged(
            index, module, given, prepared, baseline.path, cache, progress, scratch
        )
        records.append(record)
        if recipe.measure.ladder and index + 1 < len(recipe.stages):
            steps += step_after(index, steps, module, given, prepared, cache, progress)
    made = _Made(base, training, module, records, given, baseline, steps)
    return from_main(lambda: _published(prepared, made, directory, scratch, progress, began))


def _published(
    prepared: Prepared, made: _Made, directory: Path, scratch: Path, progress: Progress, began: float
) -> RunReport:
    """Export, prove and measure what was made, and write all of it into a directory."""
    recipe, splits = prepared.recipe, prepared.splits
    module, given, baseline = made.module, made.given, made.baseline
    progress.say("exporting to ONNX and comparing its answers with PyTorch's")
    candidate = exported(module, prepared, given.splits, scratch / "candidate")
    measurement = measured(
        recipe,
        baseline.path,
        candidate.path,
        splits.test,
        given.splits.test,
        runtimes=recipe.measure.runtimes or installed_runtimes(),
        progress=progress,
    )
    last = last_step(made.steps, candidate.path, given, prepared)
    ladder = ladder_of([*made.steps, last], prepared, measurement, progress)
    saturation = saturation_risk(
        module, given.splits.validation.take(_SATURATION_ROWS, seed=recipe.seed), splits.task
    )
    report = RunReport(
        name=recipe.run_name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        modelpress_version=__version__,
        command=_command(recipe),
        recipe=recipe.resolved(relative_to=Path.cwd()),
        data=_data_facts(splits),
        model=ModelFacts(
            source=prepared.loaded.source,
            parameters=weight_counts(made.base)[0],
            validation_metric=_metric(made.base, splits),
            training=_epochs(made.training.get("curve", [])),
            precision=made.training.get("precision", ""),
            parity=baseline.parity,
        ),
        stages=tuple(made.records),
        parity=candidate.parity,
        measurement=measurement,
        warnings=(
            *prepared.notes,
            *_cut_vocabulary_notes(given, prepared),
            *warnings_of(recipe, splits, measurement, saturation),
        ),
        saturation=saturation,
        parts=_parts(made.base, module),
        ladder=ladder,
        gates=judged(recipe.gates, measurement),
        seconds=time.perf_counter() - began,
    )
    promise = last_promise(report)
    if promise is not None:
        report = report.model_copy(update={"promise": promise.outcome})
    _write(report, directory, module, candidate.path, prepared, given, baseline.path)
    return report


def _cut_vocabulary_notes(given: Given, prepared: Prepared) -> tuple[str, ...]:
    if given.encoder is prepared.encoder:
        return ()
    return unknown_token_notes(given.splits.test, given.encoder, "the smaller tokenizer of the candidate")


def trained_model(prepared: Prepared, cache: Cache, progress: Progress) -> tuple[nn.Module, dict[str, Any]]:
    """Return the recipe's model, trained if it says so (or from the cache).

    Its weights are plain: those that are computed from others in training are not computed any more.

    Returns:
        The model, and how it was trained: curve and precision; empty: it wasn't.
    """
    recipe, splits, loaded = prepared.recipe, prepared.splits, prepared.loaded
    for note in prepared.notes:
        progress.say(f"note: {note}")
    if recipe.model.train is None:
        return loaded.module, {}
    config = recipe.model.train

    def make() -> tuple[nn.Module, dict[str, Any]]:
        fit = fit_(
            loaded.module,
            splits.train,
            splits.validation,
            splits.task,
            config,
            seed=recipe.seed,
            device=recipe.device,
            progress=progress,
            description="training the model",
            folder=cache.training(prepared.base_key),
        )
        return plain_weights_(loaded.module), {"curve": fit.curve, "precision": fit.precision}

    with work_begun():
        piece = cache.module(prepared.base_key, make, what="the trained model")
    if piece.reused:
        progress.say("the trained model is in the cache: not trained again")
    return piece.module, piece.record


def _staged(
    index: int,
    module: nn.Module,
    given: Given,
    prepared: Prepared,
    baseline: Path,
    cache: Cache,
    progress: Progress,
    scratch: Path,
) -> tuple[nn.Module, StageRecord, Given]:
    recipe, splits = prepared.recipe, given.splits
    stage, key = recipe.stages[index], prepared.stage_keys[index]

    def make() -> tuple[nn.Module, dict[str, Any]]:
        context = Context(
            task=splits.task,
            train=splits.train,
            validation=splits.validation,
            unlabelled=splits.unlabelled,
            teacher=given.teacher,
            encoder=given.encoder,
            targets=TargetPlace(cache.root),
            device=recipe.device,
            seed=recipe.seed,
            folder=cache.training(key),
            progress=progress,
        )
        later = tuple(each for each in recipe.stages[index + 1 :] if each.kind == "quantize")
        # what is only timed leaves no facts
        aside = replace(context, facts={}, curve=[], folder=None, trainings=[], progress=Silent())
        timer = OnnxTimer(recipe, splits, baseline, later, aside, cache, progress)
        context = replace(context, timer=timer)
        progress.say(f"stage {stage.name}")
        with Cost() as cost:
            made = stage.apply(module, context)
        parameters, nonzero = weight_counts(made)
        return made, {
            "facts": context.facts,
            "curve": context.curve,
            "kept_tokens": context.kept_tokens,
            "validation_metric": _metric(made, given.with_vocabulary(context.kept_tokens, scratch).splits),
            "parameters": parameters,
            "nonzero_parameters": nonzero,
            "seconds": cost.seconds,
            "peak_memory_bytes": cost.peak_memory_bytes,
        }

    piece = cache.module(key, make, what=f"stage {stage.name}")
    if piece.reused:
        progress.say(f"stage {stage.name} is in the cache: not repeated")
    record = piece.record | {"curve": _epochs(piece.record["curve"]), "reused": piece.reused}
    given = given.with_vocabulary(record.pop("kept_tokens", ()), scratch)
    settings = prepared.recipe.resolved(relative_to=Path.cwd())["stages"][index][stage.name]
    return piece.module, StageRecord(name=stage.name, settings=settings, **record), given


def _parts(base: nn.Module, module: nn.Module) -> tuple[PartSize, ...]:
    before, after = bytes_by_part(base), bytes_by_part(module)
    return tuple(
        PartSize(name=name, baseline_bytes=before[name], candidate_bytes=after[name]) for name in PARTS
    )


def _metric(module: nn.Module, splits: Splits) -> float:
    return evaluate(module, splits.validation, splits.task)["validation_metric"]


def _epochs(curve: list[dict[str, float]]) -> tuple[EpochRecord, ...]:
    return tuple(EpochRecord.model_validate({**point, "epoch": int(point["epoch"])}) for point in curve)


def _data_facts(splits: Splits) -> DataFacts:
    return DataFacts(
        source=splits.source,
        train_rows=len(splits.train),
        validation_rows=len(splits.validation),
        test_rows=len(splits.test),
        labels=splits.task.labels,
        notes=splits.notes,
        test_fingerprint=splits.test.fingerprint(),
    )


def _command(recipe: Recipe) -> str:
    where = recipe.path
    if where is None:
        return "modelpress run recipe.resolved.yaml"
    shown = where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else Path(where.name)
    return " ".join(["modelpress", "run", shown.as_posix(), *recipe.overrides])


def _write(
    report: RunReport,
    directory: Path,
    module: nn.Module,
    onnx_file: Path,
    prepared: Prepared,
    given: Given,
    baseline: Path,
) -> None:
    recipe, splits = prepared.recipe, given.splits
    max_length = getattr(recipe.data, "max_length", 0)
    write_bundle_(
        directory,
        module,
        onnx_file,
        splits.task,
        encoder=given.encoder,
        max_length=max_length,
        processor=splits.processor,
    )
    (directory / "recipe.resolved.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    names = splits.task.input_names
    write_reports(report, directory, names)
    (directory / "README.md").write_text(to_model_card(report, inputs=names), encoding="utf-8")
    write_manifest_(directory, splits.task, manifest_facts(report, prepared, baseline))
