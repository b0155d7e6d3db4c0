"""Silencing: a model's answers with the outputs of some units multiplied by 0. Nothing is cut.

Every pass uses the same rows in the same batches, so that passes can be compared answer by answer.
Shapes: a = answers (of rows, tokens ...), u = units of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.split import Split
from compress.model.evaluating import evaluating
from compress.model.forward import device_of, logits, to_tensors
from compress.model.structure.sites import Site
from compress.prune.importance.unit_gates import gated
from compress.tasks import LABELS_KEY, Task, Truth

__all__ = [
    "Batches",
    "SilencedPoint",
    "answers_of",
    "curve_levels",
    "furthest_within",
    "resumed_at_layer",
    "silencing_curve",
]


@dataclass(frozen=True)
class Batches:
    """Rows as tensors, made once for many passes; rows of similar length share a batch.

    Attributes:
        inputs: one dict per batch.
        labels: of each batch, on the CPU.
        truth: true answers, in the batches' order.
        task: scores the answers.
    """

    inputs: tuple[dict[str, Tensor], ...]
    labels: tuple[Tensor, ...]
    truth: Truth
    task: Task

    @classmethod
    def of(cls, split: Split, task: Task, *, batch_size: int = 32, device: str = "cpu") -> Batches:
        """Sort the rows of a split by length and batch them."""
        ordered = split.by_length()
        batches = list(ordered.batches(batch_size))
        return cls(
            tuple(to_tensors(batch, task.input_names, device) for batch in batches),
            tuple(torch.from_numpy(batch[LABELS_KEY]) for batch in batches),
            ordered.truth(task),
            task,
        )


@dataclass(frozen=True)
class SilencedPoint:
    """The task's metric with a number of units silenced.

    Attributes:
        value: the metric.
        difference: the metric minus the full model's.
        low, high: 95 % interval of the difference, which pairs answers; both 0 if nothing is silenced.
    """

    silenced: int
    value: float
    difference: float
    low: float
    high: float


def answers_of(
    model: nn.Module, batches: Batches, sites: Sequence[Site] = (), gates: Sequence[Tensor] = ()
) -> NDArray[Any]:
    """The model's answers with the sites' gates ([u] each) applied, as `Task.named` gives them: [a, ...]."""
    task, answers = batches.task, []
    with torch.no_grad(), evaluating(model), gated(model, sites, list(gates)):
        for inputs, labels in zip(batches.inputs, batches.labels, strict=True):
            answers.append(task.named(task.judged(logits(model, inputs), labels)).cpu())
    found: NDArray[Any] = torch.cat(answers).numpy()
    return found


def silencing_curve(
    model: nn.Module,
    batches: Batches,
    sites: Sequence[Site],
    order: Sequence[tuple[int, int]],
    levels: Sequence[int],
    full: NDArray[Any],
    *,
    on_pass: Callable[[SilencedPoint], None] | None = None,
) -> list[SilencedPoint]:
    """Evaluate the model with more and more units silenced.

    Args:
        order: (site, unit) in the order in which to silence them.
        levels: number of silenced units at each point; 0 needs no pass.
        full: the full model's `answers_of`.
        on_pass: called with each point that needed a pass.

    Returns:
        One point per level, in the order of `levels`.
    """
    device, task, truth = device_of(model), batches.task, batches.truth
    whole = task.value(full, truth)
    points = []
    for level in levels:
        if level == 0:  # the same model, so the difference is exactly 0
            points.append(SilencedPoint(0, whole, 0.0, 0.0, 0.0))
            continue
        gates = [torch.ones(site.units(model), device=device) for site in sites]
        for site, unit in order[:level]:
            gates[site][unit] = 0.0
        answers = answers_of(model, batches, sites, gates)
        found = task.difference(full, answers, truth)
        point = SilencedPoint(level, task.value(answers, truth), found.value, found.low, found.high)
        points.append(point)
        if on_pass is not None:
            on_pass(point)
    return points


def curve_levels(units: int, most: int) -> list[int]:
    """Spread at most `most` levels evenly from 1 to all units, preceded by 0."""
    return sorted({0, *(round(units * step / most) for step in range(1, most + 1))})


def furthest_within(points: Sequence[SilencedPoint], max_drop: float) -> SilencedPoint:
    """Return the point with the most units silenced that loses at most `max_drop` of the metric."""
    # Rounding can leave a loss just above the share that it is.
    kept = [point for point in points if -point.difference <= max_drop + 1e-9]
    return max(kept, key=lambda point: point.silenced)


class _Replay(nn.Module):
    """Replaces a layer whose outputs are known: returns them batch by batch, cyclically."""

    def __init__(self, outputs: Sequence[Any], original: nn.Module) -> None:
        super().__init__()
        self.outputs, self.turn = outputs, 0
        self.__dict__["original"] = original  # not a submodule

    def __getattr__(self, name: str) -> Any:
        # Some models read a layer's attributes in their forward pass (e.g. its attention type).
        return getattr(self.__dict__["original"], name)

    def forward(self, *_: Any, **__: Any) -> Any:
        """Return the next batch's output."""
        self.turn += 1
        return self.outputs[(self.turn - 1) % len(self.outputs)]


@contextmanager
def resumed_at_layer(model: nn.Module, layers: str, index: int, batches: Batches) -> Iterator[None]:
    """Start passes over these batches at a layer: earlier layers replay their recorded outputs.

    Halves the cost of silencing each layer alone. In a model that reads the outputs of all its layers it
    would change the answers; check that `answers_of` equal those of the full model.

    Args:
        layers: path of the nn.ModuleList.
        index: the first layer that is computed; 0 changes nothing.
    """
    stack = model.get_submodule(layers)
    if index == 0 or not isinstance(stack, nn.ModuleList):
        yield
        return
    outputs: list[Any] = []
    handle = stack[index - 1].register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        answers_of(model, batches)
    finally:
        handle.remove()
    originals = [stack[i] for i in range(index)]
    try:
        for i, original in enumerate(originals):
            stack[i] = _Replay(outputs, original)
        yield
    finally:
        for i, original in enumerate(originals):
            stack[i] = original
