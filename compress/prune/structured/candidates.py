"""Candidates: a site's form at each number of units, and the accuracy loss of each.

Importance methods make the candidates; a search chooses one per site.
Shapes: u = units of a site, o = output features of its consumer, i = columns of the kept units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.model.structure.sites import Site

__all__ = ["Candidate", "put_", "ranked_candidates", "unit_levels"]

_STEP = 0.87  # ratio of each number of neurons to the one above it
_MULTIPLE = 16  # widths between two multiples cost about as much as the larger one


@dataclass(frozen=True)
class Candidate:
    """One possible form of a site.

    Attributes:
        kept: units that are kept, ascending.
        loss: estimated loss, on the scale of the importance method; 0 with all units.
        weight: the consumer's, [o, i]; None: unchanged, or in the file.
        bias: the consumer's, [o]; None: unchanged, or in the file.
        file: where weight and bias are if not in memory: all candidates together are larger than the model.
    """

    kept: tuple[int, ...]
    loss: float
    weight: Tensor | None = None
    bias: Tensor | None = None
    file: Path | None = None

    def put_away(self, file: Path) -> Candidate:
        """Return the same candidate with its weight and bias in a file.

        Raises:
            StageError: the file can't be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {"weight": self.weight, "bias": self.bias}
        try:
            save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)
        except (OSError, SafetensorError) as error:
            raise StageError(f"prune/structured: can't write to {file.parent}: {error}") from error
        return Candidate(self.kept, self.loss, file=file)

    def consumer(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias, from memory or from the file."""
        from safetensors.torch import load_file

        if self.file is None:
            return self.weight, self.bias
        tensors = load_file(self.file)
        return tensors.get("weight"), tensors.get("bias")


def unit_levels(kind: str, units: int, least: int) -> list[int]:
    """Numbers of units to consider, descending from all to `least`.

    Every number of heads; widths of neurons on a geometric grid, in multiples of 16.
    """
    if kind == "attention" or units <= _MULTIPLE:
        return list(range(units, least - 1, -1))
    levels = [units]
    width = units * _STEP
    while width >= _MULTIPLE:
        rounded = round(width / _MULTIPLE) * _MULTIPLE
        if least < rounded < levels[-1]:
            levels.append(rounded)
        width = min(width * _STEP, rounded - 1)
    return [*levels, least] if levels[-1] > least else levels


def ranked_candidates(scores: Tensor, levels: Sequence[int]) -> list[Candidate]:
    """Candidates from a score per unit: the lowest are removed first; the loss is the sum of their scores.

    Args:
        scores: [u], not negative, comparable across sites.
        levels: numbers of units, descending.
    """
    order = scores.argsort(stable=True)  # [u], least important first
    total = len(scores)
    return [
        Candidate(
            tuple(sorted(order[total - level :].tolist())),
            float(scores[order[: total - level]].double().sum()),
        )
        for level in levels
    ]


def put_(model: nn.Module, site: Site, candidate: Candidate, weight: Tensor, bias: Tensor | None) -> None:
    """Make a site compute what the candidate would, at full size: removed columns are zero. For evaluation.

    Args:
        weight: the consumer's weight in the uncut model, [o, u * unit_size].
        bias: the consumer's bias in the uncut model, [o].
    """
    import torch

    from compress.model.cutting.units import unit_features

    consumer = model.get_submodule(site.consumer)
    columns = unit_features(candidate.kept, site.unit_size).to(weight.device)
    own_weight, own_bias = candidate.consumer()
    full = torch.zeros_like(weight)
    full[:, columns] = weight[:, columns] if own_weight is None else own_weight
    with torch.no_grad():
        consumer.weight.copy_(full)  # type: ignore[operator]
        if bias is not None:
            consumer.bias.copy_(bias if own_bias is None else own_bias)  # type: ignore[operator]
