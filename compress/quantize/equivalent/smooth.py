"""Find where activations can be scaled and weights scaled back without changing outputs, and do it.

A channel may be divided where it is produced and multiplied where it is read only if everything in between
commutes with a positive factor per channel: attention over values, a product with a gate, ReLU, nothing at
all. GELU doesn't, nor does a LayerNorm whose output a residual reads too (BERT-like encoders). Each pair is
verified: it is tried with powers of two as factors, and kept if outputs stay equal.
Shapes: t = tokens, m = channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compress.quantize.equivalent.awq import awq_factors
from compress.quantize.equivalent.smoothquant import smoothquant_factors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.quantize.calibrate import SharedInput
    from compress.quantize.integers.grid import Grid
    from compress.stage import Context

__all__ = ["Pair", "Smoothing", "exact_pairs", "scale_", "smooth_"]

Smoothing = Literal["none", "smoothquant", "awq"]

# Products and sums with powers of two are exact, but a kernel may add in another order.
_EQUAL = 1e-5


@dataclass(frozen=True)
class Pair:
    """A module that produces channels, and the linear layers that read them as their shared input."""

    producer: str
    readers: tuple[str, ...]


def exact_pairs(model: nn.Module, places: Sequence[SharedInput], rows: Split, context: Context) -> list[Pair]:
    """Find the pairs that leave outputs unchanged, in the order of their readers.

    Candidates: values and attention output, the two halves of a feed-forward, and norms or linear layers
    whose output is directly the input of linear layers. Each is tried on two rows.

    Args:
        places: linear layers that may be scaled, grouped by input.
    """
    import torch

    from compress.model.forward import predict_logits

    few = rows.take(2, seed=context.seed)
    model.eval()
    with torch.no_grad():
        truth = predict_logits(model, few, context.task)
        exact: list[Pair] = []
        for pair in (*_known_pairs(model, places), *_given_as_made(model, places, few, context)):
            if pair.producer in {each.producer for each in exact}:
                continue
            channels = model.get_submodule(pair.readers[0]).in_features
            factors = torch.where(torch.arange(channels) % 2 == 0, 2.0, 0.25)  # type: ignore[call-overload]
            with _scaled(model, pair, factors):
                found = predict_logits(model, few, context.task)
            if torch.allclose(found, truth, rtol=_EQUAL, atol=_EQUAL * float(truth.abs().max())):
                exact.append(pair)
    order = [place.layers[0] for place in places]
    return sorted(exact, key=lambda pair: order.index(pair.readers[0]))


def scale_(model: nn.Module, pair: Pair, factors: Tensor) -> None:
    """Divide the produced channels and multiply the weights that read them, in place.

    Args:
        factors: positive, [m].
    """
    import torch

    with torch.no_grad():
        for name, tensor in model.get_submodule(pair.producer).named_parameters(recurse=False):
            if name in ("weight", "bias"):  # a linear layer's [m, k], a norm's [m], a bias [m]
                tensor.div_(factors.reshape(-1, *[1] * (tensor.ndim - 1)))
        for name in pair.readers:
            model.get_parameter(f"{name}.weight").mul_(factors)


def smooth_(
    model: nn.Module,
    method: Smoothing,
    strength: float,
    places: Sequence[SharedInput],
    grid: Grid,
    rows: Split,
    context: Context,
) -> dict[str, str]:
    """Scale every exact pair in place; return the readers of each producer.

    Args:
        method: whose factors to use.
        strength: of smoothquant; awq searches its own.
        places: the linear layers that will be quantized.
        grid: grid that their weights will be rounded to.
        rows: calibration rows.

    Raises:
        StageError: a layer's input is not finite; the message names it.
    """
    import torch

    from compress.quantize.calibrate import SharedInput, gram_at, loudest_of

    pairs = exact_pairs(model, places, rows, context)
    inputs = [SharedInput(pair.readers) for pair in pairs]
    loudest = loudest_of(model, inputs, rows, context) if method == "smoothquant" and pairs else []
    for index, (pair, place) in enumerate(zip(pairs, inputs, strict=True)):
        weights: list[Tensor] = [model.get_parameter(f"{name}.weight").detach() for name in pair.readers]
        if method == "smoothquant":
            factors = smoothquant_factors(torch.cat(weights), loudest[index], strength)
        else:
            gram = gram_at(model, place, rows, context)
            factors = awq_factors(weights, gram.matrix[:-1, :-1] / gram.tokens, grid)
        scale_(model, pair, factors)
    return {pair.producer: ", ".join(pair.readers) for pair in pairs}


def _known_pairs(model: nn.Module, places: Sequence[SharedInput]) -> Iterator[Pair]:
    """Pairs known from the structure: the third producer makes values, the first neurons.

    Values shared by several queries have fewer channels than their reader, and form no pair.
    """
    from compress.model.structure.find import UnknownStructureError, structure_of

    try:
        sites = structure_of(model).sites
    except UnknownStructureError:
        return
    alone = {place.layers[0] for place in places if len(place.layers) == 1}
    for site in sites:
        made = site.producers[2:3] if site.kind == "attention" else site.producers[:1]
        if site.consumer in alone and [each.parts for each in made] == [(site.unit_size,)]:
            yield Pair(made[0].path, (site.consumer,))


def _given_as_made(
    model: nn.Module, places: Sequence[SharedInput], rows: Split, context: Context
) -> Iterator[Pair]:
    """Norms and linear layers whose output tensor itself is the input of linear layers."""
    from torch import nn

    from compress.model.forward import predict_logits

    made: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no id is reused
    found: dict[str, str] = {}
    handles = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        is_linear = isinstance(module, nn.Linear)
        if weight is not None and (is_linear or weight.ndim == 1):

            def keep(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                made[id(output)] = (name, output)

            handles.append(module.register_forward_hook(keep))
    for place in places:

        def meet(_: nn.Module, inputs: tuple[Tensor, ...], name: str = place.layers[0]) -> None:
            if id(inputs[0]) in made:
                found.setdefault(name, made[id(inputs[0])][0])

        handles.append(model.get_submodule(place.layers[0]).register_forward_pre_hook(meet))
    try:
        predict_logits(model, rows, context.task)
    finally:
        for handle in handles:
            handle.remove()
    for place in places:
        if place.layers[0] in found:
            yield Pair(found[place.layers[0]], place.layers)


@contextmanager
def _scaled(model: nn.Module, pair: Pair, factors: Tensor) -> Iterator[None]:
    """Scale while the context is open, then restore the weights."""
    import torch

    modules: Mapping[str, nn.Module] = {
        name: model.get_submodule(name) for name in (pair.producer, *pair.readers)
    }
    kept = {
        (name, key): tensor.detach().clone()
        for name, module in modules.items()
        for key, tensor in module.named_parameters(recurse=False)
    }
    scale_(model, pair, factors)
    try:
        yield
    finally:
        with torch.no_grad():
            for (name, key), tensor in kept.items():
                getattr(modules[name], key).copy_(tensor)
