"""Base class for sources of rows with a text, or two, and a label: files and `datasets` directories."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from compress.data.pairs import check_one_text, one_text_notes
from compress.data.partition import distinct_from
from compress.data.readers.reader import Modality, Reader
from compress.data.readers.tokenize import TextEncoder, encoder_among
from compress.data.readers.word_encoding import Encoded, encode_words, encoder_of_words
from compress.data.source import DataSource
from compress.data.sources.label_columns import LabelColumns, says_task
from compress.data.split import Split
from compress.data.splits import Splits, assemble, table_of
from compress.data.table import Note, Table, Text, counted
from compress.tasks.spec import LabelKind

__all__ = ["TextRows"]


class TextRows(DataSource):
    """Rows of one text or two, with one, several or no labels, and additional texts without labels.

    Attributes:
        text: name of the text column; for pairs of texts a list of two, in the order of the model's input;
            for a label per word a column of lists of words.
        label: name of the label column; for several labels per row also a list: a column of 0 and 1 for each;
            for a label per word it holds lists of labels.
        label_separator: separates the labels of a row, if they are in one column of text.
        group: name of the column that says which rows are candidates of one query, such as its id.
        max_length: most tokens of a row; longer texts are truncated, of a pair the longer one first.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)  # columns may be named by number

    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("class", "classes", "tags", "number", "graded", "none")
    modality: ClassVar[Modality] = "text"

    text: str | tuple[str, str] = "text"
    label: str | Annotated[tuple[str, ...], Field(min_length=1)] = "label"
    label_separator: str | None = Field(default=None, min_length=1)
    group: str | None = Field(default=None, min_length=1)
    max_length: int = Field(default=128, ge=2)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Names of the text columns: one, or two for pairs."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def labels(self) -> LabelColumns:
        """Where the labels are."""
        if self.kind.label_kind == "none":
            return LabelColumns((), "none")
        names = (self.label,) if isinstance(self.label, str) else self.label
        names += () if self.group is None else (self.group,)
        return LabelColumns(names, self.kind.label_kind, self.label_separator)

    @model_validator(mode="after")
    def _labels_are_of_the_task(self) -> Self:
        if self.group is not None and not isinstance(self.label, str):
            raise ValueError("label must name one column, the relevance, because group is given")
        labels = self.labels
        if labels.kind == "none" and len(self.text_columns) > 1:
            raise ValueError(f"text: rows of the task {self.task} have one text; name one column")
        if len(set(self.text_columns)) < len(self.text_columns):
            raise ValueError(f"text names the column '{self.text[0]}' twice; name the columns of both texts")
        for key in ("label", "label_separator"):
            given = getattr(self, key) != type(self).model_fields[key].default
            if labels.kind == "none" and given:
                raise ValueError(f"{key}: rows of the task {self.task} have no labels; omit it")
        if not labels.several and (labels.declared or labels.separator):
            key = "label_separator" if labels.separator else "label"
            raise ValueError(f"{key} is for several labels per row; set {says_task()} too")
        if labels.declared and labels.separator:
            raise ValueError(
                "label_separator is for one column of labels, but label names several; give one of the two"
            )
        return self

    @model_validator(mode="after")
    def _words_are_of_one_text(self) -> Self:
        if self.labels.of_words and not isinstance(self.text, str):
            raise ValueError("text names two columns, but a label per word needs one column of words")
        return self

    @property
    @abstractmethod
    def where(self) -> object:
        """Location of the data, for errors."""

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns of the training rows."""

    @abstractmethod
    def tables(self) -> dict[str, Table]:
        """Read train, and validation and test if given.

        Raises:
            DataError: if a file, split, column, text or label is missing.
        """

    @abstractmethod
    def unlabelled_table(self) -> Table | None:
        """Read the rows without labels; None if not given.

        Raises:
            DataError: if a file, split, column or text is missing.
        """

    def notes(self) -> tuple[str, ...]:
        """Caveats for the report if one text of a pair was chosen."""
        return one_text_notes(self)

    def read(self, reader: Reader | None, label_order: Sequence[str] | None) -> Splits:
        """See `DataSource.read`."""
        encoder = encoder_among(reader, texts=len(self.text_columns))
        check_one_text(self, label_order)
        tables = self.tables()
        parts = self.divided(tables)
        texts = {part: _texts(table_of(tables, part), picked) for part, picked in parts.indices.items()}
        if self.labels.of_words:
            encoder = encoder_of_words(encoder)
        encoded: dict[str, Encoded] = {}
        notes = tuple(note for table in tables.values() for note in table.notes)
        for part, raw in texts.items():
            encoded[part], more = self._encoded(encoder, part, raw)
            notes += more
        splits = assemble(
            self.kind,
            tables,
            parts,
            {part: found.rows for part, found in encoded.items()},
            encoder.inputs,
            label_order,
            texts=texts,
            places={part: found.places for part, found in encoded.items() if found.places is not None},
            notes=notes,
            reader=encoder,
        )
        further = self.unlabelled_table()
        return splits if further is None else self._with_unlabelled(splits, further, encoder)

    def _with_unlabelled(self, splits: Splits, table: Table, encoder: TextEncoder) -> Splits:
        """Add the rows without labels in the same encoding, except those in validation or test."""
        picked, notes = distinct_from(table, (*splits.validation.texts, *splits.test.texts))
        texts = _texts(table, picked)
        encoded, more = self._encoded(encoder, "unlabelled", texts)
        return replace(
            splits,
            source=f"{splits.source}, {table.name} ({counted(len(table), 'row')} without labels)",
            notes=splits.notes + table.notes + notes + more,
            unlabelled=Split.without_labels("unlabelled", encoded.rows, encoder.inputs, texts),
        )

    def _encoded(
        self, encoder: TextEncoder, part: str, texts: Sequence[Text]
    ) -> tuple[Encoded, tuple[Note, ...]]:
        if self.labels.of_words:
            found = encode_words(encoder, cast("Sequence[str]", texts), max_length=self.max_length)
            return found, found.notes(part, self.max_length)
        rows, cut = encoder.encode(texts, max_length=self.max_length)
        noun = "texts" if isinstance(self.text, str) else "pairs"
        line = f"{part}: {cut} of {len(texts)} {noun} truncated to {self.max_length} tokens (max_length)"
        return Encoded(rows), (Note(line, "cut"),) if cut else ()


def _texts(table: Table, picked: NDArray[np.int64]) -> tuple[Text, ...]:
    items = (table.items[index] for index in picked)
    return tuple(item for item in items if not isinstance(item, bytes))
