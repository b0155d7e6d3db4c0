"""Sentence embedding: a vector for each text, judged by the vectors of the model before compression.

The metric is the overlap of nearest neighbours: of the 10 texts whose vectors have the highest cosine to
that of a test text, the share that is also among its 10 by the original model's vectors.
Shapes: b = batch, n = texts, q = texts whose neighbours are looked for, e = size of a vector.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compress.tasks.base import Logits, Task
from compress.tasks.embeddings.figures import reference_of, vector_figures
from compress.tasks.embeddings.neighbours import (
    NEIGHBOURS,
    cosines,
    kept_neighbours,
    nearest,
    neighbour_count,
)
from compress.tasks.embeddings.similarity import similarity_divergence
from compress.tasks.metrics.statistics import bootstrap_interval, mean_interval, wider
from compress.tasks.spec import (
    Breakdown,
    Difference,
    HubHead,
    InputSpec,
    Integers,
    LabelKind,
    Score,
    TaskWords,
    Truth,
)

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["SentenceEmbedding"]

_ANSWERS = "answers"
_SAME = 0.95  # vectors with a cosine of at least this count as the same
_SEED = 0


@dataclass(frozen=True)
class SentenceEmbedding(Task):
    """Vectors [b, e] of texts; labels are the original model's vectors, float32 [n, e], or unknown (NaN).

    Attributes:
        size: e; 0 until the model is known.
    """

    name = "embedding"
    rows = "labelled"
    words = TaskWords(
        model="sentence embedder",
        metric="neighbour overlap",
        unit="text",
        answer="vector",
        label="vector",
        summary="a vector per text, for search and clustering; needs texts only (CSV, JSONL, Parquet, .txt)",
        served="sentence embedders (sentence-transformers directories, or encoders with model.pooling)",
        hub_metric="neighbour_overlap",
        score=f"overlap of the {NEIGHBOURS} nearest neighbours",
        right="and keeps {} of the nearest neighbours",
        constant="random vectors",
    )
    heads = (
        HubHead(
            "text",
            "embedding",
            "AutoModel",
            (),
            "sentence-similarity",
            is_bare=True,
        ),
    )
    label_kind: ClassVar[LabelKind] = "none"
    answer_kind = "vectors"
    marker = "modules.json"
    further_outputs = ("last_hidden_state",)
    labels_from_model = True
    result: ClassVar[str] = 'vectors = session.run(["sentence_embedding"], feed)[0]  # [rows, dimensions]'

    output: str = "sentence_embedding"
    size: int = 0

    @property
    def classes(self) -> int:
        """Size of a vector."""
        return self.size

    @property
    def answer_shape(self) -> tuple[int | str, ...]:
        """The size of a vector."""
        return (self.size or "dimensions",)

    @classmethod
    def of_model(cls, inputs: tuple[InputSpec, ...], labels: Sequence[str] | None, vocabulary: int) -> Self:
        """The size is found when the model is run."""
        return cls(inputs)

    def misfit(self, shape: Sequence[int], rows: int, positions: int) -> str | None:
        """Any size of vectors fits."""
        if len(shape) == 2 and shape[0] == rows:
            return None
        return f"{rows} rows with {list(shape)}; vectors of texts must be [{rows}, size]"

    def widened(self, shape: Sequence[int]) -> Self:
        """With the size of these vectors."""
        return replace(self, size=int(shape[1]))

    # Labels

    @classmethod
    def label_names(cls, label: Any) -> tuple[str, ...]:
        """None: rows have no labels."""
        return ()

    @classmethod
    def stratum(cls, label: Any) -> Hashable | None:
        """None: rows have no labels."""
        return None

    @classmethod
    def encode_labels(cls, column: Sequence[Any], number: Mapping[str, int]) -> NDArray[Any]:
        """Unknown, [n, 1]."""
        return np.full((len(column), 1), np.nan, dtype=np.float32)

    def no_labels(self, rows: int) -> NDArray[Any]:
        """NaN, [n, e]."""
        return np.full((rows, max(self.size, 1)), np.nan, dtype=np.float32)

    @classmethod
    def occurring(cls, labels: Integers) -> set[int]:
        """Vectors are no classes."""
        return set()

    # Training

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """`divergence` from the labels that are known."""
        import torch

        if labels.ndim != logits.ndim:
            return logits.sum() * 0
        known = ~torch.isnan(labels).any(-1)
        if not bool(known.any()):
            return logits.sum() * 0
        return self.divergence(logits[known], labels[known].to(logits.dtype), 1.0)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """1 - cosine, plus the squared distance relative to the teacher's squared length; means over rows.

        Vectors of another size than the teacher's have no cosine to them: `similarity_divergence` instead.
        There is nothing for a temperature to soften.
        """
        from torch.nn import functional as F

        if student.shape[-1] != teacher.shape[-1]:
            return similarity_divergence(student, teacher)
        turned = (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()
        length = teacher.square().sum(-1).mean().clamp(min=1e-12)
        return turned + (student - teacher).square().sum(-1).mean() / length

    def kept_answers(self, logits: Tensor) -> dict[str, Tensor]:
        """The vectors, [b, e]."""
        return {_ANSWERS: logits}

    def divergence_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor], temperature: float) -> Tensor:
        """`divergence` from the vectors."""
        return self.divergence(logits, kept[_ANSWERS], temperature)

    def similarity_from_kept(self, logits: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """Divergence of the cosines among the texts of a batch."""
        return similarity_divergence(logits, kept[_ANSWERS])

    def draw(self, judged: Tensor, generator: Generator) -> Tensor:
        """Vectors with normal noise of their own size: the gradient of the loss then shows what moves them.

        At the model's own vectors it would be 0. The Fisher information of a normal distribution around them.
        """
        import torch

        vectors = judged.detach().float()
        noise = torch.randn(vectors.shape, generator=generator).to(vectors.device)
        return vectors + noise * vectors.square().mean().sqrt()

    def importance_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Drawn around the vectors, where the labels are unknown."""
        import torch

        if labels.ndim == logits.ndim and not bool(torch.isnan(labels.float()).any()):
            return labels
        return self.draw(logits, torch.Generator().manual_seed(_SEED))

    # Answers and scores

    def named(self, judged: Logits) -> Logits:
        """The vectors themselves."""
        return judged

    def truth(self, labels: NDArray[Any], label_lengths: Integers | None) -> Truth:
        """A vector for each row."""
        return Truth(labels, np.ones(len(labels), dtype=np.int64))

    def value(self, answers: NDArray[Any], truth: Truth) -> float:
        """Mean share of the nearest neighbours that are kept; 0 if the original's vectors are unknown."""
        count = neighbour_count(len(answers))
        if not count or np.isnan(truth.labels).any():
            return 0.0
        return float(kept_neighbours(answers, truth.labels).mean() / count)

    def change(self, before: NDArray[Any], after: NDArray[Any], truth: Truth) -> float:
        """Difference of the values; if the original is unknown, `before` is taken for it."""
        if np.isnan(truth.labels).any():
            known = Truth(before, truth.lengths)
            return self.value(after, known) - self.value(before, known)
        return super().change(before, after, truth)

    def same(self, one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether the cosine is at least 0.95; for other sizes, whether the nearest text is the same."""
        if one.shape[1] != other.shape[1]:
            alike: NDArray[np.bool_] = (nearest(one, 1) == nearest(other, 1)).all(axis=1)
            return alike
        return cosines(one, other) >= _SAME

    def correct(self, answers: NDArray[Any], truth: Truth) -> int | None:
        """Vectors are not right or wrong."""
        return None

    def score(self, answers: NDArray[Any], truth: Truth) -> Score:
        """The overlap with its bootstrap interval over texts."""
        kept = kept_neighbours(answers, truth.labels)
        count = max(neighbour_count(len(answers)), 1)
        value = self.value(answers, truth)
        made_up = np.array([min(kept.min(), count - 1), count])
        ends = _interval(kept, made_up, count, value, least=0.0)
        return self.scored(value, ends, truth, len(kept))

    def difference(self, baseline: NDArray[Any], candidate: NDArray[Any], truth: Truth) -> Difference:
        """Change of the overlap, with its paired interval; gained and lost are texts with more and less."""
        before, after = (kept_neighbours(each, truth.labels) for each in (baseline, candidate))
        count = max(neighbour_count(len(candidate)), 1)
        moved, value = after - before, self.change(baseline, candidate, truth)
        most = max(1, np.abs(moved).max())
        ends = _interval(moved, np.array([-most, most]), count, value, least=-1.0)
        counts = {"gained": int((moved > 0).sum()), "lost": int((moved < 0).sum())}
        found = self.compared(value, ends, (baseline, candidate), truth, len(moved))
        return found.model_copy(update=counts)

    def constant(self, truth: Truth) -> NDArray[Any]:
        """Random vectors: each neighbour is kept with probability k / (n - 1)."""
        draw = np.random.default_rng(_SEED)
        return draw.standard_normal(truth.labels.shape).astype(np.float32)

    def breakdown(
        self,
        baseline: NDArray[Any],
        candidate: NDArray[Any],
        truth: Truth,
        decisions: tuple[Mapping[str, float], Mapping[str, float]],
    ) -> Breakdown:
        """Cosine to the original's vectors, and the overlap of neighbourhoods of other sizes."""
        rows = []
        for each in vector_figures(baseline, candidate, truth):
            low, high = mean_interval(each.candidate)
            rows.append((each.name, *each.means, "" if each.is_tail else each.interval(low, high)))
        return Breakdown(
            title="Vectors compared with the original's",
            sentences=(
                f"{reference_of(candidate)} Intervals are 95 % intervals over texts, of the compressed "
                "model.",
            ),
            columns=("", "baseline", "compressed", "interval"),
            rows=tuple(rows),
        )

    # Sizes

    def numbers(self, units: int) -> int:
        """Those of a vector."""
        return max(self.size, 1)

    # Hugging Face

    def hub_entries(self) -> dict[str, Any]:
        """None: an encoder has no labels."""
        return {}

    @classmethod
    def snippet(cls, labels: Sequence[str], most: int, decision: Mapping[str, float]) -> list[str]:
        """Print the vector."""
        return ["print(vectors[0])"]


def _interval(
    kept: Integers, made_up: Integers, count: int, value: float, *, least: float
) -> tuple[float, float]:
    """The wider of the interval of the mean and of the same with two made-up texts; it holds the value.

    Args:
        kept: neighbours of each text, [q].
        made_up: the same of two further texts, so that the interval has a width where all are alike: one that
            loses and one that gains as much as any, or at least a neighbour.
        count: neighbours of a text.
    """

    def mean(sums: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = sums[:, 0] / sums[:, 1]
        return found

    def interval(each: Integers) -> tuple[float, float]:
        return bootstrap_interval(np.stack((each, np.full_like(each, count)), axis=1), mean)

    both = wider(interval(kept), interval(np.concatenate((kept, made_up))), least=least)
    return min(both[0], value), max(both[1], value)
