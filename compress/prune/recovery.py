"""Recovery: training after a cut that learns from the model as it was before the cut.

A cut model has the layers and the width that the dense one has, so its hidden states compare token by token,
layer by layer, and no map between layers is needed (ZipLM, arXiv 2302.04089, sec. 4).
Shapes: b = batch, s = sequence, m = hidden width, c = classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from compress.stage import Context
from compress.task import LABELS_KEY
from compress.train import soft_loss
from compress.train_config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RecoveryConfig", "hidden_distance", "recover_"]


class RecoveryConfig(TrainConfig):
    """How to win accuracy back. The three weights say what is learnt from.

    Attributes:
        labels: weight of the task's own loss.
        logits: weight of the dense model's answers (KL at `temperature`).
        hidden: weight of the dense model's hidden states (relative squared distance, token by token).
    """

    learning_rate: float = Field(default=8e-5, gt=0, le=1)
    labels: float = Field(default=0.3, ge=0)
    logits: float = Field(default=1.0, ge=0)
    hidden: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=2.0, gt=0)


def hidden_distance(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Squared distance of hidden states, relative to how much the teacher's vary; padding doesn't count.

    Args:
        student, teacher: [b, s, m].
        mask: [b, s], 1 = token, 0 = padding; none: all count.

    Returns:
        A scalar: 0 the same, 1 as far as the mean of the teacher's states is.
    """
    keep = student.new_ones(student.shape[:-1]) if mask is None else mask.to(student.dtype)  # [b, s]
    tokens = keep.sum().clamp(min=1)
    weights = keep[..., None] / tokens
    mean = (teacher * weights).sum(tuple(range(teacher.ndim - 1)))  # [m]
    spread = ((teacher - mean).square() * weights).sum().clamp(min=1e-12)
    return ((student - teacher).square() * weights).sum() / spread


def recover_(
    model: nn.Module, teacher: nn.Module, config: RecoveryConfig, context: Context, what: str
) -> None:
    """Train a cut model in place, from labels and from the dense model."""
    import torch

    from compress.model.calls import logits
    from compress.model.structure import structure_of

    teacher = copy.deepcopy(teacher).to(context.device).eval().requires_grad_(False)
    layers = structure_of(model).layers
    caught: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    handles = []
    if config.hidden > 0 and layers is not None:
        for who, module in (("student", model), ("teacher", teacher)):
            for layer in module.get_submodule(layers).children():
                catch = _catch(caught[who], always=who == "teacher")
                handles.append(layer.register_forward_hook(catch))

    def loss(answers: Tensor, batch: dict[str, Tensor]) -> Tensor:
        total = answers.new_zeros(())
        if config.labels > 0:
            total = total + config.labels * context.task.loss(answers, batch[LABELS_KEY])
        student = list(caught["student"])
        for states in caught.values():
            states.clear()
        if config.logits > 0 or student:
            with torch.no_grad():
                target = logits(teacher, {name: batch[name] for name in context.task.input_names})
            if config.logits > 0:
                total = total + config.logits * soft_loss(answers, target, config.temperature)
            mask = batch.get("attention_mask")
            # While bf16 is tried out the model does not train, and only the teacher's states are there.
            pairs = zip(student, caught["teacher"], strict=True) if student else ()
            distances = [hidden_distance(mine.float(), wanted, mask) for mine, wanted in pairs]
            if distances:
                total = total + config.hidden * torch.stack(distances).mean()
        for states in caught.values():
            states.clear()
        return total

    try:
        context.fit_(model, config, what, loss=loss)
    finally:
        for handle in handles:
            handle.remove()


def _catch(states: list[Tensor], *, always: bool) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, _: Any, output: Any) -> None:
        if always or module.training:  # validation rows are answered too: their states would pile up
            states.append(output[0] if isinstance(output, tuple) else output)

    return hook
