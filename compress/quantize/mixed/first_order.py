"""Estimated damage of each group, from one backward pass a scheme instead of a pass a group.

Layers of a quantized model add errors e to their outputs, and the divergence D(e) from the float model's
outputs is 0 with gradient 0 at e = 0: for small errors D(e) = eᵀHe/2. The gradient with all errors is He, so
⟨e_i, dD/de_i⟩/2 = e_i·(He)_i/2 is the part of layer i: its Shapley value (Shapley 1953) in this game, that
is, its own damage plus half of each interaction; all parts add up to D. A second-order sensitivity as in
HAWQ-V2 (Dong et al. 2020, arXiv 1911.03852), along the errors themselves instead of by the trace of H.

Gradients are taken at half of the errors, because D saturates where answers become random. An error is the
difference of the two layers' outputs for the same input, so it covers weights and activations.
Shapes: u = judged units, c = outputs per unit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.model.evaluating import evaluating
from compress.model.forward import logits, to_tensors
from compress.quantize.mixed.sensitivity import FLOAT, Damage, damages
from compress.tasks import LABELS_KEY

if TYPE_CHECKING:
    from compress.data.split import Split
    from compress.quantize.mixed.sensitivity import Parts
    from compress.stage import Context

__all__ = ["estimated", "estimated_divergences"]

_SHARE = 0.5  # of the errors, at which the gradient is taken
_BATCH = 8


def estimated(parts: Parts, rows: Split, context: Context) -> list[dict[str, Damage]]:
    """The estimated damage of each group, by scheme; change of the metric is not estimated, and 0.

    A model that lets no gradient through is tried group by group.

    Args:
        rows: labelled rows that no scheme was calibrated on.
    """
    schemes = [name for name in parts.whole if name != FLOAT]
    values = _divergences(parts, schemes, rows, context)
    if not all(values):
        return damages(parts, rows, context)
    return [
        {name: Damage(max(each, 0.0), 0.0) for name, each in zip(schemes, of_group, strict=True)}
        for of_group in zip(*values, strict=True)
    ]


def estimated_divergences(parts: Parts, scheme: str, rows: Split, context: Context) -> list[float]:
    """The part of each group in the divergence of the model in one scheme from the float model, in nats.

    Args:
        rows: labelled rows that the scheme was not calibrated on.

    Returns:
        For each group; empty if no gradient reaches the layers.

    Raises:
        StageError: outputs are not finite.
    """
    (found,) = _divergences(parts, [scheme], rows, context)
    return found


def _divergences(parts: Parts, schemes: Sequence[str], rows: Split, context: Context) -> list[list[float]]:
    """`estimated_divergences` of several schemes; the float model answers once for all of them."""
    halves = [_Halfway(parts, scheme) for scheme in schemes]
    full, task = parts.whole[FLOAT], context.task
    with context.progress.bar("sensitivity of each group", len(rows)) as bar:
        for batch in rows.batches(_BATCH):
            labels = torch.from_numpy(batch[LABELS_KEY])
            inputs = to_tensors(batch, task.input_names, context.device)
            with torch.no_grad(), evaluating(full, context.device):
                truth = task.judged(logits(full, inputs).float().cpu(), labels)
            for each in halves:
                each.add(inputs, labels, truth, context)
            bar.advance(len(labels))
    return [each.divergences() for each in halves]


class _Halfway:
    """A model whose quantized layers add a share of their errors, and each group's damage so far.

    Attributes:
        units: number of judged units that gradients reached.
    """

    def __init__(self, parts: Parts, scheme: str) -> None:
        """Put both layers at each place of the whole model in a scheme."""
        self.model = copy.deepcopy(parts.whole[scheme])
        self.units = 0
        places: dict[int, _Between] = {}
        self.groups: list[list[_Between]] = []
        for group in parts.groups:
            self.groups.append([])
            for path in group.layers:
                pair = parts.layer(FLOAT, path), parts.layer(scheme, path)
                if id(pair[0]) not in places:
                    places[id(pair[0])] = _Between(*pair)
                    self.groups[-1].append(places[id(pair[0])])
                parent, _, last = path.rpartition(".")
                setattr(self.model.get_submodule(parent), last, places[id(pair[0])])
        self.places = tuple(places.values())

    def add(self, inputs: dict[str, Tensor], labels: Tensor, truth: Tensor, context: Context) -> None:
        """Add a batch to each place's total.

        Args:
            truth: the float model's outputs, [u, c].

        Raises:
            StageError: outputs are not finite.
        """
        for place in self.places:
            place.errors.clear()
        task = context.task
        with evaluating(self.model, context.device), torch.enable_grad():
            found = task.judged(logits(self.model, inputs).float().cpu(), labels)
            if not bool(torch.isfinite(found).all() and torch.isfinite(truth).all()):
                raise StageError(f"the model's outputs for {len(labels)} validation rows are not finite")
            if not len(found):
                return
            divergence = task.divergence(found.double(), truth.double(), 1.0)
            if not divergence.requires_grad:
                return
            errors = [(place, each) for place in self.places for each in place.errors]
            gradients = torch.autograd.grad(divergence, [each for _, each in errors], allow_unused=True)
        for (place, error), gradient in zip(errors, gradients, strict=True):
            if gradient is not None:
                # The error is a share of the whole one, and so is the gradient of a quadratic.
                whole = float((error.detach().double() * gradient.double()).sum()) / _SHARE**2
                place.total += whole / 2 * len(found)
        self.units += len(found)

    def divergences(self) -> list[float]:
        """Mean over units of the damage of each group; empty if no gradient reached the layers."""
        if not self.units:
            return []
        return [sum(each.total for each in found) / self.units for found in self.groups]


class _Between(nn.Module):
    """Answers as the float layer plus a share of the error of the quantized one, and keeps that error.

    Gradients flow through the float layer.

    Attributes:
        errors: of the last forward pass, one tensor per output and call.
        total: sum over units of the damage, set by the caller.
    """

    def __init__(self, full: nn.Module, quantized: nn.Module) -> None:
        """Keep both layers."""
        super().__init__()
        self.full, self.quantized = full, quantized
        self.errors: list[Tensor] = []
        self.total = 0.0

    def __getattr__(self, name: str) -> Any:
        """What a model reads of a layer besides calling it, such as its size."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.quantized, name)

    def forward(self, *given: Any, **named: Any) -> Any:
        """Call both."""
        with torch.no_grad():
            rounded = self.quantized(*given, **named)
        return self._between(self.full(*given, **named), rounded)

    def _between(self, full: Any, rounded: Any) -> Any:
        if isinstance(full, Tensor):
            error = (_SHARE * (rounded - full.detach())).requires_grad_()
            self.errors.append(error)
            return full + error
        if isinstance(full, tuple | list):
            return type(full)(self._between(*each) for each in zip(full, rounded, strict=True))
        return full
