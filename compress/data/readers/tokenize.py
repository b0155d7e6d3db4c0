"""Tokenization of texts, using only the `tokenizers` library.

A deployed bundle needs only onnxruntime and tokenizers, so the ids for training and measuring must come from
tokenizer.json alone.
Shapes: s = tokens of one text, including special tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.data.readers.reader import Modality, Reader
from compress.data.readers.synthetic import between_texts, random_lengths, random_texts
from compress.data.split import Array, Row, Split
from compress.data.table import Text, shown
from compress.data.words import UNDIVIDED, unknown_token_notes
from compress.errors import DataError
from compress.system.files import read_json
from compress.tasks import InputSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["GENERATION_FILE", "TEXT_INPUTS", "TOKENIZER_FILES", "TextEncoder", "encoder_among", "has_words"]

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
GENERATION_FILE = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
"""Files next to tokenizer.json that other libraries read."""
_CHUNK = 1024  # texts per call: an Encoding is far larger than its ids
_WHOLE_CHUNK = 16  # the same for documents, which may be long


@dataclass(frozen=True)
class TextEncoder(Reader):
    """A tokenizer and the inputs that a model needs from it.

    Attributes:
        directory: folder of tokenizer.json.
        tokenizer: that file, loaded; its truncation and padding settings may be changed.
        input_names: the model's inputs among input_ids, attention_mask and token_type_ids, in its order.
        pad_id: id that pads shorter rows.
        end_id: id that ends a language model's text; None if the tokenizer names none.
        truncation_side: side on which long texts are cut, left or right.
        prefixes_words: puts a space before each word; byte-level tokenizers of texts that are given as words.
        texts: texts of a row: 1, or 2 for pairs.
    """

    modality: ClassVar[Modality] = "text"
    made_up: ClassVar[str] = "random tokens"

    directory: Path
    tokenizer: Tokenizer
    input_names: tuple[str, ...]
    pad_id: int
    truncation_side: str = "right"
    end_id: int | None = None
    prefixes_words: bool = False
    texts: int = 1

    @classmethod
    def from_directory(
        cls, directory: Path | str, *, input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    ) -> TextEncoder:
        """Load tokenizer.json, and the pad token and truncation side from the files next to it.

        Raises:
            DataError: if tokenizer.json is missing or unreadable, or the model needs an input that texts
                don't have.
        """
        directory = Path(directory)
        _check_input_names(input_names)
        tokenizer = _load_tokenizer(directory / "tokenizer.json")
        config = _read_json(directory / "tokenizer_config.json")
        side = config.get("truncation_side") or (tokenizer.truncation or {}).get("direction", "right")
        if str(side).lower() not in ("left", "right"):
            raise DataError(
                f"{directory / 'tokenizer_config.json'}: truncation_side '{side}' is not allowed; allowed: "
                "left, right"
            )
        return cls(
            directory,
            tokenizer,
            input_names,
            _pad_id(directory, tokenizer, config),
            str(side).lower(),
            _end_id(directory, tokenizer, config),
        )

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Specifications of an encoded row's inputs."""
        pads = {"input_ids": self.pad_id}
        return tuple(
            InputSpec(name, "int64", ("sequence_length",), pads.get(name, 0)) for name in self.input_names
        )

    @property
    def vocab_size(self) -> int:
        """Number of embedding rows needed for all possible ids: the highest id plus one."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def truncated_at(self) -> int | None:
        """Number of tokens to which `encode` last truncated texts; None before the first call."""
        truncation = self.tokenizer.truncation
        return None if truncation is None else int(truncation["max_length"])

    def encode(self, texts: Sequence[Text], *, max_length: int) -> tuple[tuple[Row, ...], int]:
        """Encode texts or pairs of them, unpadded, truncated to `max_length` tokens including special tokens.

        Of a pair the longer text is cut first, as the tokenizers library does by itself ("longest_first").

        Returns:
            One row per text, each input int64 [s]; and the number of truncated texts.

        Raises:
            DataError: if `max_length` leaves no room for text, or a text has no tokens.
        """
        self._configure_(max_length, pairs=bool(texts) and not isinstance(texts[0], str))
        rows: list[Row] = []
        cut = 0
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            try:
                encodings = self.tokenizer.encode_batch(chunk)
            except Exception as error:  # the library raises bare Exception
                raise DataError(f"{self._file}: cannot encode: {error}") from error
            for text, encoding in zip(chunk, encodings, strict=True):
                if not encoding.ids:
                    raise DataError(f"{self._file}: the text {shown(text)} has no tokens")
                columns = (encoding.ids, encoding.attention_mask, encoding.type_ids)
                values = dict(zip(TEXT_INPUTS, columns, strict=True))
                rows.append({name: np.array(values[name], dtype=np.int64) for name in self.input_names})
                cut += bool(encoding.overflowing)
        return tuple(rows), cut

    def encode_whole(self, texts: Sequence[str]) -> Iterator[tuple[Array, Array]]:
        """Encode whole documents, without special tokens and truncation.

        Yields:
            For each document, its token ids and the number of UTF-8 bytes of text per token, both int64 [t];
            the bytes sum to the document's size.

        Raises:
            DataError: if the tokenizer fails.
        """
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        for start in range(0, len(texts), _WHOLE_CHUNK):
            chunk = list(texts[start : start + _WHOLE_CHUNK])
            try:
                encodings = self.tokenizer.encode_batch(chunk, add_special_tokens=False)
            except Exception as error:  # the library raises bare Exception
                raise DataError(f"{self._file}: cannot encode: {error}") from error
            for text, encoding in zip(chunk, encodings, strict=True):
                yield np.array(encoding.ids, dtype=np.int64), _token_bytes(text, encoding.offsets)

    def tokenizer_json(self, *, max_length: int | None) -> str:
        """Contents of a tokenizer.json for the bundle, which truncates like `encode` and does not pad.

        Args:
            max_length: maximum tokens of a text; None does not truncate, as for a prompt.
        """
        if max_length is None:
            self.tokenizer.no_padding()
            self.tokenizer.no_truncation()
        else:
            self._configure_(max_length, pairs=self.texts > 1)
        return str(self.tokenizer.to_str(pretty=True))

    def settings(self) -> str:
        """Tokenizer settings, including truncation; see `Reader.settings`."""
        return str(self.tokenizer.to_str()) + ("" if self.texts == 1 else f"\n{self.texts} texts")

    def facts(self) -> dict[str, Any]:
        """The number of texts of a row, if it is not one; see `Reader.facts`."""
        return {} if self.texts == 1 else {"texts": self.texts}

    def between_texts(self) -> list[int]:
        """Token ids between the two texts of a row; empty if rows have one, or if there are none."""
        return [] if self.texts == 1 else between_texts(self.tokenizer, self._file)

    def synthetic(self, count: int, longest: int, *, seed: int) -> Split:
        """Make rows of random tokens and random lengths; see `Reader.synthetic`."""
        return self.random_rows(random_lengths(count, longest, seed=seed), seed=seed)

    def random_rows(self, lengths: Sequence[int], *, seed: int) -> Split:
        """Make rows of random tokens with these lengths; see `random_texts`."""
        found = random_texts(
            self.tokenizer, lengths, pad_id=self.pad_id, seed=seed, file=self._file, texts=self.texts
        )
        columns = (dict(zip(TEXT_INPUTS, each, strict=True)) for each in found)
        rows = tuple({name: each[name] for name in self.input_names} for each in columns)
        return Split.without_labels("synthetic", rows, self.inputs)

    def random_stream(self, count: int, length: int, *, seed: int) -> Split:
        """Make rows of random tokens for a language model, labelled with the next token at each position."""
        ids = np.array(sorted(set(self.tokenizer.get_vocab(with_added_tokens=True).values())), dtype=np.int64)
        drawn = np.random.default_rng(seed).choice(ids, (count, length + 1))
        ones = np.ones(length, dtype=np.int64)
        rows = tuple(
            {name: row[:-1] if name == "input_ids" else ones for name in self.input_names} for row in drawn
        )
        return Split("synthetic", rows, drawn[:, 1:], self.inputs)

    def shipped(self) -> tuple[Path, ...]:
        """Files of the model and the tokenizer; see `Reader.shipped`."""
        names = ("config.json", "tokenizer.json", GENERATION_FILE, *TOKENIZER_FILES)
        return tuple(path for name in names if (path := self.directory / name).is_file())

    def write_(self, directory: Path, longest: int | None, *, generates: bool = False) -> None:
        """Write the tokenizer's files, with truncation as in `encode`; see `Reader.write_`."""
        for name in (*TOKENIZER_FILES, *([GENERATION_FILE] if generates else [])):
            if (self.directory / name).is_file():
                shutil.copyfile(self.directory / name, directory / name)
        shipped = self.tokenizer_json(max_length=None if generates else longest)
        (directory / "tokenizer.json").write_text(shipped, encoding="utf-8")
        # Libraries that read this file instead (transformers.js, optimum) then truncate the same way.
        settings = directory / "tokenizer_config.json"
        known = read_json(settings) if settings.is_file() else {}
        if known.get("tokenizer_class") == "TokenizersBackend":
            # transformers 5's name; optimum-onnx needs transformers 4, which only knows the old name.
            known["tokenizer_class"] = "PreTrainedTokenizerFast"
        if generates and self.end_id is not None:  # the end token used between documents
            known["eos_token"] = self.tokenizer.id_to_token(self.end_id)
        # Otherwise transformers 4 adds token types for classes that don't declare their inputs.
        known["model_input_names"] = list(self.input_names)
        if self.prefixes_words:
            known["add_prefix_space"] = True
        if longest is not None:
            known["model_max_length"] = longest
        settings.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def shown(self, row: Row) -> tuple[str, ...] | None:
        """The tokens of a row."""
        if "input_ids" not in row:
            return None
        return tuple(self.tokenizer.id_to_token(int(index)) or "?" for index in row["input_ids"])

    def doubts(self, split: Split, whose: str = "the tokenizer") -> tuple[str, ...]:
        """Warn if more than a tenth of a split's tokens are unknown, or nothing divides two texts."""
        divided = self.texts == 1 or self.between_texts() or "token_type_ids" in self.input_names
        joined = () if divided else (f"{whose} {UNDIVIDED}",)
        return joined + unknown_token_notes(split, self.tokenizer, whose)

    @property
    def how(self) -> str:
        """Names the truncation; see `Reader.how`."""
        first = "" if self.texts == 1 else ", the longer text first"
        return f"one row at a time, truncated to max_length{first}, no padding"

    @property
    def _file(self) -> Path:
        return self.directory / "tokenizer.json"

    def _configure_(self, max_length: int, *, pairs: bool) -> None:
        special = self.tokenizer.num_special_tokens_to_add(pairs)
        least = special + (2 if pairs else 1)
        if max_length < least:
            raise DataError(
                f"max_length {max_length} leaves no room for text, because {self._file} adds {special} "
                f"special tokens; allowed: {least} or more"
            )
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length, direction=self.truncation_side)


def encoder_among(reader: Reader | None, *, texts: int = 1) -> TextEncoder:
    """Return the reader, which must be for texts, for rows of one text or of two.

    Raises:
        DataError: if it is not.
    """
    if not isinstance(reader, TextEncoder):
        raise DataError(
            "texts need a tokenizer; set model.tokenizer to a directory with tokenizer.json, "
            "or use a model.hf that has one"
        )
    return reader if reader.texts == texts else replace(reader, texts=texts)


def _token_bytes(text: str, offsets: Sequence[tuple[int, int]]) -> Array:
    """Bytes from the end of the previous token to the end of each, [t]; the last one includes the rest."""
    if not offsets:
        return np.zeros(0, dtype=np.int64)
    if text.isascii():
        ends = np.array([end for _, end in offsets], dtype=np.int64)
    else:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        sizes = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
        ends = np.concatenate(([0], np.cumsum(sizes)))[[end for _, end in offsets]]
    ends = np.maximum.accumulate(ends)
    ends[-1] = len(text.encode("utf-8", "surrogatepass"))
    return np.diff(ends, prepend=0)


def _check_input_names(input_names: tuple[str, ...]) -> None:
    unknown = [name for name in input_names if name not in TEXT_INPUTS]
    if unknown:
        raise DataError(
            f"the model's input '{unknown[0]}' can't come from a text; allowed: {', '.join(TEXT_INPUTS)}"
        )
    if "input_ids" not in input_names or len(set(input_names)) != len(input_names):
        taken = ", ".join(input_names)
        raise DataError(f"a text model must take input_ids, and each input once; it takes: {taken}")


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DataError("reading texts needs the tokenizers library: pip install 'modelpress[hf]'") from error
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; a text model needs a fast tokenizer "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(directory) writes one)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path}: cannot read the tokenizer: {error}") from error
    if not has_words(tokenizer):
        raise DataError(
            f"{path}: has only special tokens, so every word would be unknown; give the tokenizer that the "
            "model was trained with"
        )
    return tokenizer


def has_words(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer has tokens besides its added (special) ones."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return bool(set(tokenizer.get_vocab(with_added_tokens=True)) - added)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing."""
    if not path.is_file():
        return {}
    try:
        value = read_json(path)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: must be a JSON object, not {type(value).__name__}")
    return value


def _pad_id(directory: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> int:
    found = _special_id(directory, tokenizer, config, "pad_token")
    if found is None and tokenizer.padding is not None:
        found = int(tokenizer.padding["pad_id"])
    if found is None:  # as for GPT-2; a classifier may use the pad token of the model's config.json
        said = _read_json(directory / "config.json").get("pad_token_id")
        found = said if isinstance(said, int) and said >= 0 else None
    return 0 if found is None else found


def _end_id(directory: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> int | None:
    """End token from the tokenizer's files, or else the first one in the model's own files."""
    found = _special_id(directory, tokenizer, config, "eos_token")
    if found is not None:
        return found
    for name in ("config.json", "generation_config.json"):
        said = _read_json(directory / name).get("eos_token_id")
        first = said[0] if isinstance(said, list) and said else said
        if isinstance(first, int) and tokenizer.id_to_token(first) is not None:
            return first
    return None


def _special_id(directory: Path, tokenizer: Tokenizer, config: dict[str, Any], role: str) -> int | None:
    """Id of the token with a role such as pad_token in the tokenizer's files; None if there is none."""
    sources = {"tokenizer_config.json": config}
    if not config.get(role):
        sources["special_tokens_map.json"] = _read_json(directory / "special_tokens_map.json")
    for name, source in sources.items():
        token = source.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        if token:
            found = tokenizer.token_to_id(token)
            if found is None:
                raise DataError(f"{directory / name}: {role} '{token}' is not in tokenizer.json")
            return int(found)
    return None
