"""Narrow one module: the features that it produces, reads, or handles one by one.

Shapes: m = features, g = gates of a recurrent layer (4 of an LSTM, 3 of a GRU).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from compress.errors import ModelError

__all__ = ["Role", "Shared", "count_features", "keep_in_module_", "spread"]

Role = Literal["embedding", "writer", "reader", "norm"]
Shared = dict[int, tuple[Tensor, nn.Parameter]]
"""Id of the old parameter -> (old, new): a tied weight is cut once and stays tied."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_RECURRENT = (nn.LSTM, nn.GRU)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_KINDS: dict[Role, tuple[type[nn.Module], ...]] = {
    "embedding": (nn.Embedding,),
    "writer": (nn.Linear, *_CONVOLUTIONS, *_RECURRENT),
    "reader": (nn.Linear, *_CONVOLUTIONS, *_RECURRENT),
    "norm": (nn.LayerNorm, nn.RMSNorm, *_BATCH_NORMS, *_CONVOLUTIONS),
}
# The attribute with the count, and the parameters (or buffers) with the axis of the features.
_Plan = tuple[str, tuple[tuple[str, int], ...]]
_PLANS: dict[tuple[Role, type[nn.Module]], _Plan] = {
    ("embedding", nn.Embedding): ("embedding_dim", (("weight", 1),)),
    ("writer", nn.Linear): ("out_features", (("weight", 0), ("bias", 0))),
    ("reader", nn.Linear): ("in_features", (("weight", 1),)),
    ("reader", nn.LSTM): ("input_size", (("weight_ih_l0", 1),)),
    ("reader", nn.GRU): ("input_size", (("weight_ih_l0", 1),)),
}
for _convolution in _CONVOLUTIONS:
    _PLANS["writer", _convolution] = ("out_channels", (("weight", 0), ("bias", 0)))
    _PLANS["reader", _convolution] = ("in_channels", (("weight", 1),))
    _PLANS["norm", _convolution] = ("groups", (("weight", 0), ("bias", 0)))
for _batch_norm in _BATCH_NORMS:
    _PLANS["norm", _batch_norm] = (
        "num_features",
        (("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)),
    )


def count_features(module: nn.Module, path: str, role: Role) -> int:
    """Number of features of the module in this role; a Linear may read several values per feature.

    Args:
        path: for messages.

    Raises:
        ModelError: the module can't be cut in this role.
    """
    if role == "norm" and _is_plain_scale(module):
        return len(module.weight)  # type: ignore[arg-type]
    if not isinstance(module, _KINDS[role]):
        wanted = " or ".join(dict.fromkeys(kind.__name__ for kind in _KINDS[role]))
        raise ModelError(f"{path} is {type(module).__name__}, not {wanted}, so its features can't be cut")
    single = isinstance(module, _CONVOLUTIONS) and module.in_channels == 1
    if isinstance(module, _CONVOLUTIONS) and not single and (role == "norm") != (module.groups > 1):
        raise ModelError(
            f"{path} has {module.groups} groups for {module.in_channels} channels; a convolution with groups "
            "belongs among the norms, and one without among writers and readers"
        )
    if isinstance(module, _RECURRENT) and (module.num_layers, module.bidirectional, module.proj_size) != (
        1,
        False,
        0,
    ):
        both = ", is bidirectional" if module.bidirectional else ""
        projected = ", has a projection" if module.proj_size else ""
        raise ModelError(
            f"{path} has {module.num_layers} layers{both}{projected}; only single plain layers can be cut"
        )
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return int(module.normalized_shape[-1])
    if role == "writer" and isinstance(module, _RECURRENT):
        return int(module.hidden_size)
    return _size(module, role)


def keep_in_module_(module: nn.Module, role: Role, index: Tensor, before: int, shared: Shared) -> None:
    """Keep only these features of a module, in place.

    Args:
        index: features to keep, ascending, [<= m].
        before: current number of features.
        shared: parameters already cut, for weights that modules share.
    """
    if role == "norm" and isinstance(module, _CONVOLUTIONS):
        _keep_groups_(module, index, before, shared)
        return
    if role == "norm" and (isinstance(module, nn.LayerNorm | nn.RMSNorm) or _is_plain_scale(module)):
        index = spread(index, len(module.weight) // before)  # type: ignore[arg-type]
        for name in ("weight", "bias"):
            _cut_tensor_(module, name, 0, index, shared)
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.normalized_shape = (len(index),)
        return
    if role == "writer" and isinstance(module, _RECURRENT):
        _keep_hidden_units_(module, index, shared)
        return
    holder, parts = _plan(module, role)
    chosen = spread(index, _size(module, role) // before)
    for name, dim in parts:
        _cut_tensor_(module, name, dim, chosen, shared)
    setattr(module, holder, len(chosen))


def spread(index: Tensor, each: int) -> Tensor:
    """Indices of the values of these features, `each` adjacent ones per feature."""
    return (index[:, None] * each + torch.arange(each)).flatten() if each > 1 else index


def _keep_groups_(module: nn.Conv1d | nn.Conv2d, index: Tensor, before: int, shared: Shared) -> None:
    """Keep only these groups of a convolution, each with its inputs and outputs."""
    inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
    groups = spread(index, module.groups // before)
    for name in ("weight", "bias"):
        _cut_tensor_(module, name, 0, spread(groups, outputs), shared)
    module.groups = len(groups)
    module.in_channels, module.out_channels = inputs * module.groups, outputs * module.groups


def _is_plain_scale(module: nn.Module) -> bool:
    """Whether it is a custom RMSNorm: one vector, and a size taken from its input."""
    shapes = {name: weight.ndim for name, weight in module.named_parameters()}
    return type(module).__name__.endswith("RMSNorm") and shapes == {"weight": 1}


def _size(module: nn.Module, role: Role) -> int:
    if isinstance(module, nn.Embedding):  # transformers subclasses load with a stale embedding_dim
        return module.weight.shape[1]
    return int(getattr(module, _plan(module, role)[0]))


def _plan(module: nn.Module, role: Role) -> _Plan:
    return next(plan for (of, kind), plan in _PLANS.items() if of == role and isinstance(module, kind))


def _keep_hidden_units_(module: nn.LSTM | nn.GRU, index: Tensor, shared: Shared) -> None:
    """Remove hidden units: their rows of all gates, and their columns of the recurrent weight."""
    gates = 4 if isinstance(module, nn.LSTM) else 3
    rows = (torch.arange(gates)[:, None] * module.hidden_size + index).flatten()
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        _cut_tensor_(module, name, 0, rows, shared)
    _cut_tensor_(module, "weight_hh_l0", 1, index, {})
    module.hidden_size = len(index)


def _cut_tensor_(module: nn.Module, name: str, dim: int, index: Tensor, shared: Shared) -> None:
    old = getattr(module, name, None)
    if old is None:
        return
    smaller = old.detach().index_select(dim, index.to(old.device)).clone()
    if not isinstance(old, nn.Parameter):
        setattr(module, name, smaller)  # a buffer: modules never share one
        return
    if id(old) not in shared:
        shared[id(old)] = (old, nn.Parameter(smaller, requires_grad=old.requires_grad))
    setattr(module, name, shared[id(old)][1])
