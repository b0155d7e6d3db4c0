"""Doubts about a tokenizer: the share of a text's tokens that it doesn't know, and texts that it joins."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from compress.data.split import Split

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["UNDIVIDED", "unknown_share", "unknown_token_notes"]

UNDIVIDED = (
    "puts no token between the two texts of a row, so the model reads them as one text; check that it was "
    "trained so"
)

_LARGEST_SHARE = 0.1
_IDS = "input_ids"


def unknown_share(split: Split, tokenizer: Tokenizer) -> float:
    """Share of a split's tokens that are unknown, ignoring other special tokens; 0 for non-text rows."""
    unknown = _unknown_id(tokenizer)
    ids = [row[_IDS] for row in split.rows if _IDS in row]
    if unknown is None or not ids:
        return 0.0
    special = [index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    tokens = np.concatenate(ids)
    words = tokens[(tokens == unknown) | ~np.isin(tokens, special)]
    return float((words == unknown).mean()) if len(words) else 0.0


def unknown_token_notes(split: Split, tokenizer: Tokenizer, whose: str = "the tokenizer") -> tuple[str, ...]:
    """Caveat for the report if more than a tenth of a split's tokens are unknown.

    Args:
        whose: name of the tokenizer in the sentence.
    """
    share = unknown_share(split, tokenizer)
    if share <= _LARGEST_SHARE:
        return ()
    return (
        f"{share:.0%} of the {split.name} rows' tokens are unknown to {whose}, so the model sees the same "
        "token for each of them; check that it is the model's own and that the texts are in its language",
    )


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """Id of the unknown token; None if the tokenizer covers every text, like a byte-level one."""
    model = json.loads(tokenizer.to_str())["model"]
    if isinstance(model.get("unk_id"), int):  # Unigram
        return int(model["unk_id"])
    token = model.get("unk_token")
    return tokenizer.token_to_id(token) if isinstance(token, str) else None
