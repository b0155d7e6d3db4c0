"""Vocabulary pruning: remove tokens and renumber the others in their old order.

A text whose tokens are all kept is split as before. WordPiece takes the longest match and WordLevel the whole
word, so removing entries changes nothing. BPE needs every merge on the way to a kept token. Unigram takes the
best path, which remains the best with fewer pieces as long as the unknown piece has the same cost, which is
derived from the lowest score. (A word that WordPiece could not split may become splittable.)
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.readers.tokenize import TextEncoder
from compress.data.readers.word_encoding import words_again
from compress.data.split import Split
from compress.data.splits import Splits
from compress.data.table import Words
from compress.errors import DataError
from compress.system.files import read_json

__all__ = [
    "encode_again",
    "encode_splits_again",
    "required_tokens",
    "smaller_encoder",
    "smaller_tokenizer",
    "token_counts",
]

_KINDS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")


def token_counts(split: Split, size: int) -> NDArray[np.int64]:
    """Count the occurrences of each of `size` token ids in a split, [size].

    Raises:
        DataError: if the rows hold no token ids, or one outside the range.
    """
    if any("input_ids" not in row for row in split.rows):
        raise DataError(f"the {split.name} rows have no input_ids to count")
    ids = [np.zeros(0, np.int64), *(row["input_ids"] for row in split.rows)]
    counts = np.bincount(np.concatenate(ids), minlength=size).astype(np.int64)
    if len(counts) > size:
        raise DataError(
            f"the {split.name} rows contain token {len(counts) - 1}, but the highest id is {size - 1}; "
            "encode them with the model's own tokenizer"
        )
    return counts


def required_tokens(tokenizer: Mapping[str, Any], wanted: Iterable[int]) -> tuple[int, ...]:
    """Find the tokens to keep so that the wanted ones are still produced, and any text can be split.

    Adds added (special) tokens, tokens inserted by the post-processor, the unknown token, single characters
    and bytes, and BPE intermediates.

    Args:
        tokenizer: tokenizer.json as written by `Tokenizer.to_str` of tokenizers >= 0.20.
        wanted: token ids.

    Returns:
        Ids to keep, ascending: the wanted ones and those they need.

    Raises:
        DataError: if the kind of tokenizer is not supported.
    """
    model = tokenizer["model"]
    if model.get("type") not in _KINDS:
        raise DataError(
            f"the vocabulary of a {model.get('type')} tokenizer can't be cut; allowed: {', '.join(_KINDS)}"
        )
    vocabulary = _vocabulary(model)
    kept = set(wanted) | {int(token["id"]) for token in tokenizer["added_tokens"]}
    kept |= set(_inserted(tokenizer.get("post_processor")))
    kept |= {vocabulary[token] for token in _alphabet(model, vocabulary)}
    if model.get("unk_token") in vocabulary:
        kept.add(vocabulary[model["unk_token"]])
    if model["type"] == "Unigram":
        if model.get("unk_id") is not None:
            kept.add(int(model["unk_id"]))
        kept.add(min(range(len(model["vocab"])), key=lambda index: float(model["vocab"][index][1])))
    if model["type"] == "BPE":
        kept |= _intermediates(model, vocabulary, kept)
    known = set(vocabulary.values()) | {int(token["id"]) for token in tokenizer["added_tokens"]}
    return tuple(sorted(kept & known))


def smaller_tokenizer(tokenizer: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Rewrite tokenizer.json for the kept tokens.

    Args:
        tokenizer: as in `required_tokens`.
        kept: from `required_tokens`; a token's new id is its index in this list.
    """
    new = {old: index for index, old in enumerate(kept)}
    model = dict(tokenizer["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        model["vocab"] = {token: new[old] for token, old in model["vocab"].items() if old in new}
    if model["type"] == "BPE":
        model["merges"] = [
            [left, right]
            for left, right in model["merges"]
            if {left, right, _merged(model, left, right)} <= model["vocab"].keys()
        ]
    made = {**tokenizer, "model": model}
    made["added_tokens"] = [{**token, "id": new[token["id"]]} for token in tokenizer["added_tokens"]]
    made["post_processor"] = _renumbered(tokenizer.get("post_processor"), new)
    if tokenizer.get("padding") is not None:
        padding = tokenizer["padding"]
        made["padding"] = {**padding, "pad_id": new.get(padding["pad_id"], 0)}
    return made


def smaller_encoder(encoder: TextEncoder, kept: Sequence[int], directory: Path | None = None) -> TextEncoder:
    """Create an encoder with only the kept tokens.

    Args:
        encoder: unchanged.
        kept: from `required_tokens`, including the encoder's `pad_id`.
        directory: folder for its tokenizer.json and settings; None writes nothing. Files with old ids
            (vocab.txt, merges.txt) are omitted; tokenizer.json has the same information.

    Raises:
        DataError: if the tokenizers library rejects the result.
    """
    from tokenizers import Tokenizer

    text = json.dumps(smaller_tokenizer(json.loads(encoder.tokenizer.to_str()), kept), ensure_ascii=False)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{encoder.directory}: the tokenizer can't be cut: {error}") from error
    new = {old: index for index, old in enumerate(kept)}
    made = replace(
        encoder,
        tokenizer=tokenizer,
        pad_id=new[encoder.pad_id],
        end_id=None if encoder.end_id is None else new.get(encoder.end_id),
        directory=directory or encoder.directory,
    )
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(text, encoding="utf-8")
        for name in _SETTINGS:
            _write_settings(encoder.directory / name, directory / name, kept)
    return made


def encode_again(split: Split, encoder: TextEncoder) -> Split:
    """Encode a split's texts with another encoder, truncated at that encoder's current length.

    Raises:
        DataError: if the split has no texts.
    """
    if len(split.texts) != len(split) or encoder.truncated_at is None:
        raise DataError(f"the {split.name} split has no texts to encode again")
    if split.texts and isinstance(split.texts[0], Words):
        return words_again(split, encoder, max_length=encoder.truncated_at)
    rows, _ = encoder.encode(split.texts, max_length=encoder.truncated_at)
    return replace(split, rows=rows, inputs=encoder.inputs)


def encode_splits_again(splits: Splits, encoder: TextEncoder) -> Splits:
    """Apply `encode_again` to all splits, and adapt the task.

    Raises:
        DataError: if a split has no texts.
    """
    return replace(
        splits,
        task=replace(splits.task, inputs=encoder.inputs),
        reader=encoder,
        train=encode_again(splits.train, encoder),
        validation=encode_again(splits.validation, encoder),
        test=encode_again(splits.test, encoder),
        unlabelled=None if splits.unlabelled is None else encode_again(splits.unlabelled, encoder),
    )


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {entry[0]: index for index, entry in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _alphabet(model: Mapping[str, Any], vocabulary: Iterable[str]) -> set[str]:
    """Tokens of one character, at the start of a word or within, and of one byte."""
    if model["type"] == "WordLevel":  # it splits no words
        return set()
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    found = {token for token in vocabulary if len(token.removeprefix(prefix).removesuffix(suffix)) == 1}
    if model.get("byte_fallback"):
        found |= {f"<0x{byte:02X}>" for byte in range(256)} & set(vocabulary)
    return found


def _merged(model: Mapping[str, Any], left: str, right: str) -> str:
    return left + right.removeprefix(model.get("continuing_subword_prefix") or "")


def _intermediates(model: Mapping[str, Any], vocabulary: Mapping[str, int], kept: set[int]) -> set[int]:
    # If several merges produce a token, keep them all: which one applies depends on its neighbours.
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for left, right in model["merges"]:
        parts[_merged(model, left, right)] |= {left, right}
    found: set[str] = set()
    left_to_do = [token for token, index in vocabulary.items() if index in kept]
    while left_to_do:
        token = left_to_do.pop()
        if token not in found:
            found.add(token)
            left_to_do += parts.get(token, ())
    return {vocabulary[token] for token in found if token in vocabulary}


def _inserted(processor: Mapping[str, Any] | None) -> list[int]:
    """Ids that a post-processor inserts into each row."""
    if processor is None:
        return []
    if processor["type"] == "Sequence":
        return [index for part in processor["processors"] for index in _inserted(part)]
    if processor["type"] == "TemplateProcessing":
        return [int(i) for token in processor["special_tokens"].values() for i in token["ids"]]
    return [int(processor[name][1]) for name in ("sep", "cls") if name in processor]


def _renumbered(processor: Mapping[str, Any] | None, new: Mapping[int, int]) -> dict[str, Any] | None:
    if processor is None:
        return None
    made = dict(processor)
    if made["type"] == "Sequence":
        made["processors"] = [_renumbered(part, new) for part in made["processors"]]
    elif made["type"] == "TemplateProcessing":
        made["special_tokens"] = {
            name: {**token, "ids": [new[index] for index in token["ids"]]}
            for name, token in made["special_tokens"].items()
        }
    else:
        made |= {name: [made[name][0], new[made[name][1]]] for name in ("sep", "cls") if name in made}
    return made


def _write_settings(source: Path, target: Path, kept: Sequence[int]) -> None:
    if not source.is_file():
        return
    settings = read_json(source)
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, dict):  # id -> token, as written by transformers 4
        new = {str(old): str(index) for index, old in enumerate(kept)}
        settings["added_tokens_decoder"] = {new[i]: token for i, token in decoder.items() if i in new}
    target.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
