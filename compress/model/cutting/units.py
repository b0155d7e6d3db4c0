"""Cut units: make tensors physically smaller, in place.

Shapes: u = units, r = rows of a unit in a producer, o = output features, i = input features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model.layers.removed import Removed
from compress.model.structure.sites import Site

__all__ = ["float_linear", "keep_units_", "replace_linear_", "unit_features"]


def unit_features(units: Sequence[int], size: int) -> Tensor:
    """Feature indices of units with `size` features each: [u] -> [u * size]."""
    return (torch.tensor(list(units), dtype=torch.long)[:, None] * size + torch.arange(size)).flatten()


def _rows_of(units: Sequence[int], total: int, parts: Sequence[int]) -> Tensor:
    """Row indices of units in a producer with these parts, each of which has rows of all `total` units."""
    starts = [total * sum(parts[:place]) for place in range(len(parts))]
    return torch.cat([start + unit_features(units, rows) for start, rows in zip(starts, parts, strict=True)])


def keep_units_(model: nn.Module, site: Site, units: Sequence[int]) -> None:
    """Keep only these units of a site: removes rows of its producers and columns of its consumer.

    Up to rounding, the output equals that of the model with the other units' outputs set to zero. Without any
    unit the whole sub-layer is removed, and adds only its consumer's bias to the residual stream.

    Raises:
        ModelError: a unit doesn't exist, none is left where the architecture needs one, or another module
            shares weights of the site.
    """
    kept = sorted(set(units))
    total = site.units(model)
    least = 0 if site.removal else 1
    if len(kept) < least or (kept and (kept[0] < 0 or kept[-1] >= total)):
        raise ModelError(
            f"{site.name}: {site.unit_name}s to keep must be some of 0..{total - 1}, at least {least}; "
            f"got {list(units)}"
        )
    if len(kept) == total:
        return
    if site.tied is not None:
        raise ModelError(
            f"{site.name}: {site.tied} shares some of its weights but would not be cut with it; untie them, "
            "share the whole block, or leave the block out of structure()",
            see="how-to/own-modules",
        )
    consumer = float_linear(model, site.consumer)
    if not kept:
        _remove_(model, site, consumer)
        return
    for path, parts in site.producers:
        producer = float_linear(model, path)
        features = _rows_of(kept, total, parts).to(producer.weight.device)
        bias = None if producer.bias is None else producer.bias[features]
        replace_linear_(model, path, producer.weight[features], bias)
    features = unit_features(kept, site.unit_size).to(consumer.weight.device)
    replace_linear_(model, site.consumer, consumer.weight[:, features], consumer.bias)
    if site.numbers is not None:
        _keep_numbers_(model, site.numbers, kept, total)


def _keep_numbers_(model: nn.Module, path: str, kept: Sequence[int], total: int) -> None:
    """Store the original indices of the remaining units in a buffer, created at the first cut."""
    at, _, name = path.rpartition(".")
    holder = model.get_submodule(at)
    before: Tensor = getattr(holder, name, torch.arange(total))
    holder.register_buffer(name, before[list(kept)].clone(), persistent=True)


def float_linear(model: nn.Module, path: str) -> nn.Linear:
    """The Linear at a path.

    Raises:
        ModelError: the module there is not a float Linear.
    """
    module = model.get_submodule(path)
    if not isinstance(module, nn.Linear):
        raise ModelError(
            f"{path} is {type(module).__name__}, not a float Linear, so it can't be cut; put prune stages "
            "before quantize stages"
        )
    return module


def replace_linear_(model: nn.Module, path: str, weight: Tensor, bias: Tensor | None) -> None:
    """Put a Linear with copies of these tensors at a path, and wherever else the same module is used.

    Args:
        weight: [o, i].
        bias: [o].
    """
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())
    linear.train(model.training)
    _put_(model, path, linear)


def _put_(model: nn.Module, path: str, new: nn.Module) -> None:
    """Replace the module at a path under all its names, since layers may share it."""
    old = model.get_submodule(path)
    for place in [name for name, each in model.named_modules(remove_duplicate=False) if each is old]:
        model.set_submodule(place, new)


def _remove_(model: nn.Module, site: Site, consumer: nn.Linear) -> None:
    for stub in site.removal:
        features = consumer.out_features if stub.returns == "bias" else 0
        removed = Removed(stub.returns, features=features, as_tuple=stub.as_tuple)
        if stub.returns == "bias" and consumer.bias is not None:
            removed.bias = nn.Parameter(consumer.bias.detach().clone())
        removed.train(model.training)
        _put_(model, stub.path, removed.to(consumer.weight.device))
