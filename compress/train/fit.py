"""Training of models, recovery after pruning, and distillation.

AdamW, linear warm-up and cosine decay to zero, gradient clipping, early stopping; keeps the weights of the
best epoch on validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.split import Split
from compress.errors import StageError
from compress.keys import training_key
from compress.progress import Progress, Silent
from compress.system.distributed import from_main, process_count, process_index
from compress.tasks import LABELS_KEY, Task
from compress.train.checkpoint import FORMAT, Checkpoints
from compress.train.forward import LossFunction
from compress.train.loop import Job, Loop
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Fit", "fit_"]


@dataclass(frozen=True)
class Fit:
    """Result of a training.

    Attributes:
        curve: one record per epoch: epoch, train_loss, validation_loss, validation_metric.
        best_epoch: the epoch whose weights were kept.
        precision: the chosen one, fp32 or bf16.
        diverged: why training was stopped early, with advice; None if it wasn't.
        resumed_at_epoch: epoch at which it resumed from a checkpoint; None if it started from the beginning.
    """

    curve: list[dict[str, float]]
    best_epoch: int
    precision: str
    diverged: str | None = None
    resumed_at_epoch: int | None = None


def fit_(
    module: nn.Module,
    train: Split,
    validation: Split,
    task: Task,
    config: TrainConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    description: str = "training",
    loss: LossFunction | None = None,
    after_step: Callable[[int, int], None] | None = None,
    state: dict[str, Any] | None = None,
    first_kept_epoch: int = 1,
    least: float | None = None,
    folder: Path | None = None,
) -> Fit:
    """Train a module in place; leaves it with the best epoch's weights, in evaluation mode, on the CPU.

    With several processes, each takes its share of every batch (see `system.distributed`). If the loss
    becomes infinite or NaN, training stops with the best epoch so far.

    Args:
        loss: None uses the task's own. It is computed for each of the batches of a step (`accumulate`) and
            weighted by their rows.
        after_step: called with (steps done, total steps) after each optimizer step, e.g. to reapply a mask.
        state: state that `loss` and `after_step` keep between steps, as tensors, numbers and text by name;
            saved with each checkpoint and restored on resume.
        first_kept_epoch: earlier epochs can't be the best (e.g. while sparsity is still rising).
        least: lowest score of two linked rows that are brought into one batch; None: none are.
        folder: for checkpoints, written at the end of each epoch and every 30 s in between; use a separate
            folder for each training with its own loss. Calling again with the same arguments resumes from the
            checkpoint; one from other arguments, or a damaged one, is not used. None writes none.

    Raises:
        StageError: if the loss became infinite or NaN before an epoch could be kept.
    """
    from compress.model.files.definition import seeded

    progress = progress or Silent()
    job = Job(
        module,
        train,
        validation,
        task,
        config,
        seed,
        device,
        loss or (lambda logits, batch: task.loss(logits, batch[LABELS_KEY])),
        after_step,
        {} if state is None else state,
        first_kept_epoch,
        least,
    )
    checkpoints = None if folder is None else _checkpoints(folder, job, description, progress)
    _start_alike_(module, description)
    with seeded(seed + 1_000_003 * process_index()):  # different dropout masks in each process
        found = None if checkpoints is None else from_main(checkpoints.load)
        loop = Loop(job, found)
        with progress.bar(description, loop.total_steps) as bar:
            if found is not None:
                where = "already finished" if loop.finished else f"resuming at epoch {loop.epoch}"
                progress.say(f"{description}: {where}")
                bar.advance(loop.steps, where)
            diverged = loop.run(bar, checkpoints)
    advice = f"try a lower learning_rate (it is {config.learning_rate:g}) or precision: fp32"
    if diverged and not loop.best_epoch:
        raise StageError(f"{description}: {diverged}; {advice}")
    if diverged:
        diverged = f"{diverged}; stopped with the weights of epoch {loop.best_epoch}; {advice}"
        progress.say(f"{description}: {diverged}")
    loop.keep_best_()
    resumed = None if found is None else min(found["progress"]["epoch"], config.epochs)
    return Fit(loop.curve, loop.best_epoch, "bf16" if loop.bf16 else "fp32", diverged, resumed)


def _start_alike_(module: nn.Module, description: str) -> None:
    """Copy the main process's weights to all processes."""
    if process_count() == 1:
        return
    first = from_main(module.state_dict)
    try:
        module.load_state_dict(first)
    except RuntimeError as error:
        raise StageError(
            f"{description}: the models of the processes have different shapes: {error}"
        ) from error


def _checkpoints(folder: Path, job: Job, description: str, progress: Progress) -> Checkpoints:
    key = training_key(
        job.module,
        job.train,
        job.validation,
        job.config.model_dump(mode="json"),
        format=FORMAT,
        seed=job.seed,
        device=job.device,
        first_kept_epoch=job.first_kept_epoch,
        processes=process_count(),
    )
    return Checkpoints(folder, key, lambda line: progress.say(f"{description}: {line}"))
