"""Gates: a factor 1 on the output of each unit, whose gradient is the loss's sensitivity to the unit.

Each row has its own gates, so one backward pass gives every row's derivative. Padded positions contribute
nothing, because the loss doesn't depend on them.
Shapes: b = rows of a batch, s = sequence, u = units of a site, d = columns of a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compress.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.model.structure.sites import Site
    from compress.tasks import Task

__all__ = ["gate_gradients", "gated"]

BatchLoss = Callable[["Tensor", "dict[str, Tensor]"], "Tensor"]
"""Maps logits [b, c] and the batch to the mean loss over its rows."""


@contextmanager
def gated(model: nn.Module, sites: Sequence[Site], gates: list[Tensor]) -> Iterator[None]:
    """Multiply each unit's output by its gate while the context is open.

    Args:
        gates: one tensor per site, [u] or [b, u]; read at each call, so its entries may be replaced.
    """
    import torch

    handles = []
    for index, site in enumerate(sites):

        def gate(
            module: nn.Module, inputs: tuple[Tensor, ...], index: int = index, size: int = site.unit_size
        ) -> tuple[Tensor, ...]:
            x = inputs[0]  # [b, ..., u*d], or [b, u*d, ...] of a convolution
            factor = gates[index].repeat_interleave(size, dim=-1)  # [u*d] or [b, u*d]
            if factor.ndim == 2 and len(factor) not in (1, len(x)) and len(x) % len(factor) == 0:
                # The module folds positions into the batch axis: [b*s, ...], with a row's positions adjacent.
                factor = factor.repeat_interleave(len(x) // len(factor), dim=0)
            inner = [1] * (x.ndim - 2)
            is_convolution = isinstance(module, torch.nn.modules.conv._ConvNd)
            shape = (-1, *inner) if is_convolution else (*inner, -1)
            factor = factor.reshape(*factor.shape[:-1], *shape) if inner else factor
            return (x * factor, *inputs[1:])

        handles.append(model.get_submodule(site.consumer).register_forward_pre_hook(gate))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gate_gradients(
    model: nn.Module,
    sites: Sequence[Site],
    split: Split,
    task: Task,
    *,
    batch_size: int = 32,
    device: str = "cpu",
    loss: BatchLoss | None = None,
) -> Iterator[list[Tensor]]:
    """Yield, per batch, d loss of a row / d gate for each row: one tensor [b, u] per site, on the CPU.

    Args:
        loss: None means the task's own loss, on labels.

    Raises:
        StageError: a gradient is not finite; the message names the site.
    """
    import torch

    from compress.model.evaluating import evaluating
    from compress.model.forward import logits, to_tensors

    counts = [site.units(model) for site in sites]
    gates: list[Tensor] = []
    with evaluating(model, device), gated(model, sites, gates):
        for batch in split.batches(batch_size):
            tensors = to_tensors(batch, task.input_names, device)
            labels = torch.from_numpy(batch["labels"]).to(device)
            rows = len(labels)
            gates[:] = [torch.ones(rows, count, device=device, requires_grad=True) for count in counts]
            answers = logits(model, tensors)
            if loss is None:
                value = task.loss(answers, task.importance_labels(answers, labels))
            else:
                value = loss(answers, tensors)
            gradients = torch.autograd.grad(value * rows, gates)  # of the sum over rows
            for site, gradient in zip(sites, gradients, strict=True):
                if not bool(torch.isfinite(gradient).all()):
                    raise StageError(f"calibration: the gradient at {site.name} is NaN or infinite")
            yield [gradient.cpu() for gradient in gradients]
