"""Weights that are computed from others, and replacing them by their current values.

torch has three mechanisms: `torch.nn.utils.parametrize` (weight_norm, spectral_norm and orthogonal of
`torch.nn.utils.parametrizations`, and a user's own), the hooks of the older `torch.nn.utils.weight_norm` and
`spectral_norm`, and the masks of `torch.nn.utils.prune`. Such a layer can be trained and run, but its weight
can't be set: cutting or quantizing it would have no effect, or fail. So a model is trained as written, and
its weights are made plain before any stage; later training trains the plain weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from compress.errors import ModelError
from compress.model.layers.multihead import open_attention_, packed_attention

__all__ = ["check_plain", "computed_weights", "is_plain", "plain_weights_"]


def computed_weights(model: nn.Module) -> dict[str, str]:
    """Map the names of tensors that are computed from others to a description of how."""
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            for name, steps in module.parametrizations.items():
                how = " of ".join(type(step).__name__.strip("_") for step in reversed(steps))
                found[f"{path}.{name}".lstrip(".")] = f"parametrized by {how}"
        for hook in _hooks(module):
            name = hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name
            found[f"{path}.{name}".lstrip(".")] = f"computed by a hook, {type(hook).__name__}"
    return found


def plain_weights_(model: nn.Module) -> nn.Module:
    """Replace computed weights by their values in eval mode, in place.

    Blocks of nn.MultiheadAttention, whose weights are no layers, become blocks of Linear layers. Outputs in
    eval mode stay the same. If there were computed weights, the model is left in eval mode.
    """
    if computed_weights(model):
        _compute_(model)
    open_attention_(model)
    return model


def _compute_(model: nn.Module) -> None:
    model.eval()  # otherwise spectral_norm would continue its power iteration
    for module in model.modules():
        if parametrize.is_parametrized(module):
            _unparametrized_(module)
        for hook in _hooks(module):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
            else:
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]


def is_plain(model: nn.Module) -> bool:
    """Whether `plain_weights_` has nothing to do."""
    return not computed_weights(model) and not packed_attention(model)


def check_plain(model: nn.Module) -> None:
    """Refuse a model with computed weights, which can't be cut or quantized.

    Raises:
        ModelError: it has one; the message names it.
    """
    for name, how in computed_weights(model).items():
        raise ModelError(
            f"{name} is {how}, so it can't be changed. Replace it by a plain parameter with "
            "remove_parametrizations of torch.nn.utils.parametrize, remove_weight_norm, "
            "remove_spectral_norm or prune.remove (recipes do that after training)"
        )


def _hooks(module: nn.Module) -> list[Any]:
    kinds = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, kinds)]


def _unparametrized_(module: nn.Module) -> None:
    """As `remove_parametrizations`, which would break copies: a deep copy shares the class.

    That function deletes the weight's property from the class.
    """
    lists: dict[str, Any] = dict(module.parametrizations.items())  # type: ignore[operator, union-attr]
    with torch.no_grad():
        values: dict[str, Tensor] = {name: getattr(module, name).detach().clone() for name in lists}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        originals = list(lists[name].parameters(recurse=False))
        if originals:
            learns = any(each.requires_grad for each in originals)
            setattr(module, name, nn.Parameter(value, requires_grad=learns))
        else:
            module.register_buffer(name, value)
