"""Detection of second texts: refused unless the recipe names the text column, or both for pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from compress.data.sources.label_columns import LabelColumns
from compress.data.table import listed
from compress.errors import DataError

__all__ = [
    "TextSource",
    "check_one_text",
    "column_names",
    "one_text_notes",
    "pair_labels",
    "second_texts",
    "unread_score_notes",
]

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
_SCORE_NAMES = {"label", "score", "similarity", "similarityscore", "relevance", "relatednessscore"}
# Labels of models for text pairs: textual entailment, paraphrases and duplicate questions.
_PAIR_LABELS = {
    "entailment",
    "contradiction",
    "not_entailment",
    "not_equivalent",
    "not_duplicate",
    "not_paraphrase",
}


class TextSource(Protocol):
    """What is asked of a source of texts; its `where` is named in errors."""

    @property
    def text(self) -> str | tuple[str, str]: ...

    @property
    def text_columns(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> LabelColumns: ...

    @property
    def where(self) -> object: ...

    @property
    def model_fields_set(self) -> set[str]: ...

    def columns(self) -> tuple[str, ...]: ...


def check_one_text(config: TextSource, label_order: Sequence[str] | None) -> None:
    """Check that rows have one text, or that the recipe names the columns of the texts to read.

    Args:
        label_order: the model's names by index, if it has any.

    Raises:
        DataError: if a column looks like a second text, or the model's labels are those of pairs, and the
            recipe doesn't name its text column.
    """
    if "text" in config.model_fields_set:
        return
    present, (text,) = column_names(config), config.text_columns
    second = second_texts(present, text=text, labels=config.labels.names)
    alone = text if text in present or not second else "NAME"
    one = f"if it was trained on one column alone, set data.text={alone}"
    if second:
        both = [*([text] if text in present else []), *second, "NAME"][:2]
        raise DataError(
            f"{config.where}: {_columns(second)}, but data.text is '{text}' by default, one text per row; if "
            f"the model reads pairs, set data.text=[{','.join(both)}] in its order; {one}"
        )
    of_pairs = pair_labels(label_order)
    if of_pairs:
        raise DataError(
            f"{config.where}: the model's labels ({listed(of_pairs)}) are for pairs of texts, but data.text "
            f"is '{text}' by default, one text per row; set data.text=[FIRST,SECOND] to the names of both "
            f"columns; {one}"
        )


def unread_score_notes(config: TextSource) -> tuple[str, ...]:
    """A caveat if pairs count as queries and documents although a column looks like their score."""
    if config.labels.kind != "relevances":
        return ()
    scores = [name for name in column_names(config) if _plain(name) in _SCORE_NAMES]
    if not scores:
        return ()
    return (
        f"column '{scores[0]}' is not read: each pair counts as a query and a document that is relevant to "
        f"it; if it has the scores of the pairs, set data.label={scores[0]}",
    )


def pair_labels(label_order: Sequence[str] | None) -> list[str]:
    """Those of a model's labels by which it must be one for pairs of texts."""
    return [name for name in label_order or () if name.lower().replace("-", "_") in _PAIR_LABELS]


def one_text_notes(config: TextSource) -> tuple[str, ...]:
    """Caveats for the report if one text of a pair was chosen."""
    if not isinstance(config.text, str):
        return ()
    second = second_texts(column_names(config), text=config.text, labels=config.labels.names)
    if not second:
        return ()
    return (
        f"only column '{config.text}' is read (data.text), although {_columns(second)}: if the model was "
        "trained on pairs, it gets half of its input, and all accuracies here are for that half",
    )


def second_texts(columns: Sequence[str], *, text: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Columns that look like a second text besides the one that is read."""
    stem = re.sub(r"(1|a|one|first|left)$", "", _plain(text)) or _plain(text)
    known = _SECOND_NAMES | {stem + ending for ending in _SECOND_ENDINGS}
    return tuple(name for name in columns if name not in (text, *labels) and _plain(name) in known)


def _plain(name: str) -> str:
    return re.sub(r"[ _-]", "", name.lower())


def column_names(config: TextSource) -> tuple[str, ...]:
    """Columns of a source's training rows; empty if they can't be read (its reader reports why)."""
    try:
        return config.columns()
    except Exception:  # from any library; the source's reader reports the error
        return ()


def _columns(names: Sequence[str]) -> str:
    quoted = listed([f"'{name}'" for name in names])
    return (
        f"columns {quoted} look like text pairs"
        if len(names) > 1
        else f"column {quoted} looks like a second text"
    )
