"""State of one training and its updates: a step, an epoch, a checkpoint.

Checkpoints are written between steps and hold everything the next step depends on: a resumed training is
bit-identical on a CPU to an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.data.split import Batch, Split
from compress.progress import Bar
from compress.system.distributed import all_of, device_of, from_main, process_index
from compress.tasks import LABELS_KEY, Task
from compress.train.average import WeightAverage
from compress.train.checkpoint import Checkpoints
from compress.train.forward import LossFunction, evaluate, forward_loss
from compress.train.gradients import share_of, sum_gradients_
from compress.train.precision import use_bf16
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Job", "Loop"]


@dataclass(frozen=True)
class Job:
    """Arguments of `fit_` for one training."""

    module: nn.Module
    train: Split
    validation: Split
    task: Task
    config: TrainConfig
    seed: int
    device: str
    loss: LossFunction
    after_step: Callable[[int, int], None] | None
    state: dict[str, Any]
    first_kept_epoch: int
    least: float | None = None

    def together(self, epoch: int) -> NDArray[np.int64] | None:
        """Number of each row's group, which is in one batch; None: rows are independent."""
        if self.least is not None and self.train.links is not None:
            return self.train.links.together(self.seed * 1_000_003 + epoch, self.least)
        return self.task.together(self.train.labels)


class Loop:
    """One training.

    Attributes:
        total_steps: optimizer steps of all epochs.
        epoch: current epoch, from 1; one more than the last at the end.
        finished: whether all epochs are done, or patience has run out.
    """

    def __init__(self, job: Job, found: dict[str, Any] | None) -> None:
        """Start a training, or resume it from what `state` returned."""
        import torch

        self._job, config, module = job, job.config, job.module
        self.device = device_of(job.device)
        self.total_steps = math.ceil(len(job.train) / (config.batch_size * config.accumulate)) * config.epochs
        module.to(self.device)
        # fused: one pass over the weights; five times as fast on a CPU with a large trainable embedding
        groups = _parameter_groups(module, config.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: _schedule(step, self.total_steps, config.warmup_fraction)
        )
        self._average = None if config.ema is None else WeightAverage(module, config.ema)
        self.steps = self.steps_in_epoch = self.best_epoch = 0
        self.epoch, self.finished = 1, False
        self.curve: list[dict[str, float]] = []
        self._losses: list[float] = []
        self._best: dict[str, Tensor] = {}
        self._best_score = (-math.inf, -math.inf)
        if found is None:
            self.bf16 = from_main(lambda: use_bf16(module, config, self.device))
        else:
            self._resume_(found)

    def run(self, bar: Bar, checkpoints: Checkpoints | None) -> str | None:
        """Train until the last epoch or until patience runs out; return the reason if the loss diverged."""
        while not self.finished:
            try:
                train_loss = self._epoch(bar, checkpoints)
            except ArithmeticError as error:
                return str(error)
            with nullcontext() if self._average is None else self._average.in_place():
                self._judge({"epoch": float(self.epoch), "train_loss": train_loss})
            self._report(bar)
            self.epoch, self.steps_in_epoch, self._losses = self.epoch + 1, 0, []
            if checkpoints is not None:
                checkpoints.save(self.state())
        bar.advance(self.total_steps - self.steps)
        return None

    def keep_best_(self) -> None:
        """Load the best weights, on the CPU."""
        self._job.module.to("cpu")
        self._job.module.load_state_dict(self._best)
        self._job.module.eval()

    def _report(self, bar: Bar) -> None:
        """Report the result of an epoch."""
        found = self.curve[-1]
        bar.advance(
            0,
            f"epoch {self.epoch} of {self._job.config.epochs}: loss {found['train_loss']:.3f}, "
            f"validation {found['validation_metric']:.3f}",
        )

    def _epoch(self, bar: Bar, checkpoints: Checkpoints | None) -> float:
        """Run the epoch, or the rest of it, and return its mean loss."""
        job, config = self._job, self._job.config
        job.module.train()
        which = f"epoch {self.epoch} of {config.epochs}"
        seen = f", validation {self._best_score[0]:.3f}" if self._best else ""
        groups = job.train.batch_groups(
            config.batch_size,
            config.accumulate,
            shuffle_seed=job.seed * 1_000_003 + self.epoch,
            skip=self.steps_in_epoch,
            together=job.together(self.epoch),
        )
        for group in groups:
            self._losses.append(self._step(group))
            bar.advance(1, f"{which}, loss {self._losses[-1]:.3f}{seen}")
            if checkpoints is not None and from_main(checkpoints.is_due):
                checkpoints.save(self.state())
        return sum(self._losses) / len(self._losses)

    def _step(self, group: list[Batch]) -> float:
        """Run one optimizer step on several accumulated batches; return their mean loss over rows."""
        import torch

        job, config = self._job, self._job.config
        rows, total = sum(len(batch[LABELS_KEY]) for batch in group), 0.0
        for batch in filter(None, map(share_of, group)):
            value = forward_loss(
                job.module, batch, job.task, job.loss, device=self.device, bf16=self.bf16
            ) * (len(batch[LABELS_KEY]) / rows)
            value.backward()  # type: ignore[no-untyped-call]
            total += value.item()
        total = sum_gradients_(job.module, total)
        if not math.isfinite(total):
            raise ArithmeticError(f"the loss became {total} in epoch {self.epoch}")
        torch.nn.utils.clip_grad_norm_(job.module.parameters(), config.clip_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self.steps, self.steps_in_epoch = self.steps + 1, self.steps_in_epoch + 1
        if job.after_step is not None:
            job.after_step(self.steps, self.total_steps)
        if self._average is not None:
            self._average.update_(self.steps)
        return total

    def _judge(self, record: dict[str, float]) -> None:
        """Validate, keep the weights if they are the best so far, and update `finished`."""
        job, patience = self._job, self._job.config.patience
        record |= from_main(lambda: evaluate(job.module, job.validation, job.task, device=self.device))
        self.curve.append(record)
        self.finished = self.epoch >= job.config.epochs
        if self.epoch < job.first_kept_epoch:
            return
        # Equal metrics are decided by the lower loss: a small validation split has many ties.
        score = (record["validation_metric"], -record["validation_loss"])
        if score > self._best_score:
            self._best_score, self.best_epoch = score, self.epoch
            weights = job.module.state_dict()
            self._best = {name: value.detach().cpu().clone() for name, value in weights.items()}
        self.finished |= patience is not None and self.epoch - self.best_epoch >= patience

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on: tensors, numbers and text."""
        return {
            "module": self._job.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "average": {} if self._average is None else self._average.values,
            "best": self._best,
            "best_score": list(self._best_score),
            "progress": {name: getattr(self, name) for name in _PROGRESS},
            "losses": self._losses,
            "random": all_of(_random_state(self.device)),
            "callbacks": self._job.state,
        }

    def _resume_(self, found: dict[str, Any]) -> None:
        self._job.module.load_state_dict(found["module"])
        self._optimizer.load_state_dict(found["optimizer"])
        self._schedule.load_state_dict(found["schedule"])
        if self._average is not None:
            self._average.values = {n: each.to(self.device) for n, each in found["average"].items()}
        self._best, self._losses = found["best"], found["losses"]
        self._best_score = (found["best_score"][0], found["best_score"][1])
        for name in _PROGRESS:
            setattr(self, name, found["progress"][name])
        _set_random_state(found["random"][process_index()], self.device)
        self._job.state.clear()
        self._job.state.update(found["callbacks"])


_PROGRESS = ("best_epoch", "bf16", "curve", "epoch", "finished", "steps", "steps_in_epoch")


def _random_state(device: str) -> list[Tensor]:
    import torch

    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.startswith("cuda") else states


def _set_random_state(states: list[Tensor], device: str) -> None:
    import torch

    torch.set_rng_state(states[0])
    if device.startswith("cuda"):
        torch.cuda.set_rng_state(states[1], device)


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    # Biases and norms are not decayed: usual practice since BERT (Devlin et al. 2019).
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _schedule(step: int, total: int, warmup_fraction: float) -> float:
    warmup = int(total * warmup_fraction)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
