"""The one training loop, on Accelerate: training, recovery after pruning, and distillation use it.

AdamW, linear warm-up and cosine decay to zero, gradient clipping, early stopping; the weights of the best epoch on
validation are kept.
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
from compress.progress import Progress, Silent
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
    """

    curve: list[dict[str, float]]
    best_epoch: int
    precision: str


_BF16_MUST_BE_FASTER_BY = 1.25  # below this the loss of digits isn't worth it, and a timing could go either way


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
    """Train a module in place and leave it with the weights of its best epoch, in evaluation mode, on the CPU.

    Args:
        loss: none is the task's own.
        after_step: called with (steps done, steps in all) after each optimizer step, e.g. to hold a mask.
        first_kept_epoch: epochs before this one can't be the best (a sparsity still rising, say).

    Raises:
        StageError: the loss became infinite or not a number.
    """
    import torch
    from accelerate import Accelerator

    # bf16 is ours to choose per call (below): Accelerate fixes its own choice once a process.
    accelerator = Accelerator(cpu=device == "cpu")
    progress = progress or Silent()
    loss = loss or (lambda logits, batch: task.loss(logits, batch[LABELS_KEY]))
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    total_steps = steps_per_epoch * config.epochs
    torch.manual_seed(seed)
    module.to(accelerator.device)
    optimizer = torch.optim.AdamW(_parameter_groups(module, config.weight_decay), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _schedule(step, total_steps, config.warmup_fraction)
    )
    prepared, optimizer, schedule = accelerator.prepare(module, optimizer, schedule)
    bf16 = _use_bf16(prepared, train, task, config, str(accelerator.device), loss)
    curve: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    best_score = (-math.inf, -math.inf)
    stale = steps = best_epoch = 0
    with progress.bar(description, total_steps) as bar:
        for epoch in range(1, config.epochs + 1):
            prepared.train()
            losses = []
            for batch in train.batches(config.batch_size, shuffle_seed=seed * 1_000_003 + epoch):
                tensors = _tensors(batch, str(accelerator.device))
                value = _forward_loss(prepared, tensors, task, loss, bf16=bf16)
                accelerator.backward(value)
                accelerator.clip_grad_norm_(prepared.parameters(), config.clip_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                steps += 1
                if after_step is not None:
                    after_step(steps, total_steps)
                losses.append(value.detach().item())
                if not math.isfinite(losses[-1]):
                    raise StageError(
                        f"{description}: the loss became {losses[-1]} in epoch {epoch}; try a lower "
                        f"learning_rate (it is {config.learning_rate:g}) or precision: fp32"
                    )
                bar.advance(1, f"loss {losses[-1]:.3f}" + (f", validation {best_score[0]:.3f}" if best else ""))
            record = {"epoch": float(epoch), "train_loss": sum(losses) / len(losses)}
            record |= evaluate(module, validation, task, device=str(accelerator.device))
            curve.append(record)
            # The lower loss decides between equal metrics: a small validation split has many ties.
            score = (record["validation_metric"], -record["validation_loss"])
            if epoch >= first_kept_epoch:
                if score > best_score:
                    best_score, best_epoch, stale = score, epoch, 0
                    best = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
                else:
                    stale += 1
                if config.patience is not None and stale >= config.patience:
                    bar.advance(total_steps - steps)
                    break
    module.to("cpu")
    module.load_state_dict(best)
    module.eval()
    return Fit(curve, best_epoch, "bf16" if bf16 else "fp32")


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
        return torch.cuda.is_bf16_supported()
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX512") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

