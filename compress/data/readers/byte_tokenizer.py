"""A tokenizer whose tokens are the 256 bytes, and one that ends a text: for models that read any text.

Written in the format of the `tokenizers` library, so that a bundle with it is read as any other is.
"""

from __future__ import annotations

import json
from pathlib import Path

from compress.errors import DataError

__all__ = ["BYTE_TOKENIZER", "BYTE_VOCABULARY", "write_byte_tokenizer"]

BYTE_TOKENIZER = "bytes"
"""What a recipe's `model.tokenizer` calls it."""

BYTE_VOCABULARY = 257
_END = "<|endoftext|>"
_PRINTED_AS_THEY_ARE = (range(0x21, 0x7F), range(0xA1, 0xAD), range(0xAE, 0x100))


def write_byte_tokenizer(directory: Path) -> Path:
    """Write tokenizer.json and tokenizer_config.json; the id of a byte is its value, 256 ends a text.

    Raises:
        DataError: the `tokenizers` library is not installed.
    """
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise DataError("reading texts needs the tokenizers library: pip install 'modelpress[hf]'") from error
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    # Split at every character: there is nothing to merge, and a long document is no longer one word.
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
    """The character that byte-level tokenizers write for each byte (GPT-2, Radford et al. 2019).

    Bytes that Latin-1 prints stand for themselves; the others for characters from U+0100 on, in order.
    """
    printed = {byte for some in _PRINTED_AS_THEY_ARE for byte in some}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]
