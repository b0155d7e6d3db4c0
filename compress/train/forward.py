"""A batch through a module: to its loss, or all batches of a split to a metric.

Shapes: n = rows, b = batch, c = classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from compress.data.split import Batch, Split
from compress.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["LossFunction", "evaluate", "forward_loss"]

LossFunction = Callable[["Tensor", "dict[str, Tensor]"], "Tensor"]
"""Logits [b, c] and the batch (with `labels` and `row_index`, both [b]) to a scalar."""


def forward_loss(
    module: nn.Module, batch: Batch, task: Task, loss: LossFunction, *, device: str, bf16: bool
) -> Tensor:
    """The loss of a batch, a scalar; the forward pass in bf16 if asked for, the loss itself in fp32."""
    import torch

    from compress.model.calls import logits

    tensors = {name: torch.from_numpy(array).to(device) for name, array in batch.items()}
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
        answers = logits(module, {name: tensors[name] for name in task.input_names})
    return loss(answers.float(), tensors)


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
