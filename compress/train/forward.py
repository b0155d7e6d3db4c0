"""A batch through a module: to its loss, or all batches of a split to a metric.

Shapes: n = rows, b = batch, c = classes, s = sequence, v = tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from compress.data.split import Batch, Split
from compress.task import LABELS_KEY, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["LossFunction", "evaluate", "forward_loss"]

_MOST_LOGITS = 1 << 26  # of a batch that is only evaluated

LossFunction = Callable[["Tensor", "dict[str, Tensor]"], "Tensor"]
"""Logits [b, c] and the batch (with `labels` and `row_index`, both [b]) to a scalar."""


def forward_loss(
    module: nn.Module, batch: Batch, task: Task, loss: LossFunction, *, device: str, bf16: bool
) -> Tensor:
    """The loss of a batch, a scalar; the forward pass in bf16 if asked for, the loss itself in fp32."""
    import torch

    from compress.model.forward import logits

    tensors = {name: torch.from_numpy(array).to(device) for name, array in batch.items()}
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
        answers = logits(module, {name: tensors[name] for name in task.input_names})
    return loss(answers.float(), tensors)


def evaluate(
    module: nn.Module, split: Split, task: Task, *, device: str = "cpu", batch_size: int = 64
) -> dict[str, float]:
    """Loss and metric of a module on a split: `validation_loss`, `validation_metric`."""
    import torch

    from compress.model.forward import logits, to_tensors

    was_training = module.training
    module.eval()
    total, right, count = 0.0, 0, 0
    with torch.inference_mode():
        for batch in split.batches(_at_once(split, task, batch_size)):
            answers = logits(module, to_tensors(batch, task.input_names, device)).float()  # [b, c], [b, s, v]
            labels = torch.from_numpy(batch[LABELS_KEY]).to(answers.device)
            total += float(task.loss(answers, labels)) * labels.numel()
            right += int((answers.argmax(-1) == labels).sum())
            count += labels.numel()
    module.train(was_training)
    return {"validation_loss": total / count, "validation_metric": right / count}


def _at_once(split: Split, task: Task, most: int) -> int:
    """Rows a batch: a language model's logits are as many as a row's tokens times the vocabulary."""
    return max(1, min(most, _MOST_LOGITS // (split.labels[:1].size * task.classes or 1)))
