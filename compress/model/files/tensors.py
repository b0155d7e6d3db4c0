"""Check that a checkpoint has all tensors of the model; transformers fills gaps with random values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from compress.errors import ModelError

__all__ = ["check_tensors"]

_ADAPTER = ("lora_", ".base_layer.", "ia3_", "base_model.model.", ".adapters.")  # parts of names
_COUNTERS = ("position_ids", "num_batches_tracked")  # buffers that don't affect outputs
# Left in checkpoints by older releases; each is computed, or belongs to a head that was removed.
_LEFT_OVER = ("position_ids", "num_batches_tracked", "inv_freq", ".attn.bias", ".attn.masked_bias")
_NAMED = 3  # names listed in a message


def check_tensors(name: str, module: nn.Module, info: Mapping[str, Any], *, has_trained_head: bool) -> None:
    """Check the loading info of `from_pretrained(..., output_loading_info=True)`.

    A head that has yet to be trained may be missing, and another head may be in its place.

    Args:
        name: directory or Hub name.
        info: missing_keys, unexpected_keys, and mismatched_keys as (name, shape in the file, shape wanted).
        has_trained_head: the model's own head is trained: nothing may be missing.

    Raises:
        ModelError: tensors are missing, have other shapes, belong to an unmerged adapter, or are of layers
            that the configuration doesn't have.
    """
    what = type(module).__name__
    unexpected = sorted(str(key) for key in info.get("unexpected_keys", ()))
    adapter = [key for key in unexpected if any(part in key for part in _ADAPTER)]
    if adapter:
        raise ModelError(
            f"the weights of '{name}' contain an adapter that is not merged ({_listed(adapter)}), which "
            f"{what} would ignore; merge it (merge_and_unload() of peft) and save the model again"
        )
    base = f"{getattr(module, 'base_model_prefix', '')}."

    def is_needed(key: str) -> bool:
        return has_trained_head or (key.startswith(base) and "pooler" not in key)

    _check_shapes(name, what, info, is_needed)
    missing = sorted(
        str(key)
        for key in info.get("missing_keys", ())
        if is_needed(str(key)) and not str(key).endswith(_COUNTERS)
    )
    if missing:
        raise ModelError(
            f"the weights of '{name}' lack tensors that {what} needs ({_listed(missing)}), which would get "
            "random values; save the whole model again, or correct the architecture in config.json"
        )
    foreign = [
        key
        for key in unexpected
        if key.startswith(base) and "pooler" not in key and not key.endswith(_LEFT_OVER)
    ]
    if foreign:
        raise ModelError(
            f"the weights of '{name}' contain tensors that {what} does not have ({_listed(foreign)}) and "
            "would ignore; use the config.json that the model was saved with"
        )


def _check_shapes(name: str, what: str, info: Mapping[str, Any], is_needed: Callable[[str], bool]) -> None:
    mismatched = {
        str(key): (tuple(found), tuple(wanted))
        for key, found, wanted in info.get("mismatched_keys", ())
        if is_needed(str(key))
    }
    if mismatched:
        first = min(mismatched)
        found, wanted = mismatched[first]
        raise ModelError(
            f"the weights of '{name}' don't match its config.json: {first} is {list(found)}, but {what} "
            f"needs {list(wanted)}{_more(len(mismatched))}; save the model again, with its own config.json"
        )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + _more(len(names) - _NAMED + 1)


def _more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""
