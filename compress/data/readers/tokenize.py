"""Texts to token ids, by the `tokenizers` library alone.

A shipped bundle is run with onnxruntime and tokenizers only, so the ids that a model is trained and measured
on must come from tokenizer.json and nothing else.
Shapes: s = tokens of one text, special tokens counted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress.data.readers.reader import Modality, Reader
from compress.data.split import Array, Row, Split
from compress.data.table import shown
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
"""What is beside tokenizer.json, and other libraries read."""
_CHUNK = 1024  # texts that are encoded at once: an Encoding holds far more than its ids
_WHOLE_CHUNK = 16  # the same of documents, which may be long


@dataclass(frozen=True)
class TextEncoder(Reader):
    """A tokenizer and the inputs that a model wants of it.

    Attributes:
        directory: where tokenizer.json is.
        tokenizer: that file, loaded; its truncation and padding settings are ours to change.
        input_names: which of input_ids, attention_mask and token_type_ids the model takes, in its order.
        pad_id: the id that fills a shorter row.
        end_id: the id that ends a text of a language model; None: the tokenizer names none.
        truncation_side: the end of a long text that is cut, left or right.
    """

    modality: ClassVar[Modality] = "text"
    made_up: ClassVar[str] = "random tokens"

    directory: Path
    tokenizer: Tokenizer
    input_names: tuple[str, ...]
    pad_id: int
    truncation_side: str = "right"
    end_id: int | None = None

    @classmethod
    def from_directory(
        cls, directory: Path | str, *, input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    ) -> TextEncoder:
        """Load tokenizer.json, and the pad token and truncation side that are beside it.

        Raises:
            DataError: no tokenizer.json, one that cannot be read, or an input that texts do not have.
        """
        directory = Path(directory)
        _check_input_names(input_names)
        tokenizer = _load_tokenizer(directory / "tokenizer.json")
        config = _read_json(directory / "tokenizer_config.json")
        side = config.get("truncation_side") or (tokenizer.truncation or {}).get("direction", "right")
        if str(side).lower() not in ("left", "right"):
            raise DataError(
                f"{directory / 'tokenizer_config.json'}: truncation_side '{side}' is neither left nor right"
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
        """What each encoded row holds."""
        pads = {"input_ids": self.pad_id}
        return tuple(
            InputSpec(name, "int64", ("sequence_length",), pads.get(name, 0)) for name in self.input_names
        )

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs for every id that can come: the highest id plus one."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def truncated_at(self) -> int | None:
        """How many tokens of a text are kept, as `encode` last set it; None before."""
        truncation = self.tokenizer.truncation
        return None if truncation is None else int(truncation["max_length"])

    def encode(self, texts: Sequence[str], *, max_length: int) -> tuple[tuple[Row, ...], int]:
        """Encode texts, unpadded, cut to `max_length` tokens with the special tokens kept.

        Returns:
            One row a text, each input int64 [s]; and how many texts were cut.

        Raises:
            DataError: `max_length` leaves no room for text, or a text has no tokens.
        """
        self._configure_(max_length)
        rows: list[Row] = []
        cut = 0
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            try:
                encodings = self.tokenizer.encode_batch(chunk)
            except Exception as error:  # the library raises Exception itself
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
        """Encode documents, each whole and without special tokens, and yield each one's ids and bytes.

        Yields:
            Token ids and the bytes (UTF-8) of the text that each token stands for, both int64 [t]; they sum
            to the document's bytes.

        Raises:
            DataError: the tokenizer fails.
        """
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        for start in range(0, len(texts), _WHOLE_CHUNK):
            chunk = list(texts[start : start + _WHOLE_CHUNK])
            try:
                encodings = self.tokenizer.encode_batch(chunk, add_special_tokens=False)
            except Exception as error:  # the library raises Exception itself
                raise DataError(f"{self._file}: cannot encode: {error}") from error
            for text, encoding in zip(chunk, encodings, strict=True):
                yield np.array(encoding.ids, dtype=np.int64), _token_bytes(text, encoding.offsets)

    def tokenizer_json(self, *, max_length: int | None) -> str:
        """Text of a tokenizer.json that cuts as `encode` does and pads nothing, for the shipped bundle.

        Args:
            max_length: tokens of a text; None: nothing is cut, as of a prompt.
        """
        if max_length is None:
            self.tokenizer.no_padding()
            self.tokenizer.no_truncation()
        else:
            self._configure_(max_length)
        return str(self.tokenizer.to_str(pretty=True))

    def settings(self) -> str:
        """How texts are split, and where they are cut."""
        return str(self.tokenizer.to_str())

    def synthetic(self, count: int, longest: int, *, seed: int) -> Split:
        """Rows of random tokens, of random lengths; see `Reader.synthetic`."""
        from compress.data.readers.synthetic import random_lengths, synthetic_split

        return synthetic_split(self, random_lengths(count, longest, seed=seed), seed=seed)

    def shipped(self) -> tuple[Path, ...]:
        """The model's and the tokenizer's own files."""
        names = ("config.json", "tokenizer.json", GENERATION_FILE, *TOKENIZER_FILES)
        return tuple(path for name in names if (path := self.directory / name).is_file())

    def write_(self, directory: Path, longest: int | None, *, generates: bool = False) -> None:
        """Write the tokenizer's files, such that texts are cut as they were before; see `Reader.write_`."""
        for name in (*TOKENIZER_FILES, *([GENERATION_FILE] if generates else [])):
            if (self.directory / name).is_file():
                shutil.copyfile(self.directory / name, directory / name)
        shipped = self.tokenizer_json(max_length=None if generates else longest)
        (directory / "tokenizer.json").write_text(shipped, encoding="utf-8")
        # What reads this file instead (transformers.js, optimum) then truncates at the same place.
        settings = directory / "tokenizer_config.json"
        known = read_json(settings) if settings.is_file() else {}
        if known.get("tokenizer_class") == "TokenizersBackend":
            # transformers 5's name for this class: 4, which optimum-onnx needs, knows the old one only.
            known["tokenizer_class"] = "PreTrainedTokenizerFast"
        if generates and self.end_id is not None:  # the one that was between documents
            known["eos_token"] = self.tokenizer.id_to_token(self.end_id)
        # Without it transformers 4 gives token types to classes that don't say what they take.
        known["model_input_names"] = list(self.input_names)
        if longest is not None:
            known["model_max_length"] = longest
        settings.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def shown(self, row: Row) -> tuple[str, ...] | None:
        """The tokens of a row."""
        if "input_ids" not in row:
            return None
        return tuple(self.tokenizer.id_to_token(int(index)) or "?" for index in row["input_ids"])

    def doubts(self, split: Split, whose: str = "the tokenizer") -> tuple[str, ...]:
        """A sentence where more than a tenth of a split's tokens are unknown; see `Reader.doubts`."""
        from compress.data.words import unknown_token_notes

        return unknown_token_notes(split, self, whose)

    @property
    def _file(self) -> Path:
        return self.directory / "tokenizer.json"

    def _configure_(self, max_length: int) -> None:
        special = self.tokenizer.num_special_tokens_to_add(False)
        if max_length <= special:
            raise DataError(
                f"max_length {max_length} leaves no room for text: {self._file} adds {special} special tokens"
            )
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length, direction=self.truncation_side)


def encoder_among(reader: Reader | None) -> TextEncoder:
    """The reader, which must be one of texts.

    Raises:
        DataError: it is another.
    """
    if not isinstance(reader, TextEncoder):
        raise DataError(
            "texts need a tokenizer: set model.tokenizer to a directory with tokenizer.json, "
            "or use a model.hf that has one"
        )
    return reader


def _token_bytes(text: str, offsets: Sequence[tuple[int, int]]) -> Array:
    """Bytes from the end of the token before to the end of each, [t]; the last one has the rest."""
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
            f"texts cannot fill the model's input '{unknown[0]}'; allowed: {', '.join(TEXT_INPUTS)}"
        )
    if "input_ids" not in input_names or len(set(input_names)) != len(input_names):
        raise DataError(
            f"a model of texts needs input_ids, each input once; it takes: {', '.join(input_names)}"
        )


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DataError("reading texts needs the tokenizers library: pip install 'modelpress[hf]'") from error
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; a text model needs a fast tokenizer "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(directory) writes one)"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise DataError(f"{path}: not a tokenizer that can be read: {error}") from error
    if not has_words(tokenizer):
        raise DataError(
            f"{path}: has no tokens but special ones, so that every word would be unknown; give the "
            "tokenizer that the model was trained with"
        )
    return tokenizer


def has_words(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer has tokens beside those that were added to it, which are the special ones."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return bool(set(tokenizer.get_vocab(with_added_tokens=True)) - added)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one."""
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
    if found is None:  # as of GPT-2; a classifier may look for the one that its own file names
        said = _read_json(directory / "config.json").get("pad_token_id")
        found = said if isinstance(said, int) and said >= 0 else None
    return 0 if found is None else found


def _end_id(directory: Path, tokenizer: Tokenizer, config: dict[str, Any]) -> int | None:
    """The end token of the tokenizer's files, or else the first of those that the model's own files name."""
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
    """The id of the token that the files beside the tokenizer give a role, such as pad_token, or None."""
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
