"""Labelled texts from CSV, TSV, JSONL, Parquet and CoNLL files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from compress.data.paths import RecipePath, format_of
from compress.data.sources.label_columns import LabelColumns
from compress.data.sources.text_columns import labelled_table, unlabelled_table
from compress.data.sources.text_files import column_names_of, read_columns
from compress.data.sources.text_rows import TextRows
from compress.data.table import Table

__all__ = ["FileData", "read_text_file", "read_unlabelled_file"]


class FileData(TextRows):
    """Labelled texts from CSV, TSV, JSONL, Parquet or CoNLL files, by extension; all but Parquet also as .gz.

    CoNLL files (.conll, .bio; .conllu for CoNLL-U) have a line per word; their columns are named by number.

    A split without its own file is drawn from train, stratified by label and seeded.

    Attributes:
        train: the file of training rows.
        validation: that of validation rows; None: drawn from train.
        test: that of test rows; None: drawn from train.
        unlabelled: file of additional texts without labels: one of these formats, or a .txt with one text per
            line.
    """

    source: Literal["file"] = "file"
    train: RecipePath
    validation: RecipePath | None = None
    test: RecipePath | None = None
    unlabelled: RecipePath | None = None

    @property
    def where(self) -> Path:
        """The training file."""
        return self.train

    def columns(self) -> tuple[str, ...]:
        """Columns of train."""
        return column_names_of(self.train, self.text_columns)

    def tables(self) -> dict[str, Table]:
        """Read the files."""
        paths: dict[str, Path | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        if self.unlabelled_columns != self.text_columns and format_of(self.train) == ".txt":
            del paths["train"]
            return {
                "train": read_unlabelled_file(self.train, text=self.unlabelled_columns),
                **self._read(paths),
            }
        return self._read(paths)

    def _read(self, paths: Mapping[str, Path | None]) -> dict[str, Table]:
        return {
            part: read_text_file(path, text=self.text_columns, label=self.labels)
            for part, path in paths.items()
            if path is not None
        }

    def unlabelled_table(self) -> Table | None:
        """Read the file without labels."""
        if self.unlabelled is None:
            return None
        of_words = self.labels.of_words
        return read_unlabelled_file(self.unlabelled, text=self.unlabelled_columns, of_words=of_words)


def read_text_file(path: Path, *, text: str | Sequence[str], label: str | LabelColumns) -> Table:
    """Read the text columns (one or two) and label columns of a file; its extension determines the format.

    Raises:
        DataError: if the file, a column, a text or a label is missing, or it has an unsupported extension,
            encoding or syntax.
    """
    labels = LabelColumns((label,)) if isinstance(label, str) else label
    names = (text,) if isinstance(text, str) else tuple(text)
    read = read_columns(path, (*names, *labels.names), lines=not labels.names)
    return labelled_table(
        path.name,
        str(path),
        read.values[: len(names)],
        read.values[len(names) :],
        text=names,
        labels=labels,
        unit="line" if read.lines else "row",
        numbers=read.lines,
        notes=read.notes,
    )


def read_unlabelled_file(path: Path, *, text: str | Sequence[str], of_words: bool = False) -> Table:
    """Read the text columns (one or two) of a file, or the non-blank lines of a .txt, without labels.

    Args:
        of_words: texts may be lists of words.

    Raises:
        DataError: if the file, the column or a text is missing, or it has an unsupported extension, encoding
            or syntax.
    """
    names = (text,) if isinstance(text, str) else tuple(text)
    read = read_columns(path, names, lines=len(names) == 1)
    unit: Literal["line", "row"] = "line" if read.lines else "row"
    return unlabelled_table(
        path.name,
        str(path),
        read.values,
        names,
        of_words=of_words,
        unit=unit,
        numbers=read.lines,
        notes=read.notes,
    )
