"""Forward passes: the loss of a batch, and the metric of a split.

Shapes: b = batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from compress.data.split import Batch, Split
from compress.tasks import LABELS_KEY, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["LossFunction", "evaluate", "forward_loss"]

LossFunction = Callable[["Tensor", "dict[str, Tensor]"], "Tensor"]
"""Maps logits [b, ...] and the batch (with `labels` and `row_index`) to a scalar."""


def forward_loss(
    module: nn.Module, batch: Batch, task: Task, loss: LossFunction, *, device: str, bf16: bool
) -> Tensor:
    """Loss of a batch, a scalar; the forward pass runs in bf16 if requested, the loss itself in fp32."""
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

    from compress.model.evaluating import evaluating
    from compress.model.forward import logits, to_tensors

    total, count = 0.0, 0
    answers = []
    with torch.no_grad(), evaluating(module):
        for batch in split.batches(task.rows_at_once(split.labels[:1].size, batch_size)):
            answered = logits(module, to_tensors(batch, task.input_names, device)).float()
            labels = torch.from_numpy(batch[LABELS_KEY]).to(answered.device)
            judged = task.judged(answered, labels)
            total += float(task.loss(answered, labels)) * len(judged)
            count += len(judged)
            answers.append(task.named(judged).cpu().numpy())
    metric = task.value(np.concatenate(answers), split.truth(task))
    return {"validation_loss": total / count, "validation_metric": metric}
