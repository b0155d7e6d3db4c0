"""An attention block of four Linear layers that computes what nn.MultiheadAttention does.

nn.MultiheadAttention keeps queries, keys and values in one bare parameter, which is no layer: it can't be
quantized, and no head can be cut. It is replaced once, before any stage, with equal weights.
Shapes: b = batch, t = queries, s = keys, h = heads, d = features of a head, m = width.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LinearAttention", "leave_fast_paths_", "open_attention_", "opened_weights", "packed_attention"]

_PARTS = ("q_proj", "k_proj", "v_proj")


class LinearAttention(nn.Module):
    """Takes and returns what nn.MultiheadAttention does; the number of heads follows from the layers.

    Args:
        other: whose weights it gets, in layers of its own.
    """

    q_proj: nn.Linear
    head_dim: int
    _qkv_same_embed_dim = False  # so that torch's encoder layers call this module, not a fused kernel

    def __init__(self, other: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.kdim, self.vdim = other.embed_dim, other.kdim, other.vdim
        self.head_dim, self.dropout, self.batch_first = other.head_dim, other.dropout, other.batch_first
        biases = (None,) * 3 if other.in_proj_bias is None else other.in_proj_bias.chunk(3)
        for name, weight, bias in zip(_PARTS, _weights(other), biases, strict=True):
            setattr(self, name, _linear(weight, bias))
        self.out_proj = _linear(other.out_proj.weight, other.out_proj.bias)
        self.train(other.training)

    @property
    def num_heads(self) -> int:
        """Heads that are left."""
        return int(self.q_proj.out_features) // self.head_dim

    @property
    def in_proj_weight(self) -> Tensor:
        """As nn.MultiheadAttention has it, for code that reads it."""
        return torch.cat([getattr(self, name).weight for name in _PARTS])

    @property
    def in_proj_bias(self) -> Tensor | None:
        """As nn.MultiheadAttention has it; torch's encoder layers look whether there is one."""
        biases = [getattr(getattr(self, name), "bias", None) for name in _PARTS]
        return None if any(each is None for each in biases) else torch.cat(biases)  # type: ignore[arg-type]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results are those of nn.MultiheadAttention.

        `is_causal` only says of which kind `attn_mask` is, so it is not needed.
        """
        del is_causal
        batched, in_front = query.dim() == 3, self.batch_first or query.dim() == 2
        given = [each if batched else each.unsqueeze(0) for each in (query, key, value)]
        q, k, v = (
            getattr(self, name)(each if in_front else each.transpose(0, 1))
            .unflatten(-1, (-1, self.head_dim))
            .transpose(1, 2)  # [b, h, t or s, d]
            for name, each in zip(_PARTS, given, strict=True)
        )
        mask = _mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            made, shown = weights @ v, weights.mean(1) if average_attn_weights else weights
            shown = shown if batched else shown.squeeze(0)
        else:
            made, shown = F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        result = self.out_proj(made.transpose(1, 2).flatten(2))
        if not batched:
            return result.squeeze(0), shown
        return result if in_front else result.transpose(0, 1), shown


def open_attention_(model: nn.Module) -> None:
    """Replace each nn.MultiheadAttention by an equal `LinearAttention`, in place, wherever it is used.

    Subclasses, blocks with hooks, with weights that another module shares, or with learned or zero keys that
    are appended to the others, stay as they are. The model itself is not replaced.
    """
    made: dict[int, LinearAttention] = {}
    for path, module in packed_attention(model).items():
        made[id(module)] = made.get(id(module)) or LinearAttention(module)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, made[id(module)])
    if made:
        leave_fast_paths_(model)


def packed_attention(model: nn.Module) -> dict[str, nn.MultiheadAttention]:
    """The blocks that `open_attention_` replaces, by each path."""
    uses = Counter(id(each) for module in model.modules() for each in module.parameters(recurse=False))
    return {
        path: module
        for path, module in model.named_modules(remove_duplicate=False)
        if path and type(module) is nn.MultiheadAttention and _is_plain(module, uses)
    }


def leave_fast_paths_(model: nn.Module) -> None:
    """Make torch's encoder layers call their parts: in eval they pass float weights to a fused kernel."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            # The value that torch sets for any other activation, which disables the fused path.
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def opened_weights(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as saved when a block was still an nn.MultiheadAttention, under the names that it has now."""
    found = dict(state)
    for path, module in model.named_modules(remove_duplicate=False):
        at = f"{path}." if path else ""
        if not isinstance(module, LinearAttention):
            continue
        for kind in ("weight", "bias"):
            if f"{at}in_proj_{kind}" in found:
                parts = found.pop(f"{at}in_proj_{kind}").chunk(3)
                found |= {f"{at}{name}.{kind}": each for name, each in zip(_PARTS, parts, strict=True)}
        for name in _PARTS:
            if f"{at}{name}_weight" in found:
                found[f"{at}{name}.weight"] = found.pop(f"{at}{name}_weight")
    return found


def _is_plain(module: nn.MultiheadAttention, uses: Counter[int]) -> bool:
    own: list[Any] = [module, module.out_proj]
    hooks = any(each._forward_hooks or each._forward_pre_hooks or each._backward_hooks for each in own)
    appended = module.bias_k is not None or module.add_zero_attn
    return not hooks and not appended and all(uses[id(each)] == 1 for each in module.parameters())


def _weights(other: nn.MultiheadAttention) -> tuple[Tensor, ...]:
    if other.in_proj_weight is not None:
        return other.in_proj_weight.chunk(3)
    return other.q_proj_weight, other.k_proj_weight, other.v_proj_weight


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    features_out, features_in = weight.shape
    made = nn.Linear(features_in, features_out, bias=bias is not None, device="meta")
    made.weight = _own(weight)
    if bias is not None:
        made.bias = _own(bias)
    return made


def _own(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)


def _mask(of_scores: Tensor | None, of_keys: Tensor | None, q: Tensor) -> Tensor | None:
    """One mask to add to the scores [b, h, t, s], from masks that are added, or True where not attended."""
    batch, found = q.shape[0], None
    for given, is_of_keys in ((of_scores, False), (of_keys, True)):
        if given is None:
            continue
        mask = (
            torch.zeros_like(given, dtype=q.dtype).masked_fill(given, -math.inf) if _is_bool(given) else given
        )
        if is_of_keys:
            mask = mask.reshape(batch, 1, 1, -1)
        elif mask.dim() == 3:
            mask = mask.reshape(batch, -1, *mask.shape[1:])
        found = mask if found is None else found + mask
    return found


def _is_bool(mask: Tensor) -> bool:
    return mask.dtype == torch.bool
