"""A decoder with its keys and values as tensors: those of before go in, and with this call's come out.

A module takes part by the convention of transformers: its forward takes `past_key_values` (transformers calls
it `cache` from 5.24 on), an object whose `get_seq_length()` says how many tokens came before, and whose
`update(key, value, layer)` returns the keys and values of all tokens up to now. Here that object holds plain
tensors, so that one graph serves a prompt (the past is empty) and each further token.
Shapes: b = batch, s = new tokens, p = tokens before, t = p + s, k = heads of keys and values, d = head size,
v = tokens of the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model.forward import device_of, logits
from compress.model.limits import token_limit, unproven_from

__all__ = ["CacheLayer", "CachedDecoder", "KeyValues", "cache_layers", "context_length"]

_PARAMETERS = ("past_key_values", "cache")  # of forward
_LAYER_KINDS = ("full_attention", "sliding_attention")  # of transformers' layer_types
_LENGTH = 3  # of the rows that a module is tried on


class KeyValues:
    """Keys and values of the tokens before, [b, k, p, d] a layer, and then of all tokens, [b, k, t, d].

    Attributes:
        present: by layer, what `update` returned.
    """

    is_compileable = False  # asked by transformers

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
        """`past` is empty where nothing came before, or has a pair for each layer that asks."""
        self._past = list(past)
        self.present: dict[int, tuple[Tensor, Tensor]] = {}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens came before: p."""
        del layer_idx
        return self._past[0][0].shape[2] if self._past else 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Put this call's keys and values, [b, k, s, d], behind those before; layers ask in their order.

        Their numbers are not looked at: where layers were cut away they have gaps.

        Raises:
            ModelError: what came before is of another model: of fewer layers, or other heads.
        """
        del layer_idx
        index = len(self.present)
        if self._past:
            if index >= len(self._past):
                raise ModelError(
                    f"the keys and values before are of {len(self._past)} layers, and this model keeps those "
                    "of more: they are another model's"
                )
            key, value = self._past[index]
            before, now = (tuple(each.shape[1::2]) for each in (key, key_states))
            if before != now:
                raise ModelError(
                    f"the keys and values before are of {before[0]} heads of {before[1]}, and layer {index} "
                    f"keeps {now[0]} of {now[1]}: they are another model's"
                )
            key_states = torch.cat((key, key_states), dim=2)
            value_states = torch.cat((value, value_states), dim=2)
        self.present[index] = (key_states, value_states)
        return key_states, value_states


@dataclass(frozen=True)
class CacheLayer:
    """Heads and head size of the keys and values that one layer keeps."""

    heads: int
    head_size: int

    @property
    def numbers_per_token(self) -> int:
        """Numbers that a token adds to the cache, keys and values together."""
        return 2 * self.heads * self.head_size


class CachedDecoder(nn.Module):
    """Takes tokens, the mask and the past by position; returns logits and the keys and values of all tokens.

    Args:
        module: a decoder as this file's convention says.

    Raises:
        ModelError: it is none.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self._cache = module, _cache_parameter(module)
        self._takes_positions = "position_ids" in inspect.signature(module.forward).parameters
        self._windows = _windows_of(module)
        # Attention that transformers computes step by step adds the mask to its scores.
        added = getattr(getattr(module, "config", None), "_attn_implementation", None) == "eager"
        self._mask_dtype = (
            next((each.dtype for each in module.parameters()), torch.float32) if added else None
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Answer.

        Args:
            input_ids: int64 [b, s].
            attention_mask: int64 [b, t]; 1 = token, 0 = padding, the past counted.
            past: key and value of each layer in turn, [b, k, p, d].

        Returns:
            Logits [b, s, v], then key and value of each layer in turn, [b, k, t, d].
        """
        for each in past[1:]:  # said, so that a graph computes with one length and not with one a layer
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
                f"the keys and values before are of {len(pairs)} layers, and this model keeps those of "
                f"{len(cache.present)}: they are another model's"
            )
        return (answer, *(tensor for pair in cache.present.values() for tensor in pair))

    def _masks(self, before: int, new: int, attention_mask: Tensor) -> Tensor | dict[str, Tensor]:
        """What each new token sees, [b, 1, s, t]; by kind of layer, where there are several.

        transformers takes a mask of four dimensions unchanged; its own making of one can't be traced with an
        open past.
        """
        device = attention_mask.device
        column = torch.arange(attention_mask.shape[1], device=device)[None, :]
        position = before + torch.arange(new, device=device)[:, None]
        seen = attention_mask.bool()[:, None, None, :]
        itself = column == position  # so that padding, which sees nothing else, is no division by zero

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
    """A mask that is added to attention scores: 0 where a token is seen."""
    unseen = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return torch.where(visible, torch.zeros_like(unseen), unseen)


def _windows_of(module: nn.Module) -> int | None | dict[str, int | None]:
    """How many tokens back a token sees, itself counted; None: all. By kind of layer, where they differ.

    Raises:
        ModelError: a kind of layer that isn't known.
    """
    config = getattr(module, "config", None)
    window = getattr(config, "sliding_window", None)
    kinds = dict.fromkeys(getattr(config, "layer_types", None) or ())
    if not kinds:
        return window if isinstance(window, int) and window > 0 else None
    unknown = [kind for kind in kinds if kind not in _LAYER_KINDS]
    if unknown:
        raise ModelError(
            f"{type(module).__name__} has layers of the kind {unknown[0]} (layer_types in its config.json), "
            f"which can't be exported; known: {', '.join(_LAYER_KINDS)}"
        )
    if list(kinds) == ["full_attention"]:
        return None
    return {"full_attention": None, "sliding_attention": window}


def cache_layers(module: nn.Module) -> tuple[CacheLayer, ...]:
    """See which keys and values a decoder keeps, by asking it once.

    Raises:
        ModelError: it takes no `past_key_values`, or never asks it.
    """
    decoder = CachedDecoder(module)
    ids = torch.zeros((1, _LENGTH), dtype=torch.long, device=device_of(module))
    was_training = module.training
    try:
        with torch.no_grad():
            _, *present = decoder.eval()(ids, torch.ones_like(ids))
    except AttributeError as error:
        if KeyValues.__name__ not in str(error):
            raise
        raise ModelError(
            f"{type(module).__name__} asks more of its cache of keys and values than a graph can hold "
            f"({error}): it can't be exported as a language model"
        ) from error
    finally:
        module.train(was_training)
    if not present:
        raise ModelError(
            f"{type(module).__name__} takes {_cache_parameter(module)} and never calls its update()"
        )
    return tuple(CacheLayer(key.shape[1], key.shape[3]) for key in present[0::2])


def context_length(module: nn.Module) -> int | None:
    """How many tokens a language model can see, prompt and answer together; None: it doesn't say.

    No more than can be proven of its file: a window of 4,096 tokens and more, or another change of that
    length, is where it ends.
    """
    limit = token_limit(module)
    return None if limit is None else unproven_from(module, limit)


def _cache_parameter(module: nn.Module) -> str:
    taken = inspect.signature(module.forward).parameters
    found = next((name for name in _PARAMETERS if name in taken), None)
    if found is None:
        raise ModelError(
            f"{type(module).__name__}.forward() takes no past_key_values: a decoder without a cache computes "
            "the whole text again for each token; models/transformer.py shows how one takes it"
        )
    return found
