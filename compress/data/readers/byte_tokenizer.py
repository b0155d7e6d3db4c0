"""A tokenizer with one token per byte and an end-of-text token, for models that read any text.

Written in the format of the `tokenizers` library, so that bundles with it need no special treatment.
"""

from __future__ import annotations

import json
from pathlib import Path

from compress.errors import DataError

__all__ = ["BYTE_TOKENIZER", "BYTE_VOCABULARY", "write_byte_tokenizer"]

BYTE_TOKENIZER = "bytes"
"""Value of a recipe's `model.tokenizer`."""

BYTE_VOCABULARY = 257
_END = "<|endoftext|>"
_PRINTED_AS_THEY_ARE = (range(0x21, 0x7F), range(0xA1, 0xAD), range(0xAE, 0x100))


def write_byte_tokenizer(directory: Path) -> Path:
    """Write tokenizer.json and tokenizer_config.json; a byte's id is its value, 256 is end-of-text.

    Raises:
        DataError: if the `tokenizers` library is not installed.
    """
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise DataError("reading texts needs the tokenizers library: pip install 'modelpress[hf]'") from error
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    # Pre-tokenize, so that a long document is not a single word; there are no merges.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(_END, special=True, normalized=False)])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _END}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return directory


def _byte_characters() -> list[str]:
    """Character that byte-level tokenizers use for each byte (GPT-2, Radford et al. 2019).

    Bytes printable in Latin-1 map to themselves, the others to characters from U+0100 on, in order.
    """
    printed = {byte for some in _PRINTED_AS_THEY_ARE for byte in some}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]
