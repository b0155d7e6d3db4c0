"""Rows that are pairs of texts: one text a row is read, so data of pairs are refused unless one is chosen."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path

from compress.data.config import DatasetsData, FileData
from compress.data.table import listed
from compress.errors import DataError

__all__ = ["check_one_text", "column_names", "one_text_notes", "second_texts"]

_SECOND_ENDINGS = ("2", "b", "two", "second", "right", "pair")
_SECOND_NAMES = {
    "hypothesis",
    "passage",
    "premise",
    "query",
    "question",
    "question1",
    "question2",
    "sentence1",
    "sentence2",
    "textpair",
    "text1",
    "text2",
    "texta",
    "textb",
}
# Of models that judge a pair: textual entailment, paraphrase and duplicate questions.
_PAIR_LABELS = {
    "entailment",
    "contradiction",
    "not_entailment",
    "not_equivalent",
    "not_duplicate",
    "not_paraphrase",
}
_SEPARATORS = (",", "\t", ";", "|")


def check_one_text(config: FileData | DatasetsData, label_order: Sequence[str] | None) -> None:
    """See that rows have one text, or that the recipe says which one of a pair is read.

    Args:
        label_order: the model's names by index, if it has some.

    Raises:
        DataError: a column looks like a second text, or the model's labels are those of pairs, and the
            recipe doesn't name its text column.
    """
    if "text" in config.model_fields_set:
        return
    where = config.train if isinstance(config, FileData) else config.name
    present = column_names(config)
    second = second_texts(present, text=config.text, label=config.label)
    alone = config.text if config.text in present or not second else "NAME"
    advice = f"if one column alone is what the model was trained on, name it: data.text={alone}"
    if second:
        raise DataError(
            f"{where}: {_columns(second)}: pairs of texts are not supported, one text a row is read "
            f"(data.text, by default '{config.text}'); {advice}"
        )
    of_pairs = [name for name in label_order or () if name.lower().replace("-", "_") in _PAIR_LABELS]
    if of_pairs:
        raise DataError(
            f"{where}: the model's labels ({listed(of_pairs)}) judge a pair of texts, and pairs are not "
            f"supported, one text a row is read; {advice}"
        )


def one_text_notes(config: object) -> tuple[str, ...]:
    """What a reader must know where one text of a pair was chosen."""
    if not isinstance(config, FileData | DatasetsData):
        return ()
    second = second_texts(column_names(config), text=config.text, label=config.label)
    if not second:
        return ()
    return (
        f"only column '{config.text}' is read (data.text), though {_columns(second)}: if the model was "
        "trained on pairs, it is given half of its input, and no accuracy here is that of the whole",
    )


def second_texts(columns: Sequence[str], *, text: str, label: str) -> tuple[str, ...]:
    """Which columns look like a second text beside the one that is read."""
    stem = re.sub(r"(1|a|one|first|left)$", "", _plain(text)) or _plain(text)
    known = _SECOND_NAMES | {stem + ending for ending in _SECOND_ENDINGS}
    return tuple(name for name in columns if name not in (text, label) and _plain(name) in known)


def _plain(name: str) -> str:
    return re.sub(r"[ _-]", "", name.lower())


def column_names(config: FileData | DatasetsData) -> tuple[str, ...]:
    """The columns of a source's training rows; empty where they can't be read, which its reader explains."""
    try:
        if isinstance(config, FileData):
            return _of_file(config.train, config.text)
        return _of_dataset(config)
    except Exception:  # of any library; the reader of the rows says what is wrong
        return ()


def _of_dataset(config: DatasetsData) -> tuple[str, ...]:
    from compress.data.sources.text import _open_datasets

    dataset = _open_datasets(config)
    return tuple((dataset[config.train] if isinstance(dataset, dict) else dataset).column_names)


def _of_file(path: Path, text: str) -> tuple[str, ...]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        try:
            import pyarrow.parquet as pq
        except ImportError:
            return ()
        return tuple(pq.read_schema(path).names)
    with (gzip.open if name.endswith(".gz") else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        first = file.readline()
    if name.removesuffix(".gz").endswith(".jsonl"):
        found = json.loads(first)
        return tuple(found) if isinstance(found, dict) else ()
    headers: list[list[str]] = [next(csv.reader([first], delimiter=each), []) for each in _SEPARATORS]
    found_header = next((each for each in headers if text in each), None)
    return tuple(found_header or sorted(headers, key=lambda each: -len(each))[0])


def _columns(names: Sequence[str]) -> str:
    quoted = listed([f"'{name}'" for name in names])
    return (
        f"columns {quoted} look like texts of pairs"
        if len(names) > 1
        else f"column {quoted} looks like a second text"
    )
