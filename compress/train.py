"""The one training loop, on Accelerate: training, recovery after pruning, and distillation use it.

AdamW, linear warm-up and cosine decay to zero, gradient clipping, early stopping; the weights of the best
epoch on validation are kept.
Shapes: b = batch, c = classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.data.split import Batch, Split
from compress.errors import StageError
from compress.progress import Bar, Progress, Silent
from compress.task import LABELS_KEY, Task
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Fit", "LossFunction", "evaluate", "fit_"]

LossFunction = Callable[["Tensor", "dict[str, Tensor]"], "Tensor"]
"""Logits [b, c] and the batch (with `labels` and `row_index`, both [b]) to a scalar."""


@dataclass(frozen=True)
class Fit:
    """What a training did.

    Attributes:
        curve: one record an epoch: epoch, train_loss, validation_loss, validation_metric.
        best_epoch: the one whose weights were kept.
        precision: fp32 or bf16, as it was chosen.
        diverged: why training was stopped early, with what to try; none: it was not.
    """

    curve: list[dict[str, float]]
    best_epoch: int
    precision: str
    diverged: str | None = None


_BF16_MUST_BE_FASTER_BY = (
    1.25  # below this the loss of digits isn't worth it, and a timing could go either way
)


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
    first_kept_epoch: int = 1,
) -> Fit:
    """Train a module in place; it is left with its best epoch's weights, in evaluation mode, on the CPU.

    If the loss becomes infinite or not a number, training stops, and the best epoch until then is kept.

    Args:
        loss: none is the task's own.
        after_step: called with (steps done, steps in all) after each optimizer step, e.g. to hold a mask.
        first_kept_epoch: epochs before this one can't be the best (a sparsity still rising, say).

    Raises:
        StageError: the loss became infinite or not a number before an epoch could be kept.
    """
    from compress.model.definition import seeded

    loss = loss or (lambda logits, batch: task.loss(logits, batch[LABELS_KEY]))
    with seeded(seed):
        loop = _Loop(module, train, validation, task, config, seed, device, loss, first_kept_epoch)
        progress = progress or Silent()
        with progress.bar(description, loop.total_steps) as bar:
            diverged = loop.run(bar, after_step)
    advice = f"try a lower learning_rate (it is {config.learning_rate:g}) or precision: fp32"
    if diverged and not loop.best_epoch:
        raise StageError(f"{description}: {diverged}; {advice}")
    if diverged:
        diverged = f"{diverged}: stopped, and epoch {loop.best_epoch} kept; {advice}"
        progress.say(f"{description}: {diverged}")
    return loop.kept(diverged)


class _Loop:
    """The state of one training: what `fit_` would otherwise keep in a page of local names."""

    def __init__(
        self,
        module: nn.Module,
        train: Split,
        validation: Split,
        task: Task,
        config: TrainConfig,
        seed: int,
        device: str,
        loss: LossFunction,
        first_kept_epoch: int,
    ) -> None:
        import torch
        from accelerate import Accelerator

        self.module, self.train, self.validation, self.task = module, train, validation, task
        self.config, self.seed, self.loss, self.first_kept_epoch = config, seed, loss, first_kept_epoch
        # bf16 is ours to choose per training: Accelerate fixes its own choice once a process.
        self.accelerator = Accelerator(cpu=device == "cpu")
        self.device = str(self.accelerator.device)
        self.total_steps = math.ceil(len(train) / config.batch_size) * config.epochs
        module.to(self.device)
        # fused: one pass over the weights, five times as fast on a CPU where a large embedding is trained
        groups = _parameter_groups(module, config.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _schedule(step, self.total_steps, config.warmup_fraction)
        )
        self.prepared, self.optimizer, self.scheduler = self.accelerator.prepare(module, optimizer, schedule)
        self.bf16 = _use_bf16(self.prepared, train, task, config, self.device, loss)
        self.steps = self.best_epoch = 0
        self.best: dict[str, Tensor] = {}
        self.curve: list[dict[str, float]] = []
        self.best_score = (-math.inf, -math.inf)

    def run(self, bar: Bar, after_step: Callable[[int, int], None] | None) -> str | None:
        """Train all epochs, or until patience ends; say why it stopped, if the loss became no number."""
        for epoch in range(1, self.config.epochs + 1):
            try:
                train_loss = self._epoch(epoch, bar, after_step)
            except ArithmeticError as error:
                return str(error)
            record = {"epoch": float(epoch), "train_loss": train_loss}
            record |= evaluate(self.module, self.validation, self.task, device=self.device)
            self.curve.append(record)
            if epoch >= self.first_kept_epoch and self._judge(epoch, record):
                bar.advance(self.total_steps - self.steps)
                break
        return None

    def kept(self, diverged: str | None) -> Fit:
        """Put the best weights back."""
        self.module.to("cpu")
        self.module.load_state_dict(self.best)
        self.module.eval()
        return Fit(self.curve, self.best_epoch, "bf16" if self.bf16 else "fp32", diverged)

    def _epoch(self, epoch: int, bar: Bar, after_step: Callable[[int, int], None] | None) -> float:
        self.prepared.train()
        losses = []
        seen = f", validation {self.best_score[0]:.3f}" if self.best else ""
        for batch in self.train.batches(self.config.batch_size, shuffle_seed=self.seed * 1_000_003 + epoch):
            tensors = _tensors(batch, self.device)
            value = _forward_loss(self.prepared, tensors, self.task, self.loss, bf16=self.bf16)
            self.accelerator.backward(value)
            self.accelerator.clip_grad_norm_(self.prepared.parameters(), self.config.clip_norm)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            self.steps += 1
            if after_step is not None:
                after_step(self.steps, self.total_steps)
            losses.append(value.detach().item())
            if not math.isfinite(losses[-1]):
                raise ArithmeticError(f"the loss became {losses[-1]} in epoch {epoch}")
            bar.advance(1, f"loss {losses[-1]:.3f}{seen}")
        return sum(losses) / len(losses)

    def _judge(self, epoch: int, record: dict[str, float]) -> bool:
        """Keep the weights if they are the best so far; say whether patience has ended."""
        # The lower loss decides between equal metrics: a small validation split has many ties.
        score = (record["validation_metric"], -record["validation_loss"])
        if score > self.best_score:
            self.best_score, self.best_epoch = score, epoch
            state = self.module.state_dict()
            self.best = {name: value.detach().cpu().clone() for name, value in state.items()}
        return self.config.patience is not None and epoch - self.best_epoch >= self.config.patience


def evaluate(
    module: nn.Module, split: Split, task: Task, *, device: str = "cpu", batch_size: int = 64
) -> dict[str, float]:
    """Loss and metric of a module on a split: `validation_loss`, `validation_metric`."""
    import torch

    from compress.model.calls import predict_logits

    answers = predict_logits(module, split, task, batch_size=batch_size, device=device)  # [n, c]
    labels = torch.from_numpy(split.labels)
    return {
        "validation_loss": float(task.loss(answers, labels)),
        "validation_metric": float((answers.argmax(-1) == labels).float().mean()),
    }


def _tensors(batch: Batch, device: str) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(array).to(device) for name, array in batch.items()}


def _forward_loss(
    module: nn.Module, tensors: dict[str, Tensor], task: Task, loss: LossFunction, *, bf16: bool
) -> Tensor:
    import torch

    from compress.model.calls import logits

    device = tensors[LABELS_KEY].device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        answers = logits(module, {name: tensors[name] for name in task.input_names})
    return loss(answers.float(), tensors)


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


def _use_bf16(
    module: nn.Module, train: Split, task: Task, config: TrainConfig, device: str, loss: LossFunction
) -> bool:
    """Decide on bf16: asked for, or (auto) the device has it and two steps are measurably faster."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if not _has_bf16(device) or len(train) < config.batch_size * 8:
        return False
    tensors = _tensors(next(train.batches(config.batch_size)), device)
    seconds = {}
    for bf16 in (False, True, False, True):  # in turns; the first of each is its warm-up
        began = time.perf_counter()
        for _ in range(2):
            _forward_loss(module, tensors, task, loss, bf16=bf16).backward()  # type: ignore[no-untyped-call]
        seconds[bf16] = time.perf_counter() - began
    module.zero_grad()
    return seconds[False] > _BF16_MUST_BE_FASTER_BY * seconds[True]


def _has_bf16(device: str) -> bool:
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    capability = torch.backends.cpu.get_cpu_capability()
    return bool(capability.startswith("AVX512") and torch.ops.mkldnn._is_mkldnn_bf16_supported())
