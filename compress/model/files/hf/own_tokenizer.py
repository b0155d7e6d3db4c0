"""Checks that a tokenizer fits its model: same ids as in transformers, and the model's pad token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import ModelError
from compress.model.forward import logits

__all__ = ["check_padding", "named_inputs", "splits_alike"]

_TEXTS = (
    "A good film, not a bad plot: 3.5 of 10!",
    " a space before  and two between",
    "tab\tline\nand UPPER case",
    "Füße, naïve café, Привет, 你好, مرحبا, 🙂",
    "don't e-mail me_at http://x.org/?q=1",
)


def splits_alike(directory: Path, tokenizer: Any) -> bool:
    """Whether a directory's tokenizer.json gives the same ids as a transformers tokenizer."""
    from compress.data.readers.tokenize import TextEncoder

    ours = TextEncoder.from_directory(directory).tokenizer
    ours.no_padding()
    ours.no_truncation()
    return all(
        ours.encode(text, add_special_tokens=special).ids
        == tokenizer(text, add_special_tokens=special)["input_ids"]
        for text in _TEXTS
        for special in (True, False)
    )


def named_inputs(directory: Path) -> tuple[str, ...] | None:
    """`model_input_names` in a directory's tokenizer_config.json; None if there are none."""
    try:
        found = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        return tuple(str(name) for name in found["model_input_names"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_padding(name: str, module: nn.Module, pad_id: int) -> None:
    """Check that a classifier's output for a padded row equals that of the row alone.

    Classifiers made from decoders read the last token that isn't config.json's pad token.

    Args:
        name: directory or Hub name.
        module: in eval mode.
        pad_id: token that pads shorter rows.

    Raises:
        ModelError: the outputs differ; or config.json names no pad token and the model needs one.
    """
    said = getattr(getattr(module, "config", None), "pad_token_id", None)
    if said == pad_id:
        return
    alone = torch.tensor([[each for each in range(5) if each not in (said, pad_id)][:3]])
    padded = torch.cat([alone, torch.full((1, 2), pad_id)], dim=1)
    mask = (torch.arange(5) < 3).long()[None]

    def answer(ids: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return logits(module, {"input_ids": ids, "attention_mask": mask})

    advice = f"set pad_token_id in config.json of '{name}' to {pad_id}, the pad token of its tokenizer"
    wanted = answer(alone, mask[:, :3])
    try:
        found = answer(padded.repeat(2, 1), mask.repeat(2, 1))[:1]
    except ValueError as error:
        raise ModelError(
            f"{type(module).__name__} can't process several rows at once without a pad token; {advice}"
        ) from error
    if (found - wanted).abs().max() > 1e-3 * wanted.abs().max().clamp(min=1e-6):
        raise ModelError(
            f"{type(module).__name__} would compute padded rows wrongly, because it treats token {said} as "
            f"padding; {advice}"
        )
