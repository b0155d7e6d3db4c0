"""Documents for a language model: read, split by whole documents, and cut into rows of equal length.

The documents of a split are concatenated, each followed by the tokenizer's end token if it has one, and cut
into rows of s tokens. The label of a position is the next token, so the last token of a row is labelled with
the first of the next row; an incomplete last row is dropped.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from compress.data.paths import COLUMN_FORMATS, RecipePath, format_of, what_is_there
from compress.data.readers.reader import Modality, Reader
from compress.data.readers.tokenize import TextEncoder, encoder_among
from compress.data.source import DataSource
from compress.data.sources.datasets import DatasetsData, read_unlabelled_dataset
from compress.data.sources.file import read_unlabelled_file
from compress.data.sources.text_files import read_document
from compress.data.split import Array, Split
from compress.data.splits import Splits
from compress.data.table import Note, Text, counted, loose_key
from compress.errors import DataError
from compress.tasks.spec import RowKind

__all__ = ["CorpusData", "Documents", "TextStream", "distinct_documents", "with_end_token"]

_PARTS = ("train", "validation", "test")
_FEW_DOCUMENTS = 10  # with fewer than this, each document is cut instead of drawing whole ones


@dataclass(frozen=True)
class Documents:
    """Whole texts of one split, and notes on what was left out."""

    name: str  # for people
    texts: tuple[str, ...]
    notes: tuple[Note, ...] = ()


class TextStream(DataSource):
    """Text for a language model: concatenated documents, cut into rows of `max_length` tokens.

    Attributes:
        max_length: tokens per row; the label of each position is the next token.
        validation_limit, test_limit: maximum rows for measuring, sampled by the seed.
        end_token: token that ends a document, and the model's output; None uses the tokenizer's; false uses
            none.
    """

    modality: ClassVar[Modality] = "text"
    rows: ClassVar[RowKind] = "stream"

    end_token: str | Literal[False] | None = None

    max_length: int = Field(default=256, ge=2)
    validation_limit: int = Field(default=128, ge=2)
    test_limit: int = Field(default=256, ge=2)

    @abstractmethod
    def documents(self) -> dict[str, Documents]:
        """Read the documents of train, and of validation and test if given.

        Raises:
            DataError: if a file is missing, empty or not text.
        """

    def read(self, reader: Reader | None, label_order: Sequence[str] | None) -> Splits:
        """Read documents and convert them to rows; see `DataSource.read`.

        Raises:
            DataError: if a file is missing, empty or not text, a document is in two splits, there is too
                little text for a row in each split, or there is no end token.
        """
        del label_order
        encoder = with_end_token(encoder_among(reader), self)
        read = self.documents()
        parts, notes = _divided(self, read)
        _check_leaks(parts)
        splits: dict[str, Split] = {}
        more: tuple[Note, ...] = ()
        limits = {"train": self.train_limit, "validation": self.validation_limit, "test": self.test_limit}
        for part in _PARTS:
            rows = _rows(part, parts[part].texts, encoder, self.max_length)
            limit = limits[part]
            if limit is not None and limit < len(rows):
                more += (Note(f"{part}: {limit} of {len(rows)} rows used ({part}_limit)", "limit"),)
                rows = rows.take(limit, seed=self.seed)
            splits[part] = rows
        notes += tuple(note for each in read.values() for note in each.notes) + more
        if encoder.end_id is None:
            notes += (Note("data.end_token is false: there is no token between documents"),)
        source = ", ".join(f"{each.name} ({counted(len(each.texts), 'document')})" for each in read.values())
        task = self.kind.of_model(encoder.inputs, None, encoder.vocab_size)
        return Splits(task, **splits, source=source, notes=notes, reader=encoder)


class CorpusData(TextStream):
    """Language modelling on the user's text: a file, a folder of files, or a `datasets` directory.

    A .txt file, or any file of a folder that matches `files`, is one document; in CSV, JSONL and Parquet
    files and `datasets` directories each row is one. A split that is not given is drawn from train, by whole
    documents.

    Attributes:
        train: the file, folder or directory of training texts.
        validation: that of validation texts; None: drawn from train.
        test: that of test texts; None: drawn from train.
        files: pattern of file names to read from a folder.
        text: name of the text column.
    """

    paths_to: ClassVar[Literal["FILE", "DIR", "FILE or DIR"]] = "FILE or DIR"

    source: Literal["corpus"] = "corpus"
    train: RecipePath
    validation: RecipePath | None = None
    test: RecipePath | None = None
    files: str = "*.txt"
    text: str = "text"

    def documents(self) -> dict[str, Documents]:
        """Read files, folders and `datasets` directories."""
        return {part: _read(path, self) for part, path in self.paths().items()}


def with_end_token(encoder: TextEncoder, config: TextStream) -> TextEncoder:
    """Set the tokenizer's end token to the configured one, if any.

    Raises:
        DataError: if neither gives one, or the tokenizer doesn't have the configured one.
    """
    if config.end_token is False:
        return replace(encoder, end_id=None)
    if config.end_token is not None:
        found = encoder.tokenizer.token_to_id(config.end_token)
        if found is None:
            raise DataError(
                f"data.end_token: '{config.end_token}' is not a token of "
                f"{encoder.directory / 'tokenizer.json'}"
            )
        return replace(encoder, end_id=found)
    if encoder.end_id is None:
        special = [token.content for token in encoder.tokenizer.get_added_tokens_decoder().values()]
        have = f" (its special tokens: {', '.join(special[:8])})" if special else ""
        raise DataError(
            f"the tokenizer in {encoder.directory} names no end token, which separates documents and ends "
            f"generated text; set data.end_token=TOKEN{have}, or data.end_token=false for none"
        )
    return encoder


def _read(path: Path, config: CorpusData) -> Documents:
    wrong = "" if path.is_dir() else what_is_there(path)
    if wrong:
        raise DataError(f"{path} {wrong}")
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        source = DatasetsData(name=str(path), text=config.text, unlabelled="train")
        table = read_unlabelled_dataset(source)
        found = distinct_documents(table.name, [str(item) for item in table.items])
        others = sorted(each.parent.name for each in path.glob("*/state.json") if each.parent.name != "train")
        if others:
            note = f"{table.name}: its other splits are not read ({', '.join(others)}); give one as PATH/NAME"
            return replace(found, notes=(*found.notes, Note(note)))
        return found
    if path.is_dir():
        files = sorted(file for file in path.rglob(config.files) if file.is_file())
        if not files:
            raise DataError(f"{path}: no file matches {config.files}; set data.files to a pattern that does")
        return distinct_documents(f"{path.name}/{config.files}", [read_document(file) for file in files])
    if format_of(path) in COLUMN_FORMATS:
        table = read_unlabelled_file(path, text=config.text)
        found = distinct_documents(table.name, [str(item) for item in table.items])
        return replace(found, notes=table.notes + found.notes)
    return distinct_documents(path.name, [read_document(path)])


def distinct_documents(name: str, texts: Sequence[str]) -> Documents:
    """Remove empty and duplicate documents, ignoring case and white space.

    Raises:
        DataError: if no text is left.
    """
    kept: dict[Text | bytes, str] = {}
    for text in texts:
        if text.strip():
            kept.setdefault(loose_key(text), text)
    if not kept:
        raise DataError(f"{name}: contains no text")
    dropped = len(texts) - len(kept)
    line = f"{name}: {counted(dropped, 'document')} dropped: empty or duplicate"
    return Documents(name, tuple(kept.values()), (Note(line, "dropped"),) if dropped else ())


def _divided(
    config: TextStream, read: Mapping[str, Documents]
) -> tuple[dict[str, Documents], tuple[Note, ...]]:
    """Draw validation and test from train's documents if they are not given."""
    wanted = {"validation": config.validation_fraction, "test": config.test_fraction}
    drawn = {part: share for part, share in wanted.items() if part not in read}
    parts = dict(read)
    if not drawn:
        return parts, ()
    train = read["train"]
    few = len(train.texts) < _FEW_DOCUMENTS
    pieces = _cut(train.texts, drawn) if few else _drawn(train.texts, drawn, config.seed)
    of = counted(len(train.texts), "document")
    notes = (Note(f"{train.name}: {' and '.join(drawn)} are the ends of its {of}"),) if few else ()
    parts |= {part: Documents(train.name, tuple(texts)) for part, texts in pieces.items()}
    return parts, notes


def _cut(texts: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """Cut each text at line ends: the start goes to train, parts of the end to the other splits."""
    pieces: dict[str, list[str]] = {"train": [], **{part: [] for part in shares}}
    for text in texts:
        stop = len(text)
        for part, share in shares.items():
            start = text.rfind("\n", 0, max(stop - int(share * len(text)), 0)) + 1
            start = start or max(stop - int(share * len(text)), 0)
            pieces[part].append(text[start:stop])
            stop = start
        pieces["train"].append(text[:stop])
    return {part: [text for text in each if text.strip()] for part, each in pieces.items()}


def _drawn(texts: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Draw whole documents until each split has its share of the characters; train gets the rest."""
    order = list(np.random.default_rng(seed).permutation(len(texts)))
    total = sum(map(len, texts))
    pieces: dict[str, list[str]] = {}
    for part, share in shares.items():
        picked: list[int] = []
        while order and sum(len(texts[index]) for index in picked) < share * total:
            picked.append(order.pop())
        pieces[part] = [texts[index] for index in sorted(picked)]
    pieces["train"] = [texts[index] for index in sorted(order)]
    return pieces


def _check_leaks(parts: Mapping[str, Documents]) -> None:
    seen: dict[Text | bytes, str] = {}
    for part in _PARTS:
        for text in parts[part].texts:
            before = seen.setdefault(loose_key(text), part)
            if before != part:
                beginning = " ".join(text.split())[:60]
                raise DataError(
                    f"{parts[part].name}: a document occurs in both {before} and {part} ('{beginning}...'); "
                    "remove it from one"
                )


def _rows(part: str, texts: Sequence[str], encoder: TextEncoder, length: int) -> Split:
    ids, sizes = [], []
    end = np.array([] if encoder.end_id is None else [encoder.end_id], dtype=np.int64)
    for tokens, of_text in encoder.encode_whole(texts):
        ids += [tokens, end]
        sizes += [of_text, np.zeros(len(end), dtype=np.int64)]
    stream = np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64)
    of_stream = np.concatenate(sizes) if sizes else np.zeros(0, dtype=np.int64)
    count = (len(stream) - 1) // length
    if count < 2:
        raise DataError(
            f"{part}: {len(stream):,} tokens are too few for two rows of {length}; give more text, or a "
            "lower max_length"
        )
    used = count * length
    inputs = stream[:used].reshape(count, length)
    ones = np.ones(length, dtype=np.int64)
    columns = {"attention_mask": ones, "token_type_ids": np.zeros(length, dtype=np.int64)}
    rows = tuple(
        {name: row if name == "input_ids" else columns[name] for name in encoder.input_names}
        for row in inputs
    )
    labels: Array = stream[1 : used + 1].reshape(count, length)
    bytes_of_rows = of_stream[1 : used + 1].reshape(count, length).sum(1)
    return Split(part, rows, labels, encoder.inputs, label_bytes=bytes_of_rows)
