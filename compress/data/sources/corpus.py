"""Documents for a language model: read, split by whole documents, and cut into rows of one length.

The documents of a split are joined, each ended by the tokenizer's end token where it has one, and cut into
rows of s tokens. A position's label is the token that follows it, so the last token of a row is labelled by
the first of the next; what does not fill a row at the end is left out.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compress.data.config import CorpusData, DatasetsData, StdlibData
from compress.data.readers.tokenize import TextEncoder
from compress.data.sources.text import (
    format_of,
    read_document,
    read_unlabelled_dataset,
    read_unlabelled_file,
    what_is_there,
)
from compress.data.split import Array, Split, Splits
from compress.data.table import Note, counted, loose_key
from compress.errors import DataError
from compress.tasks import task_class

__all__ = ["load_corpus", "with_end_token"]

_PARTS = ("train", "validation", "test")
_FEW_DOCUMENTS = 10  # fewer than these are cut into parts, for want of whole ones to draw
_NOT_LIBRARY = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "idle_test",
    "lib2to3",
    "__pycache__",
}


@dataclass(frozen=True)
class _Documents:
    name: str  # for people
    texts: tuple[str, ...]
    notes: tuple[Note, ...] = ()


def load_corpus(config: CorpusData | StdlibData, encoder: TextEncoder) -> Splits:
    """Read the documents of a source and make rows of them.

    Raises:
        DataError: a file that is missing, empty or no text; a document that stands in two splits; too
            little text for a row in each split; or no end token.
    """
    encoder = with_end_token(encoder, config)
    read = _read_stdlib(config) if isinstance(config, StdlibData) else _read_corpus(config)
    parts, notes = _divided(config, read)
    _check_leaks(parts)
    splits: dict[str, Split] = {}
    more: tuple[Note, ...] = ()
    limits = {"train": config.train_limit, "validation": config.validation_limit, "test": config.test_limit}
    for part in _PARTS:
        rows = _rows(part, parts[part].texts, encoder, config.max_length)
        limit = limits[part]
        if limit is not None and limit < len(rows):
            more += (Note(f"{part}: {limit} of {len(rows)} rows taken ({part}_limit)", "limit"),)
            rows = rows.take(limit, seed=config.seed)
        splits[part] = rows
    notes += tuple(note for each in read.values() for note in each.notes) + more
    if encoder.end_id is None:
        notes += (Note("data.end_token is false: documents follow each other without an end token"),)
    source = ", ".join(f"{each.name} ({counted(len(each.texts), 'document')})" for each in read.values())
    return Splits(
        task_class(config.task).of_model(encoder.inputs, None, encoder.vocab_size),
        **splits,
        source=source,
        notes=notes,
        processor=None,
    )


def with_end_token(encoder: TextEncoder, config: CorpusData | StdlibData) -> TextEncoder:
    """The tokenizer with the end token that the configuration names, or with its own.

    Raises:
        DataError: neither names one, or the tokenizer doesn't have it.
    """
    if config.end_token is False:
        return replace(encoder, end_id=None)
    if config.end_token is not None:
        found = encoder.tokenizer.token_to_id(config.end_token)
        if found is None:
            raise DataError(
                f"data.end_token: '{config.end_token}' is no token of {encoder.directory / 'tokenizer.json'}"
            )
        return replace(encoder, end_id=found)
    if encoder.end_id is None:
        special = [token.content for token in encoder.tokenizer.get_added_tokens_decoder().values()]
        have = f" (its special tokens: {', '.join(special[:8])})" if special else ""
        raise DataError(
            f"the tokenizer in {encoder.directory} names no end token, which stands between documents and "
            f"ends what the model writes: name one of its tokens with data.end_token=TOKEN{have}, or do "
            "without with data.end_token=false"
        )
    return encoder


def _read_corpus(config: CorpusData) -> dict[str, _Documents]:
    given = {"train": config.train, "validation": config.validation, "test": config.test}
    return {part: _read(path, config) for part, path in given.items() if path is not None}


def _read(path: Path, config: CorpusData) -> _Documents:
    wrong = "" if path.is_dir() else what_is_there(path)
    if wrong:
        raise DataError(f"{path} {wrong}")
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        source = DatasetsData(name=str(path), text=config.text, unlabelled="train")
        table = read_unlabelled_dataset(source)
        found = _distinct(table.name, [str(item) for item in table.items])
        others = sorted(each.parent.name for each in path.glob("*/state.json") if each.parent.name != "train")
        if others:
            note = f"{table.name}: its other splits are not read ({', '.join(others)}); give one as PATH/NAME"
            return replace(found, notes=(*found.notes, Note(note)))
        return found
    if path.is_dir():
        files = sorted(file for file in path.rglob(config.files) if file.is_file())
        if not files:
            raise DataError(f"{path}: no file in it is called {config.files}; say which with data.files")
        return _distinct(f"{path.name}/{config.files}", [read_document(file) for file in files])
    if format_of(path) in (".csv", ".tsv", ".jsonl", ".parquet"):
        table = read_unlabelled_file(path, text=config.text)
        found = _distinct(table.name, [str(item) for item in table.items])
        return replace(found, notes=table.notes + found.notes)
    return _distinct(path.name, [read_document(path)])


def _distinct(name: str, texts: Sequence[str]) -> _Documents:
    """Each document once, case and white space aside; empty ones are left out."""
    kept: dict[str | bytes, str] = {}
    for text in texts:
        if text.strip():
            kept.setdefault(loose_key(text), text)
    if not kept:
        raise DataError(f"{name}: there is no text in it")
    dropped = len(texts) - len(kept)
    line = f"{name}: {counted(dropped, 'document')} dropped: empty, or the same again"
    return _Documents(name, tuple(kept.values()), (Note(line, "dropped"),) if dropped else ())


def _read_stdlib(config: StdlibData) -> dict[str, _Documents]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        file
        for file in sorted(root.rglob("*.py"))
        if not _NOT_LIBRARY & set(file.relative_to(root).parts[:-1])
    ]
    share = 1 - config.validation_fraction - config.test_fraction
    texts: list[str] = []
    size = 0
    for index in np.random.default_rng(config.seed).permutation(len(files)):
        if size >= config.train_bytes / share:
            break
        try:
            texts.append(files[index].read_text(encoding="utf-8"))
        except (UnicodeDecodeError, OSError):
            continue  # a few files are written in other encodings on purpose
        size += len(texts[-1].encode())
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    return {"train": _distinct(f"Python {version}'s standard library", texts)}


def _divided(
    config: CorpusData | StdlibData, read: Mapping[str, _Documents]
) -> tuple[dict[str, _Documents], tuple[Note, ...]]:
    """Draw validation and test from train's documents where they are not given."""
    wanted = {"validation": config.validation_fraction, "test": config.test_fraction}
    drawn = {part: share for part, share in wanted.items() if part not in read}
    parts = dict(read)
    if not drawn:
        return parts, ()
    train = read["train"]
    few = len(train.texts) < _FEW_DOCUMENTS
    pieces = _cut(train.texts, drawn) if few else _drawn(train.texts, drawn, config.seed)
    of = counted(len(train.texts), "document")
    notes = (Note(f"{train.name}: {' and '.join(drawn)} are the last parts of its {of}"),) if few else ()
    parts |= {part: _Documents(train.name, tuple(texts)) for part, texts in pieces.items()}
    return parts, notes


def _cut(texts: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """Of each text the beginning for train and a part of the end for each other split, cut at line ends."""
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
    """Whole documents until each split has its share of the characters; train has the rest."""
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


def _check_leaks(parts: Mapping[str, _Documents]) -> None:
    seen: dict[str | bytes, str] = {}
    for part in _PARTS:
        for text in parts[part].texts:
            before = seen.setdefault(loose_key(text), part)
            if before != part:
                beginning = " ".join(text.split())[:60]
                raise DataError(
                    f"{parts[part].name}: a document stands in {before} and in {part} ('{beginning}...'): "
                    "take it out of one"
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
            f"{part}: {len(stream):,} tokens are too few for two rows of {length} (max_length); give more "
            "text, or shorter rows"
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
