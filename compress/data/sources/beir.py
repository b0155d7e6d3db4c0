"""Queries, documents and relevances in the layout of BEIR: corpus.jsonl, queries.jsonl, qrels/*.tsv.

Thakur et al. 2021, arXiv 2104.08663; many retrieval data sets are distributed so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from compress.data.linked import LinkedRows, linked_splits
from compress.data.paths import RecipePath
from compress.data.readers.reader import Modality, Reader
from compress.data.readers.tokenize import encoder_among
from compress.data.source import DataSource
from compress.data.sources.text_files import column_names_of, read_columns
from compress.data.splits import Splits
from compress.data.table import Note, Table, counted
from compress.errors import DataError
from compress.tasks.spec import LabelKind

__all__ = ["BeirData"]

_USUAL = {"train": "train", "validation": "dev", "test": "test"}
_COLUMNS = ("query-id", "corpus-id", "score")


class BeirData(DataSource):
    """Retrieval data in the layout of BEIR: a directory with corpus.jsonl, queries.jsonl and qrels/*.tsv.

    Files may be compressed (.gz). Documents are common to all splits; a query is in one split. The title of a
    document is put before its text.

    Attributes:
        path: the directory.
        train: name of the file in qrels/ whose queries are for training; None: train, if there is one.
        validation: that of validation queries; None: dev, if there is one, else drawn.
        test: that of test queries; None: test, if there is one, else drawn.
        document_limit: most documents that are searched besides the relevant ones of a split, sampled by the
            seed; None: all. In validation at most 2,000.
        max_length: most tokens of a text; longer ones are truncated.
    """

    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("relevances",)
    modality: ClassVar[Modality] = "text"
    paths_to: ClassVar[Literal["FILE", "DIR", "FILE or DIR"]] = "DIR"

    source: Literal["beir"] = "beir"
    path: RecipePath
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    document_limit: int | None = Field(default=None, ge=1)
    max_length: int = Field(default=128, ge=2)

    @property
    def label_kind(self) -> LabelKind:
        """Relevances."""
        return "relevances"

    def paths(self) -> dict[str, Path]:
        """The directory."""
        return {"path": self.path}

    def read(self, reader: Reader | None, label_order: Sequence[str] | None) -> Splits:
        """See `DataSource.read`."""
        encoder = encoder_among(reader)
        documents = _texts(self._file("corpus.jsonl"), titled=True)
        queries = _texts(self._file("queries.jsonl"))
        files = {part: file for part in _USUAL if (file := self._relevances(part)) is not None}
        if not files:
            raise DataError(
                f"{self.path / 'qrels'}: has none of {', '.join(_USUAL.values())}.tsv; set data.test"
            )
        notes: list[Note] = []
        tables = {part: _table(path, queries, documents, notes) for part, path in files.items()}
        if "train" not in tables:
            tables["train"] = Table(documents.path.name, str(documents.path), (), ())
        given = LinkedRows(
            tables,
            searched=True,
            documents=tuple(documents.texts.values()),
            document_limit=self.document_limit,
            fractions={"validation": self.validation_fraction, "test": self.test_fraction},
            train_limit=self.train_limit,
            seed=self.seed,
            notes=(*documents.notes, *queries.notes, *notes),
        )
        return linked_splits(given, self.kind, encoder, self.max_length)

    def _file(self, name: str) -> Path:
        found = [self.path / each for each in (name, f"{name}.gz") if (self.path / each).is_file()]
        if not found:
            raise DataError(f"{self.path}: has no {name}, as in BEIR's data sets")
        return found[0]

    def _relevances(self, part: str) -> Path | None:
        """The file of a split's relevances; None if it is not named and there is none of the usual name."""
        name = getattr(self, part)
        folder = self.path / "qrels"
        path = folder / f"{name or _USUAL[part]}.tsv"
        if path.is_file():
            return path
        if name is not None:
            others = ", ".join(sorted(each.stem for each in folder.glob("*.tsv"))) or "none"
            raise DataError(f"{path}: does not exist (data.{part}); in {folder}: {others}")
        return None


@dataclass(frozen=True)
class _Named:
    """Texts of a file by their ids; those that are blank are only named."""

    path: Path
    texts: Mapping[str, str]
    blank: frozenset[str]
    notes: tuple[Note, ...]


def _texts(path: Path, *, titled: bool = False) -> _Named:
    columns = ["_id", "text"]
    if titled and "title" in column_names_of(path, columns):
        columns.append("title")
    read = read_columns(path, columns)
    lines: dict[str, int] = {}
    texts, blank = {}, set()
    for line, (name, *parts) in zip(read.lines, zip(*read.values, strict=True), strict=True):
        key = _name(name, f"{path}:{line}", "_id")
        if key in lines:
            raise DataError(f"{path}:{line}: the _id '{key}' also occurs in line {lines[key]}")
        lines[key] = line
        text = " ".join(str(each).strip() for each in reversed(parts) if each).strip()
        if text:
            texts[key] = text
        else:
            blank.add(key)
    if not texts:
        raise DataError(f"{path}: has no texts")
    notes = (Note(f"{path.name}: {counted(len(blank), 'text')} left out: blank", "dropped"),) if blank else ()
    return _Named(path, texts, frozenset(blank), notes)


def _table(path: Path, queries: _Named, documents: _Named, notes: list[Note]) -> Table:
    """Queries with their documents, and relevances as labels."""
    read = read_columns(path, _COLUMNS)
    items, labels, numbers, skipped = [], [], [], 0
    for line, (query, document, score) in zip(read.lines, zip(*read.values, strict=True), strict=True):
        place = f"{path}:{line}"
        names = (_name(query, place, _COLUMNS[0]), _name(document, place, _COLUMNS[1]))
        for name, known in zip(names, (queries, documents), strict=True):
            if name not in known.texts and name not in known.blank:
                raise DataError(f"{place}: '{name}' is not in {known.path.name}")
        relevance = _relevance(score, place)
        if names[0] in queries.blank or names[1] in documents.blank:
            skipped += 1
            continue
        items.append((queries.texts[names[0]], documents.texts[names[1]]))
        labels.append(relevance)
        numbers.append(line)
    without = {pair[0] for pair in items} - {
        pair[0] for pair, relevance in zip(items, labels, strict=True) if relevance > 0
    }
    for count, noun, why in (
        (len(without), "query", "no relevant document"),
        (skipped, "relevance", "query or document is blank"),
    ):
        if count:
            notes.append(Note(f"{path.name}: {counted(count, noun)} left out: {why}", "dropped"))
    return Table(path.name, str(path), tuple(items), tuple(labels), unit="line", numbers=tuple(numbers))


def _name(value: Any, place: str, column: str) -> str:
    if value is None or not str(value).strip():
        raise DataError(f"{place}: column '{column}' is empty")
    return str(value).strip()


def _relevance(value: Any, place: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not -1e9 < found < 1e9:
        raise DataError(f"{place}: the relevance '{value}' is not a number")
    return found
