"""Damage of each group of layers in each scheme alone: divergence of the outputs, and change of the metric.

The whole model is quantized in every scheme, and models are then assembled from parts of these: layers with
the same input tensor (queries, keys and values) form one group, each table its own, and everything else
(convolutions, and norms folded into them) one more.
Shapes: u = scored units, c = outputs per unit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.stage import Context, Stage, StageResult
    from compress.tasks import Task

__all__ = ["Damage", "FLOAT", "Group", "Parts", "answers", "damage_of", "damages", "disagreement_of"]

FLOAT = "float"


@dataclass(frozen=True)
class Group:
    """Layers that get the same scheme.

    Attributes:
        layers: paths, in the order of the forward pass where known.
        products: weights of linear, convolution and recurrent layers: multiply-adds per position.
    """

    layers: tuple[str, ...]
    products: int

    @property
    def name(self) -> str:
        """Readable name: the paths, with a common prefix only once."""
        first = self.layers[0].rpartition(".")[0]
        if len(self.layers) == 1 or any(name.rpartition(".")[0] != first for name in self.layers):
            return ", ".join(self.layers)
        return f"{first}.{{{', '.join(name.rpartition('.')[2] for name in self.layers)}}}"


@dataclass(frozen=True)
class Damage:
    """Damage of one group in one scheme, all others float.

    Attributes:
        divergence: from the float model's outputs, mean over units, in nats.
        metric: change of the metric on these rows.
    """

    divergence: float
    metric: float


class Parts:
    """The whole model in several schemes, and models assembled from its parts.

    Attributes:
        whole: the model in each scheme, and the original under `FLOAT`.
        left_float: weights that no scheme quantizes, and the first scheme's reason.
        groups: units of choice, in the order of the forward pass where known.
    """

    def __init__(self, model: nn.Module, made: Mapping[str, StageResult], context: Context) -> None:
        """Take a float model, and what quantize stages made of it, by scheme."""
        self.whole: dict[str, nn.Module] = {FLOAT: copy.deepcopy(model).eval()}
        self.whole |= {name: each.model for name, each in made.items()}
        left: list[dict[str, str]] = [each.facts["left_float"] for each in made.values()]
        self.left_float = {name: why for name, why in left[0].items() if all(name in each for each in left)}
        # A quantized model: what a stage changes in torch's own encoder layers must hold for all parts.
        self._shell = copy.deepcopy(next(iter(made.values())).model)
        self.groups = _groups(self.whole, context)

    @classmethod
    def of(cls, model: nn.Module, stages: Mapping[str, Stage], context: Context) -> Parts:
        """Quantize the whole model in each scheme.

        Raises:
            StageError: as the stages do.
        """
        made = {}
        for name, stage in stages.items():
            context.progress.say(f"quantizing the whole model: {name}")
            made[name] = stage.apply(model, context)
        return cls(model, made, context)

    def together(self, schemes: Sequence[str]) -> nn.Module:
        """Assemble a model with one scheme per group.

        It shares its layers with the whole models, and the next call reuses it: copy it to keep it.
        """
        for group, scheme in zip(self.groups, schemes, strict=True):
            for path in group.layers:
                parent, _, last = path.rpartition(".")
                setattr(self._shell.get_submodule(parent), last, self.layer(scheme, path))
        return self._shell

    def layer(self, scheme: str, path: str) -> nn.Module:
        """A layer of the whole model in a scheme."""
        return self.whole[scheme].get_submodule(path)

    def stored_bytes(self, group: Group, scheme: str) -> int:
        """Bytes of a group's weights in a scheme."""
        from compress.quantize.replace import tensor_bytes

        layers = {id(layer): layer for layer in map(self.whole[scheme].get_submodule, group.layers)}
        return sum(tensor_bytes(layer) for layer in layers.values())


def damages(parts: Parts, rows: Split, context: Context) -> list[dict[str, Damage]]:
    """Quantize each group alone in each scheme, and compare its outputs with the float model's.

    Args:
        rows: labelled rows that no scheme was calibrated on.

    Returns:
        For each group, by scheme.
    """
    schemes = [name for name in parts.whole if name != FLOAT]
    alone = [FLOAT] * len(parts.groups)
    truth = answers(parts.together(alone), rows, context)
    found: list[dict[str, Damage]] = []
    with context.progress.bar("quantizing each group alone", len(parts.groups) * len(schemes)) as bar:
        for index in range(len(parts.groups)):
            found.append({})
            for scheme in schemes:
                alone[index] = scheme
                logits = answers(parts.together(alone), rows, context)
                found[-1][scheme] = damage_of(logits, truth, rows, context.task)
                bar.advance(1)
            alone[index] = FLOAT
    return found


def answers(model: nn.Module, rows: Split, context: Context) -> Tensor:
    """Logits of all units, [u, c]."""
    from compress.model.forward import predict_logits

    model.to(context.device)
    try:
        return predict_logits(model, rows, context.task, device=context.device)
    finally:
        model.to("cpu")


def damage_of(logits: Tensor, truth: Tensor, rows: Split, task: Task) -> Damage:
    """Compare a model's outputs with the float model's, both [u, c].

    Raises:
        StageError: outputs are not finite.
    """
    import torch

    for what, answered in (("float", truth), ("quantized", logits)):
        if not bool(torch.isfinite(answered).all()):
            raise StageError(f"the {what} model's outputs for {rows.name} rows contain NaN or infinity")
    divergence = max(0.0, float(task.divergence(logits.double(), truth.double(), 1.0)))
    before, after = (task.named(each.numpy()) for each in (truth, logits))
    # Not the difference of two values: with labels that nobody knows, a task compares the two answers.
    return Damage(divergence, task.change(before, after, rows.truth(task)))


def disagreement_of(logits: Tensor, truth: Tensor, rows: Split, task: Task) -> float:
    """Share of units that are answered differently from the float model; logits as in `damage_of`."""
    found, wanted = (task.named(each.numpy()) for each in (logits, truth))
    return 1 - task.agreement(wanted, found, rows.truth(task))


def _groups(whole: Mapping[str, nn.Module], context: Context) -> list[Group]:
    from torch import nn

    from compress.quantize.calibrate import shared_inputs

    model = whole[FLOAT]
    places: dict[int, list[str]] = {}  # a layer used in several places changes in all of them
    for name, module in model.named_modules(remove_duplicate=False):
        others = [_at(each, name) for each in whole.values()]
        if not any(module.children()) and any(type(other) is not type(module) for other in others):
            places.setdefault(id(module), []).append(name)
    changed = {names[0]: names for names in places.values()}
    linears = [name for name in changed if isinstance(model.get_submodule(name), nn.Linear)]
    tables = [name for name in changed if isinstance(model.get_submodule(name), nn.Embedding)]
    rest = [name for name in changed if name not in {*linears, *tables}]
    together = [(name,) for name in tables] + ([tuple(rest)] if rest else [])
    if linears:
        together += [place.layers for place in shared_inputs(model, linears, context.validation, context)]
    return [
        Group(
            tuple(path for name in names for path in changed[name]),
            sum(_products(model.get_submodule(name)) for name in names),
        )
        for names in together
    ]


def _at(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _products(layer: nn.Module) -> int:
    """Number of weights that are multiplied; a table's are only looked up."""
    from torch import nn

    if isinstance(layer, nn.Embedding):
        return 0
    return sum(weight.numel() for weight in layer.parameters(recurse=False) if weight.ndim > 1)
