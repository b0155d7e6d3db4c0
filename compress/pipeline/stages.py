"""The model and its stages in order, each taken from the cache if it was made before."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from compress.data import Splits
from compress.data.readers.tokenize import encoder_among
from compress.data.readers.vocabulary import encode_splits_again, smaller_encoder
from compress.errors import ExportError, ParityError, work_begun
from compress.export import ONNX_PATH
from compress.losses import TargetPlace, linked_loss
from compress.measure import Step
from compress.model.counts import weight_counts
from compress.model.cutting.vocabulary import keep_tokens_
from compress.model.files.computed_weights import plain_weights_
from compress.model.forward import predict_logits
from compress.pipeline.exported import Exported, exported
from compress.pipeline.prepare import Run
from compress.pipeline.timer import OnnxTimer
from compress.progress import Silent
from compress.report import EpochRecord, StageRecord
from compress.stage import Context, Stage, StageResult
from compress.system.cost import Cost
from compress.train import evaluate, fit_

__all__ = [
    "Base",
    "Work",
    "decided",
    "epochs_of",
    "metric_of",
    "run_stages",
    "trained_model",
    "with_file",
    "with_truth",
]

_FALLEN = 0.5  # of what a model is above constant answers


@dataclass(frozen=True)
class Base:
    """The recipe's model before any stage.

    Attributes:
        training: curve and precision of its training; empty: not trained.
    """

    module: nn.Module
    training: dict[str, Any]
    onnx: Exported


@dataclass(frozen=True)
class Work:
    """The result of the stages so far.

    Attributes:
        splits: the recipe's rows, as the module now reads them, and the task as it now decides.
        teacher: the uncompressed model, which reads the same rows.
        records: one per stage.
        steps: the ladder's files.
    """

    module: nn.Module
    splits: Splits
    teacher: nn.Module
    records: tuple[StageRecord, ...] = ()
    steps: tuple[Step, ...] = ()

    def with_vocabulary(self, kept: Sequence[int], scratch: Path) -> Work:
        """Re-encode the rows with a tokenizer reduced to these tokens, and reduce the teacher's embedding.

        For texts whose tokens are all kept, the teacher's outputs do not change.

        Args:
            kept: token ids, as in `StageResult.kept_tokens`; empty: nothing changes.
            scratch: directory for the tokenizer's files.
        """
        if not kept:
            return self
        directory = Path(tempfile.mkdtemp(prefix="tokenizer-", dir=scratch))
        encoder = smaller_encoder(encoder_among(self.splits.reader), kept, directory)
        teacher = copy.deepcopy(self.teacher)
        keep_tokens_(teacher, kept)
        return replace(self, splits=encode_splits_again(self.splits, encoder), teacher=teacher)

    def with_step(self, onnx: Path, done: int, names: Sequence[str]) -> Work:
        """Add the file after the first `done` stages, which also covers stages whose export failed."""
        since = names[sum(step.stages for step in self.steps) : done]
        step = Step(" + ".join(since), onnx, self.splits.validation, self.splits.task, len(since))
        return replace(self, steps=(*self.steps, step))


def trained_model(run: Run) -> tuple[nn.Module, dict[str, Any]]:
    """Return the recipe's model, trained if configured (or from the cache).

    Its weights are plain: parametrizations used in training are removed.

    Returns:
        The model, and its training: curve and precision; empty: not trained.
    """
    recipe, splits, loaded = run.recipe, run.splits, run.loaded
    for note in run.notes:
        run.progress.say(f"note: {note}")
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
            progress=run.progress,
            description="training the model",
            folder=run.cache.training(run.keys.base),
            **(linked_loss(splits.train) if splits.task.learns_links else {}),
        )
        return plain_weights_(loaded.module), {"curve": fit.curve, "precision": fit.precision}

    with work_begun():
        piece = run.cache.module(run.keys.base, make, what="the trained model")
    if piece.reused:
        run.progress.say("the trained model is in the cache; training is skipped")
    return piece.module, piece.record


def run_stages(run: Run, base: Base) -> Work:
    """Apply all stages; if a ladder is wanted, export the model after each stage except the last."""
    original = Step("original", base.onnx.path, run.splits.validation, run.splits.task, stages=0)
    work = Work(base.module, run.splits, base.module, steps=(original,))
    for index in range(len(run.recipe.stages)):
        work = _staged(run, work, index, base.onnx.path)
        if run.recipe.measure.ladder and index + 1 < len(run.recipe.stages):
            work = with_file(run, work, index)
    return work


def _staged(run: Run, work: Work, index: int, baseline: Path) -> Work:
    stage, key = run.recipe.stages[index], run.keys.stages[index]

    def make() -> tuple[nn.Module, dict[str, Any]]:
        run.progress.say(f"stage {stage.name}")
        context = _context(run, work, index, baseline)
        with Cost() as cost:
            made = stage.apply(work.module, context)
        parameters, nonzero = weight_counts(made.model)
        rows = decided(made.model, work.with_vocabulary(made.kept_tokens, run.scratch).splits)
        metric = metric_of(made.model, rows)
        return made.model, {
            "facts": made.facts | _blamed(stage, work, made, metric, context),
            "curve": made.curve,
            "kept_tokens": made.kept_tokens,
            "validation_metric": metric,
            "parameters": parameters,
            "nonzero_parameters": nonzero,
            "seconds": cost.seconds,
            "peak_memory_bytes": cost.peak_memory_bytes,
        }

    piece = run.cache.module(key, make, what=f"stage {stage.name}")
    if piece.reused:
        run.progress.say(f"stage {stage.name} is in the cache; it is skipped")
    facts = piece.record | {"curve": epochs_of(piece.record["curve"]), "reused": piece.reused}
    kept = facts.pop("kept_tokens", ())
    settings = run.recipe.resolved(relative_to=Path.cwd())["stages"][index][stage.name]
    record = StageRecord(name=stage.name, settings=settings, **facts)
    made = work.with_vocabulary(kept, run.scratch)
    splits = decided(piece.module, made.splits)
    return replace(made, module=piece.module, splits=splits, records=(*work.records, record))


def _blamed(stage: Stage, work: Work, made: StageResult, metric: float, context: Context) -> dict[str, Any]:
    """What a quantize stage is to blame for, if it lost most of what the model was above constant answers."""
    if stage.kind != "quantize":
        return {}
    truth = work.splits.validation.truth(work.splits.task)
    constant = work.splits.task.value(work.splits.task.constant(truth), truth)
    before = work.records[-1].validation_metric if work.records else metric_of(work.module, work.splits)
    if before <= constant or metric - constant > _FALLEN * (before - constant):
        return {}
    return {"fell_to_chance": stage.blame(work.module, made, context)}


def _context(run: Run, work: Work, index: int, baseline: Path) -> Context:
    """The context of a stage."""
    recipe, splits = run.recipe, work.splits
    context = Context(
        task=splits.task,
        train=splits.train,
        validation=splits.validation,
        unlabelled=splits.unlabelled,
        teacher=work.teacher,
        reader=splits.reader,
        targets=TargetPlace(run.cache.root),
        device=recipe.device,
        seed=recipe.seed,
        folder=run.cache.training(run.keys.stages[index]),
        progress=run.progress,
    )
    later = tuple(each for each in recipe.stages[index + 1 :] if each.kind == "quantize")
    aside = replace(context, folder=None, progress=Silent())  # models that are only timed keep no checkpoints
    timer = OnnxTimer(run, splits, baseline, later, aside)
    return replace(context, timer=timer)


def with_file(run: Run, work: Work, index: int) -> Work:
    """Export the model after an intermediate stage for the ladder; it is left out if that fails."""
    name = run.recipe.stages[index].name

    def make(directory: Path) -> dict[str, Any]:
        run.progress.say(f"exporting the model after {name}, to measure it")
        return exported(run.recipe, work.module, work.splits, directory).parity.model_dump()

    try:
        directory, _ = run.cache.file(run.keys.graph_after(index), make, what=f"the ONNX file after {name}")
    except (ExportError, ParityError) as error:
        run.progress.say(f"the model after {name} is not measured: {error}")
        return work
    names = [stage.name for stage in run.recipe.stages]
    return work.with_step(directory / ONNX_PATH.name, index + 1, names)


def with_truth(module: nn.Module, splits: Splits, *, device: str = "cpu") -> Splits:
    """The rows, with this module's outputs as labels of validation and test if the task has no others."""
    task = splits.task
    if not task.labels_from_model:
        return splits
    validation, test = (
        replace(part, labels=predict_logits(module, part, task, device=device).numpy())
        for part in (splits.validation, splits.test)
    )
    return replace(splits, validation=validation, test=test)


def decided(module: nn.Module, splits: Splits) -> Splits:
    """The rows, with the task as it decides for this module on validation rows."""
    task, rows = splits.task, splits.validation
    if not task.decides:
        return splits
    return replace(splits, task=task.decided(predict_logits(module, rows, task).numpy(), rows.truth(task)))


def metric_of(module: nn.Module, splits: Splits) -> float:
    """The task's metric on validation rows."""
    return evaluate(module, splits.validation, splits.task)["validation_metric"]


def epochs_of(curve: list[dict[str, float]]) -> tuple[EpochRecord, ...]:
    """A training's epochs as report records."""
    return tuple(EpochRecord.model_validate({**point, "epoch": int(point["epoch"])}) for point in curve)
