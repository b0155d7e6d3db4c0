"""Sequence lengths: how many tokens a model takes, and beyond which lengths its computation changes.

Sliding windows, bucketed distances and rotary frequencies rescaled for long texts have no effect on shorter
rows, so a file compared on short rows alone isn't verified.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = [
    "LONGEST_PROOF",
    "LONG_FREQUENCIES",
    "lengths_of_change",
    "positions_start_at",
    "switch_length",
    "token_limit",
    "unproven_from",
]

LONGEST_PROOF = 4096
"""Tokens of the longest synthetic row used to verify a language model, which may accept far more."""

LONG_FREQUENCIES = "long_frequencies"
"""Buffer of a rotary module that chooses frequencies by the length of each row: those of long rows."""

_CHANGES = re.compile(
    r"window|local_attention|attention_chunk|bucket|block_size|relative_position|max_distance"
)
_COUNTS = re.compile(r"layers|^use_")  # counts of something other than tokens
_RESCALED = ("longrope", "su")  # rotary positions whose frequencies depend on the length
_SHORT = "original_max_position_embeddings"  # up to this length the frequencies of short rows apply


def positions_start_at(model: nn.Module) -> int | None:
    """The padding id that a model counts its positions from, as RoBERTa does, or None.

    It and all lower ids must keep their value, because new ids are assigned in the old order.
    """
    for module in model.modules():
        index = getattr(module, "padding_idx", None)
        if isinstance(index, int) and hasattr(module, "position_embeddings"):
            return index
    return None


def token_limit(module: nn.Module) -> int | None:
    """Most tokens in a row, special ones included; None: the model doesn't say.

    If rotary frequencies differ between long and short rows (longrope), the limit is that of short rows,
    unless the model's rotary module chooses by each row's length: a graph would have only one of the two.
    """
    config: Any = getattr(module, "config", None)
    switch = switch_length(module)
    chooses = any(hasattr(each, LONG_FREQUENCIES) for each in module.modules())
    short = [] if switch is None or chooses else [switch]
    for owner, name in (
        (config, "max_position_embeddings"),
        (config, "n_positions"),
        (config, "max_seq_len"),
        (module, "max_length"),
    ):
        found = getattr(owner, name, None)
        if type(found) is int and found > 0:
            padding = positions_start_at(module)  # RoBERTa's first token has the position after it
            limit = found if padding is None else found - padding - 1
            return min([limit, *short])
    return None


def switch_length(module: nn.Module) -> int | None:
    """Longest row with the rotary frequencies of short rows; None: they are the same at all lengths.

    Keys that were rotated for a shorter text do not fit a longer one: it must be read again as a whole.
    """
    said = list(_entries(_said(module)))
    if not any(key in ("rope_type", "type") and value in _RESCALED for key, value in said):
        return None
    return min((value for key, value in said if key == _SHORT and type(value) is int), default=None)


def lengths_of_change(module: nn.Module, longest: int) -> tuple[int, ...]:
    """Lengths that test what a module computes only beyond some length: just beyond each, and twice that.

    Read from its configuration; a module without one has none.

    Args:
        longest: tokens of the longest possible row.

    Returns:
        Ascending and distinct, at most `longest`.
    """
    switch = switch_length(module)
    all_changes = _boundaries(module) | (set() if switch is None else {switch})
    found = [length for length in all_changes if length < longest]
    return tuple(sorted({min(each, longest) for length in found for each in (length + 1, 2 * length + 1)}))


def unproven_from(module: nn.Module, limit: int) -> int:
    """Longest row whose outputs are verified; `limit` if all are."""
    switch = switch_length(module) or 0
    unproven = {length for length in _boundaries(module) if length >= LONGEST_PROOF}
    return min([limit, *unproven, *([switch] if switch > LONGEST_PROOF else [])])


def _boundaries(module: nn.Module) -> set[int]:
    return {
        value
        for key, value in _entries(_said(module))
        if type(value) is int and value > 1 and _CHANGES.search(key) and not _COUNTS.search(key)
    }


def _said(module: nn.Module) -> dict[str, Any]:
    config: Any = getattr(module, "config", None)
    return dict(config.to_dict()) if hasattr(config, "to_dict") else {}


def _entries(said: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values of nested dictionaries and lists, with the key that they have or are listed under."""
    if isinstance(said, dict):
        for name, value in said.items():
            yield from _entries(value, str(name))
    elif isinstance(said, list):
        for value in said:
            yield from _entries(value, key)
    else:
        yield key, said
