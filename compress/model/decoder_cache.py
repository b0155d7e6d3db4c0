"""A decoder with its keys and values as tensors: the past ones are inputs, all of them are outputs.

A module must follow the convention of transformers: its forward takes `past_key_values` (called `cache` in
transformers from 5.24 on), an object whose `get_seq_length()` returns the number of past tokens, and whose
`update(key, value, layer)` returns the keys and values of all tokens so far. Here that object holds plain
tensors, so that one graph serves a prompt (empty past) and each further token.
Shapes: b = batch, s = new tokens, p = past tokens, t = p + s, k = key/value heads, d = head size,
v = vocabulary size.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model.evaluating import evaluating
from compress.model.forward import device_of, logits
from compress.model.limits import token_limit, unproven_from

__all__ = ["CacheLayer", "CachedDecoder", "KeyValues", "cache_layers", "context_length"]

_PARAMETERS = ("past_key_values", "cache")  # of forward
_LAYER_KINDS = ("full_attention", "sliding_attention")  # of transformers' layer_types
_LENGTH = 3  # of the rows that a module is tried on


class KeyValues:
    """Keys and values of past tokens, [b, k, p, d] per layer, and after the call of all tokens, [b, k, t, d].

    Attributes:
        present: by layer, what `update` returned.
    """

    is_compileable = False  # read by transformers

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
        """`past` is empty, or has a pair for each layer that calls `update`."""
        self._past = list(past)
        self.present: dict[int, tuple[Tensor, Tensor]] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of past tokens: p."""
        del layer_idx
        return self._past[0][0].shape[2] if self._past else 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the first new token: p."""
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Keys that this many new tokens see, and the position of the first: (p + s, 0)."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append this call's keys and values, [b, k, s, d], to the past ones; layers call in order.

        Layer indices are ignored: they have gaps where layers were cut.

        Raises:
            ModelError: the past is from another model, with fewer layers or other heads.
        """
        del layer_idx
        index = len(self.present)
        if self._past:
            if index >= len(self._past):
                raise ModelError(
                    f"the past keys and values have {len(self._past)} layers, but this model has more; they "
                    "are from another model"
                )
            key, value = self._past[index]
            before, now = (tuple(each.shape[1::2]) for each in (key, key_states))
            if before != now:
                raise ModelError(
                    f"the past keys and values have {before[0]} heads of {before[1]}, but layer {index} has "
                    f"{now[0]} of {now[1]}; they are from another model"
                )
            key_states = torch.cat((key, key_states), dim=2)
            value_states = torch.cat((value, value_states), dim=2)
        self.present[index] = (key_states, value_states)
        return key_states, value_states


@dataclass(frozen=True)
class CacheLayer:
    """Key/value heads and head size of one layer's cache."""

    heads: int
    head_size: int

    @property
    def numbers_per_token(self) -> int:
        """Cache elements per token, keys and values together."""
        return 2 * self.heads * self.head_size


class CachedDecoder(nn.Module):
    """Decoder that takes tokens, mask and past by position; returns logits and all keys and values.

    Args:
        module: a decoder that follows this file's convention.

    Raises:
        ModelError: it doesn't.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self._cache = module, _cache_parameter(module)
        self._takes_positions = "position_ids" in inspect.signature(module.forward).parameters
        self._windows = _windows_of(module)
        # Eager attention in transformers adds the mask to the scores.
        added = getattr(getattr(module, "config", None), "_attn_implementation", None) == "eager"
        self._mask_dtype = (
            next((each.dtype for each in module.parameters()), torch.float32) if added else None
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Run the decoder.

        Args:
            input_ids: int64 [b, s].
            attention_mask: int64 [b, t]; 1 = token, 0 = padding; includes the past.
            past: key and value of each layer in turn, [b, k, p, d].

        Returns:
            Logits [b, s, v], then key and value of each layer in turn, [b, k, t, d].
        """
        for each in past[1:]:  # checked, so that the graph has one past length instead of one per layer
            torch._check(each.shape[2] == past[0].shape[2])
        pairs = list(zip(past[0::2], past[1::2], strict=True))
        cache = KeyValues(pairs)
        before = cache.get_seq_length()
        inputs: dict[str, Any] = {"input_ids": input_ids, self._cache: cache}
        if self._takes_positions:
            inputs["attention_mask"] = self._masks(before, input_ids.shape[1], attention_mask)
            counted = (attention_mask.cumsum(-1) - 1).clamp(min=0)
            inputs["position_ids"] = counted[:, before:]
            inputs["use_cache"] = True
        else:
            inputs["attention_mask"] = attention_mask
        answer = logits(self.module, inputs)
        if pairs and len(cache.present) != len(pairs):
            raise ModelError(
                f"the past keys and values have {len(pairs)} layers, but this model has "
                f"{len(cache.present)}; they are from another model"
            )
        return (answer, *(tensor for pair in cache.present.values() for tensor in pair))

    def _masks(self, before: int, new: int, attention_mask: Tensor) -> Tensor | dict[str, Tensor]:
        """Positions visible to each new token, [b, 1, s, t]; by layer type if there are several.

        transformers uses a four-dimensional mask unchanged; its own mask creation can't be traced with a
        dynamic past.
        """
        device = attention_mask.device
        column = torch.arange(attention_mask.shape[1], device=device)[None, :]
        position = before + torch.arange(new, device=device)[:, None]
        seen = attention_mask.bool()[:, None, None, :]
        itself = column == position  # so that a padded row, with nothing else visible, doesn't divide by zero

        def mask(window: int | None) -> Tensor:
            visible = (
                column <= position if window is None else (column <= position) & (column > position - window)
            )
            found = (visible[None, None] & seen) | itself[None, None]
            return found if self._mask_dtype is None else _added(found, self._mask_dtype)

        if isinstance(self._windows, Mapping):
            return {kind: mask(window) for kind, window in self._windows.items()}
        return mask(self._windows)


def _added(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask: 0 where a token is visible."""
    unseen = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return torch.where(visible, torch.zeros_like(unseen), unseen)


def _windows_of(module: nn.Module) -> int | None | dict[str, int | None]:
    """Tokens back that a token sees, itself included; None: all. By layer type if they differ.

    Raises:
        ModelError: a layer type is unknown, or tokens see later ones.
    """
    config = getattr(module, "config", None)
    if getattr(config, "use_bidirectional_attention", None):
        raise ModelError(
            f"tokens of {type(module).__name__} see later ones (use_bidirectional_attention in its "
            "config.json), so it can't be a language model; use it as an embedder or a classifier"
        )
    window = getattr(config, "sliding_window", None)
    kinds = dict.fromkeys(getattr(config, "layer_types", None) or ())
    if not kinds:
        return window if isinstance(window, int) and window > 0 else None
    unknown = [kind for kind in kinds if kind not in _LAYER_KINDS]
    if unknown:
        raise ModelError(
            f"{type(module).__name__} has {unknown[0]} layers (layer_types in its config.json), which can't "
            f"be exported; allowed: {', '.join(_LAYER_KINDS)}"
        )
    if list(kinds) == ["full_attention"]:
        return None
    return {"full_attention": None, "sliding_attention": window}


def cache_layers(module: nn.Module) -> tuple[CacheLayer, ...]:
    """Heads and head sizes of a decoder's cache, found by running it once.

    Raises:
        ModelError: it takes no `past_key_values`, or never calls it.
    """
    decoder = CachedDecoder(module)
    ids = torch.zeros((1, _LENGTH), dtype=torch.long, device=device_of(module))
    try:
        with torch.no_grad(), evaluating(decoder):
            _, *present = decoder(ids, torch.ones_like(ids))
    except AttributeError as error:
        if KeyValues.__name__ not in str(error):
            raise
        raise ModelError(
            f"{type(module).__name__} asks its key/value cache for more than the keys and values of past "
            f"tokens ({error.name}), which a file can't take and return, so it can't be exported as a "
            "language model; it can be a classifier or an embedder"
        ) from error
    if not present:
        raise ModelError(
            f"{type(module).__name__} takes {_cache_parameter(module)} but never calls its update()"
        )
    return tuple(CacheLayer(key.shape[1], key.shape[3]) for key in present[0::2])


def context_length(module: nn.Module) -> int | None:
    """Most tokens that a language model can see, prompt and output together; None: it doesn't say.

    Limited to what can be verified for its file: a window of 4,096 tokens or more, or another change at such
    a length, is the limit.
    """
    limit = token_limit(module)
    return None if limit is None else unproven_from(module, limit)


def _cache_parameter(module: nn.Module) -> str:
    taken = inspect.signature(module.forward).parameters
    found = next((name for name in _PARAMETERS if name in taken), None)
    if found is None:
        raise ModelError(
            f"{type(module).__name__}.forward() takes no past_key_values, so each new token would recompute "
            "the whole text; models/transformer.py shows how to accept it"
        )
    return found
