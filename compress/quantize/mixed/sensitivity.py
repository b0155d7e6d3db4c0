"""What each group of layers costs in each scheme, alone: the divergence of the answers, and the metric.

A model is quantized whole in every scheme, and parts of these models are then put together: layers that are
given the same tensor (queries, keys and values) go together, every table by itself, and all that is neither a
linear layer nor a table (convolutions, and norms that were folded into them) together too.
Shapes: u = judged units, c = numbers of an answer.
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
    from compress.quantize.stage import QuantizeLayers
    from compress.stage import Context
    from compress.tasks import Task

__all__ = ["Damage", "FLOAT", "Group", "Parts", "answers", "damage_of", "damages"]

FLOAT = "float"


@dataclass(frozen=True)
class Group:
    """Layers that take one scheme together.

    Attributes:
        layers: paths, in the order of the forward pass where that is known.
        products: weights of linear and recurrent layers and convolutions, each a multiply-add a position.
    """

    layers: tuple[str, ...]
    products: int

    @property
    def name(self) -> str:
        """For people: the paths, what they begin with only once."""
        first = self.layers[0].rpartition(".")[0]
        if len(self.layers) == 1 or any(name.rpartition(".")[0] != first for name in self.layers):
            return ", ".join(self.layers)
        return f"{first}.{{{', '.join(name.rpartition('.')[2] for name in self.layers)}}}"


@dataclass(frozen=True)
class Damage:
    """What one group costs in one scheme, all others float.

    Attributes:
        divergence: from the float model's answers, mean over units, in nats.
        metric: change of the metric on these rows.
    """

    divergence: float
    metric: float


class Parts:
    """One model whole in several schemes, and models put together from its parts.

    Attributes:
        whole: the model in each scheme, and as it was under `FLOAT`.
        left_float: weights that no scheme quantizes, and why the first doesn't.
        groups: what can be chosen one by one, in the order of the forward pass where that is known.
    """

    def __init__(self, model: nn.Module, stages: Mapping[str, QuantizeLayers], context: Context) -> None:
        """Quantize the model whole in each scheme.

        Raises:
            StageError: as the stages do.
        """
        self.whole: dict[str, nn.Module] = {FLOAT: copy.deepcopy(model).eval()}
        left: list[dict[str, str]] = []
        for name, stage in stages.items():
            context.progress.say(f"quantizing the whole model: {name}")
            made = stage.apply(model, context)
            self.whole[name] = made.model
            left.append(made.facts["left_float"])
        self.left_float = {name: why for name, why in left[0].items() if all(name in each for each in left)}
        # No float model: what a stage settles for torch's own encoder layers holds for all parts.
        self._shell = copy.deepcopy(self.whole[next(iter(stages))])
        self.groups = _groups(self.whole, context)

    def together(self, schemes: Sequence[str]) -> nn.Module:
        """Put together one scheme a group. The model shares its layers with the whole ones, and is used again
        by the next call: copy what shall stay."""
        for group, scheme in zip(self.groups, schemes, strict=True):
            for path in group.layers:
                parent, _, last = path.rpartition(".")
                setattr(self._shell.get_submodule(parent), last, self.whole[scheme].get_submodule(path))
        return self._shell

    def stored_bytes(self, group: Group, scheme: str) -> int:
        """Bytes of a group's weights in a scheme."""
        from compress.quantize.replace import tensor_bytes

        layers = {id(layer): layer for layer in map(self.whole[scheme].get_submodule, group.layers)}
        return sum(tensor_bytes(layer) for layer in layers.values())


def damages(parts: Parts, rows: Split, context: Context) -> list[dict[str, Damage]]:
    """Quantize each group alone in each scheme, and compare its answers with the float model's.

    Args:
        rows: with labels, none of which any scheme was made with.

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
    """What a model's answers differ in from the float model's, both [u, c].

    Raises:
        StageError: some answers are not numbers.
    """
    import torch

    for what, answered in (("float", truth), ("quantized", logits)):
        if not bool(torch.isfinite(answered).all()):
            raise StageError(f"the {what} model's answers to {rows.name} rows are not all numbers")
    divergence = max(0.0, float(task.divergence(logits.double(), truth.double(), 1.0)))
    found, wanted = (task.value(task.named(each.numpy()), rows.answers) for each in (logits, truth))
    return Damage(divergence, found - wanted)


def _groups(whole: Mapping[str, nn.Module], context: Context) -> list[Group]:
    from torch import nn

    from compress.quantize.calibrate import shared_inputs

    model = whole[FLOAT]
    places: dict[int, list[str]] = {}  # a layer that stands in several places goes with all of them
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
    """Weights that are multiplied with something; a table's are looked up."""
    from torch import nn

    if isinstance(layer, nn.Embedding):
        return 0
    return sum(weight.numel() for weight in layer.parameters(recurse=False) if weight.ndim > 1)
