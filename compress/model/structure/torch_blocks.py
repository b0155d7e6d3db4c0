"""The structure of a module made of torch's own Transformer layers, which has no `structure()`.

Its heads, feed-forward neurons and layers are known; its width is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compress.model.layers.multihead import LinearAttention
from compress.model.structure.layouts import Attention, FeedForward, Layout

__all__ = ["torch_layout"]

_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def torch_layout(model: nn.Module) -> Layout | None:
    """Where the parts of torch's layers are; None: there are no such layers.

    An attention block counts once it was replaced (`open_attention_`); a feed-forward whose activation mixes
    neurons does not.
    """
    found = dict(model.named_modules())
    attention = tuple(
        Attention(
            q=f"{path}.q_proj",
            k=f"{path}.k_proj",
            v=f"{path}.v_proj",
            out=f"{path}.out_proj",
            head_size=each.head_dim,
            queries_per_group=1,
            name=path,
        )
        for path, each in found.items()
        if path and isinstance(each, LinearAttention)
    )
    feed_forward = tuple(
        FeedForward(up=f"{path}.linear1".lstrip("."), down=f"{path}.linear2".lstrip("."))
        for path, each in found.items()
        if type(each) in _LAYERS and _is_elementwise(each.activation)
    )
    if not attention and not feed_forward:
        return None
    encoders = [path for path, each in found.items() if isinstance(each, nn.TransformerEncoder)]
    layers = f"{encoders[0]}.layers".lstrip(".") if len(encoders) == 1 else None
    return Layout(layers=layers, attention=attention, feed_forward=feed_forward)


def _is_elementwise(activation: Any) -> bool:
    """Whether a neuron's output depends on it alone."""
    with torch.no_grad():
        values = torch.linspace(-2, 2, 6)
        whole = activation(values)
        return whole.shape == values.shape and torch.allclose(whole[:3], activation(values[:3]))
