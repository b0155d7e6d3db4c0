"""A model's own tokenizer: where its files are, same ids as in transformers, and the model's pad token."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.readers.byte_tokenizer import BYTE_TOKENIZER, write_byte_tokenizer
from compress.data.readers.same_ids import PROBES
from compress.errors import ModelError
from compress.model.files.definition import _transformers
from compress.model.files.hf.directory import check_vocabulary, explained
from compress.model.forward import logits

__all__ = ["check_padding", "named_inputs", "tokenizer_directory", "tokenizer_of"]

_SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")


def tokenizer_directory(name: str, scratch: Path) -> Path:
    """Directory of a tokenizer's own files, which are used for encoding and shipped."""
    path = Path(name)
    if name == BYTE_TOKENIZER:
        return write_byte_tokenizer(scratch / "byte-tokenizer")
    return path if (path / "tokenizer.json").is_file() else tokenizer_of(name, scratch)[0]


def tokenizer_of(name: str, scratch: Path) -> tuple[Path, tuple[str, ...]]:
    """Directory of the tokenizer that transformers uses for a model, and the inputs that it provides.

    transformers may build a tokenizer of another class than tokenizer.json says; if that one splits texts
    differently, it is written and shipped instead.
    """
    load = _transformers().AutoTokenizer.from_pretrained
    try:
        tokenizer = explained(name, load, name, trust_remote_code=False)
    except ModelError as error:
        raise _without_sentencepiece(name) or error from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of '{name}' has no fast version (tokenizer.json), which a bundle needs"
        )
    check_vocabulary(name, tokenizer)
    given = tuple(str(each) for each in tokenizer.model_input_names)
    path = Path(name)
    if (path / "tokenizer.json").is_file() and _splits_alike(path, tokenizer):
        return path, given
    directory = Path(tempfile.mkdtemp(prefix="tokenizer-", dir=scratch))
    tokenizer.save_pretrained(str(directory))
    for beside in ("config.json", "generation_config.json"):  # they name tokens, too
        if (path / beside).is_file():
            shutil.copyfile(path / beside, directory / beside)
    return directory, given


def _without_sentencepiece(name: str) -> ModelError | None:
    """What is missing where a tokenizer is a sentencepiece file only; transformers asks for tiktoken then."""
    path = Path(name)
    files = [each for each in _SENTENCEPIECE if (path / each).is_file()]
    if not files or (path / "tokenizer.json").is_file() or find_spec("sentencepiece") is not None:
        return None
    return ModelError(
        f"'{name}' has its tokenizer as {files[0]} only, without tokenizer.json: pip install sentencepiece, "
        "with which transformers converts it, or put a tokenizer.json beside it"
    )


def _splits_alike(directory: Path, tokenizer: Any) -> bool:
    """Whether a directory's tokenizer.json gives the same ids as a transformers tokenizer."""
    from compress.data.readers.tokenize import TextEncoder

    ours = TextEncoder.from_directory(directory).tokenizer
    ours.no_padding()
    ours.no_truncation()
    return all(
        ours.encode(text, add_special_tokens=special).ids
        == tokenizer(text, add_special_tokens=special)["input_ids"]
        for text in PROBES
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
