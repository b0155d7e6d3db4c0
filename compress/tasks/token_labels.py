"""Token labels: a tag for each word of a text, such as named entities or parts of speech.

A word's tag is that of its first token; other tokens, special ones and padding have none. If all tags name
parts of entities or `O`, the metric is the F1 of entities (see `entities`), else the share of words with the
right tag.
Words of a sentence depend on each other, so intervals are over sentences.
Shapes: n = rows, b = batch, s = positions, c = tags, u = words, k = counts.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from compress.tasks.base import Logits
from compress.tasks.class_gates import CLASS_GATES
from compress.tasks.metrics.by_class import ByClass, ClassWords
from compress.tasks.metrics.entities import (
    Scheme,
    each_word,
    entity_counts,
    entity_f1,
    right_by_all,
    scheme_of,
)
from compress.tasks.metrics.statistics import interval_with
from compress.tasks.softmax import OneOfSeveral, softmax_divergence
from compress.tasks.spec import (
    NO_LABEL,
    Breakdown,
    Difference,
    HubHead,
    InputSpec,
    Integers,
    Score,
    TaskWords,
    Truth,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TokenLabels"]

_ANSWERS = "answers"
_ENTITIES = TaskWords(
    model="token classifier",
    metric="entity F1",
    score="entity F1",
    right="with an entity F1 of {}",
    constant="giving every word the same tag",
    unit="word",
    answer="tag",
    label="tag",
    summary=(
        "a tag per word: named entities, parts of speech (data.task=token-labels); lists of words and tags "
        "(JSONL, Parquet, datasets), CoNLL, CoNLL-U"
    ),
    served="token classifiers (data.task=token-labels)",
    hub_metric="f1",
)
_TAGS = replace(
    _ENTITIES,
    metric="token accuracy",
    score="token accuracy",
    right="and is right on {}",
    hub_metric="accuracy",
)


@dataclass(frozen=True)
class TokenLabels(OneOfSeveral):
    """A tag per word; logits [b, s, c], labels int64 [b, s], `NO_LABEL` except at first tokens of words."""

    name = "token-labels"
    rows = "labelled"
    words = _ENTITIES
    heads = (
        HubHead(
            "text",
            "token-labels",
            "AutoModelForTokenClassification",
            ("ForTokenClassification",),
            "token-classification",
            what="gives each word of a text a tag, not the text a class",
            shares_names=True,
        ),
    )
    label_kind = "tags"
    gates = CLASS_GATES
    result = "logits = session.run(None, feed)[0]  # [rows, tokens, labels]"
    units_are_rows = False

    def __post_init__(self) -> None:
        """Name the metric that these tags have."""
        if self.labels and self.scheme is None:
            object.__setattr__(self, "words", _TAGS)

    @cached_property
    def scheme(self) -> Scheme | None:
        """How the tags name entities; None if they don't."""
        return scheme_of(self.labels)

    @property
    def answer_shape(self) -> tuple[int | str, ...]:
        """One number per position and tag."""
        return ("sequence_length", self.classes)

    @classmethod
    def of_model(cls, inputs: tuple[InputSpec, ...], labels: Sequence[str] | None, vocabulary: int) -> Self:
        """With the tags that the model defines."""
        return cls(inputs, tuple(labels or ()))

    def misfit(self, shape: Sequence[int], rows: int, positions: int) -> str | None:
        """As many answers as positions, of as many numbers as tags."""
        if tuple(shape) == (rows, positions, self.classes):
            return None
        return (
            f"{rows} rows of {positions} positions with logits of shape {list(shape)}; the data has "
            f"{self.classes} tags ({', '.join(self.labels[:8])}), so they must be "
            f"[{rows}, {positions}, {self.classes}]"
        )

    # Labels

    @classmethod
    def label_names(cls, label: Any) -> tuple[str, ...]:
        """The different tags of a row."""
        return tuple(dict.fromkeys(label))

    @classmethod
    def stratum(cls, label: Any) -> Hashable | None:
        """None: a row has several tags."""
        return None

    @classmethod
    def encode_labels(cls, column: Sequence[Any], number: Mapping[str, int]) -> Integers:
        """Tags of the words, [n, most words], padded with `NO_LABEL`."""
        found = np.full((len(column), max(map(len, column), default=0)), NO_LABEL, dtype=np.int64)
        for row, tags in enumerate(column):
            found[row, : len(tags)] = [number[tag] for tag in tags]
        return found

    def stand_ins(self, lengths: Integers) -> tuple[Integers, Integers | None]:
        """The first tag at each position."""
        labels = np.where(np.arange(lengths.max(initial=0)) < lengths[:, None], 0, NO_LABEL)
        return labels.astype(np.int64), lengths

    # Training

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the tagged positions."""
        if labels.ndim == 1 or not labels.numel():  # rows without tags
            return logits.sum() * 0
        return super().loss(logits[:, : labels.shape[1]], labels)

    def kept_answers(self, logits: Tensor) -> dict[str, Tensor]:
        """All logits, [b, s, c]."""
        return {_ANSWERS: logits}

    def divergence_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], temperature: float) -> Tensor:
        """`softmax_divergence` over all positions."""
        return softmax_divergence(logits, kept[_ANSWERS], temperature)

    def batch_divergence(
        self,
        logits: Tensor,
        kept: Mapping[str, Tensor],
        labels: Tensor,
        mask: Tensor | None,
        temperature: float,
    ) -> Tensor:
        """Over first tokens of words; of rows whose words have no tags, over all that are no padding."""
        import torch

        units = torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device)
        if labels.ndim > 1:
            units[:, : labels.shape[1]] = labels != NO_LABEL
        known = units.any(dim=1, keepdim=True)
        units = torch.where(known, units, torch.ones_like(units) if mask is None else mask.bool())
        return softmax_divergence(logits[units], kept[_ANSWERS][units], temperature)

    # Answers and scores

    @classmethod
    def judged(cls, logits: Logits, labels: Any) -> Logits:
        """The logits of tagged positions; of all, if the rows have no tags."""
        if labels.ndim == 1:
            return logits.reshape(-1, logits.shape[-1])
        width = min(logits.shape[1], labels.shape[1])
        found: Logits = logits[:, :width][labels[:, :width] != NO_LABEL]
        return found

    def value(self, answers: NDArray[Any], truth: Truth) -> float:
        """F1 of all entities, or the share of right tags."""
        if self.scheme is None:
            return super().value(answers, truth)
        counts = entity_counts(self.scheme, answers, truth.labels, truth.lengths)
        return float(entity_f1(counts.sum(axis=(0, 1))))

    def change(self, before: NDArray[Any], after: NDArray[Any], truth: Truth) -> float:
        """Difference of the two."""
        if self.scheme is None:
            return super().change(before, after, truth)
        return self.value(after, truth) - self.value(before, truth)

    def score(self, answers: NDArray[Any], truth: Truth) -> Score:
        """With its interval over sentences."""
        if self.scheme is None:
            return super().score(answers, truth)
        counts = entity_counts(self.scheme, answers, truth.labels, truth.lengths).sum(axis=1)
        value = self.value(answers, truth)
        ends = interval_with(counts, _made_up(counts), entity_f1, value, least=0.0)
        return self.scored(value, ends, truth)

    def difference(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Difference:
        """With its paired interval over sentences; gained and lost are words."""
        if self.scheme is None:
            return super().difference(baseline, candidate, truth)
        before, after = (
            entity_counts(self.scheme, each, truth.labels, truth.lengths).sum(axis=1)
            for each in (baseline, candidate)
        )
        value = self.change(baseline, candidate, truth)
        return self.compared(value, _change_interval(before, after, value), (baseline, candidate), truth)

    def constant(self, truth: Truth) -> NDArray[Any]:
        """The tag that, given to every word, has the best metric; of several, the most common one."""
        tags, counts = np.unique(truth.labels, return_counts=True)
        in_order = tags[np.argsort(-counts, kind="stable")]
        if self.scheme is None:
            return np.full_like(truth.labels, in_order[0])
        tried = [np.full_like(truth.labels, tag) for tag in in_order]
        return max(tried, key=lambda answers: self.value(answers, truth))

    def by_class(self, truth: Truth, *answers: NDArray[Any]) -> ByClass:
        """Sentences by the types of their entities, or by the tags of their words."""
        scheme, words = each_word(self.labels), ClassWords("tag", "words", self.labels)
        if self.scheme is not None:
            scheme, words = self.scheme, ClassWords("entity type", "entities", self.scheme.types)
        counts = [entity_counts(scheme, each, truth.labels, truth.lengths) for each in answers]
        both = right_by_all(scheme, answers, truth.labels, truth.lengths)
        models = [(each[..., 0], each[..., 1]) for each in counts]
        return ByClass.of_counts(counts[0][..., 2], models, both, words)

    def breakdown(
        self,
        baseline: NDArray[Any],
        candidate: NDArray[Any],
        truth: Truth,
        decisions: tuple[Mapping[str, float], Mapping[str, float]],
    ) -> Breakdown:
        """F1, precision and recall of each type of entity, or of each tag, and macro F1."""
        scheme = self.scheme or each_word(self.labels)
        before, after = (
            entity_counts(scheme, each, truth.labels, truth.lengths) for each in (baseline, candidate)
        )
        return self.by_class(truth, baseline, candidate).breakdown(
            _COUNTED if self.scheme is None else _SPANS,
            "Changes are in points of F1, with 95 % intervals over sentences.",
            columns=("baseline F1", "F1", "change (95 %)", "precision", "recall"),
            line=lambda at: _line(before[:, at], after[:, at]),
        )

    # Hugging Face

    @classmethod
    def manifest_score(cls, measurement: Any, how: str, length: int) -> dict[str, Any]:
        """Also the number of words."""
        found = super().manifest_score(measurement, how, length)
        return {**found, "words": measurement.candidate.accuracy.units}

    @classmethod
    def snippet(cls, labels: Sequence[str], most: int, decision: Mapping[str, float]) -> list[str]:
        """Print the entities, or each word with its tag."""
        named = [f"labels = {json.dumps(list(labels), ensure_ascii=False)}"]
        if len(labels) > most:
            named = [
                "import json",
                "",
                'labels = json.load(open("manifest.json", encoding="utf-8"))["labels"]',
            ]
        lines = [
            *named,
            "tags = {}  # of each word, that of its first token",
            "for word, answer in zip(encoding.word_ids, logits[0].argmax(-1)):",
            "    if word is not None:",
            "        tags.setdefault(word, labels[answer])",
        ]
        if scheme_of(labels) is None:
            return [*lines, "print([(words[word], tag) for word, tag in tags.items()])"]
        return [*lines, *_ENTITY_LINES]


_COUNTED = "Precision and recall of each tag are over words."
_SPANS = (
    "An entity is right if its type, first and last word are (as in seqeval's default mode and conlleval)."
)
_ENTITY_LINES = """\
entities, previous, kind = [], "O", None
for word, tag in tags.items():
    follows = tag[0] in "IEL" and previous in "BI" and tag[2:] == kind
    previous, kind = tag[0], tag[2:]
    if follows:
        entities[-1][1].append(words[word])
    elif tag != "O":
        entities.append((kind, [words[word]]))
print([(kind, " ".join(found)) for kind, found in entities])""".splitlines()


def _made_up(counts: Integers) -> Integers:
    """Counts of a row with the usual number of entities, right throughout, and of one that finds none."""
    usual = max(1, round(float(counts[:, 2].mean())))
    return np.array([[usual, usual, usual], [0, usual, usual]])


def _change_interval(before: Integers, after: Integers, value: float) -> tuple[float, float]:
    good, bad = _made_up(before)
    made_up = np.stack((np.append(good, bad), np.append(bad, good)))
    return interval_with(np.concatenate((before, after), axis=1), made_up, _change_of_f1, value, least=-1.0)


def _change_of_f1(sums: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = entity_f1(sums[:, 3:]) - entity_f1(sums[:, :3])
    return found


def _line(before: Integers, after: Integers) -> tuple[str, ...]:
    """Figures of a type of entity, or tag; counts [n, 3] each."""
    old, new = before.sum(axis=0), after.sum(axis=0)
    if not new[1] + new[2] + old[1]:
        return ("-", "-", "-", "-", "-")
    value = float(entity_f1(new) - entity_f1(old))
    points = [100 * each for each in (value, *_change_interval(before, after, value))]
    change = f"{points[0]:+.1f} ({points[1]:+.1f} to {points[2]:+.1f})".replace("-", "−")
    f1 = f"{entity_f1(old):.3f}", f"{entity_f1(new):.3f}"
    return (*f1, change, _share(new[0], new[1]), _share(new[0], new[2]))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"
