"""Recipe section for the losses of a training: which, with which weights, and when. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

__all__ = [
    "AttentionTerm",
    "ContrastiveTerm",
    "EmbeddingTerm",
    "HiddenTerm",
    "LayerMap",
    "LogitsTerm",
    "LossConfig",
    "RelationsTerm",
    "Term",
    "WITHOUT_TEACHER",
]

_NEWER = ("lists", "margins", "contrastive", "similarity")
_ABOVE_0 = 5e-324  # the smallest number
WITHOUT_TEACHER = {"labels", "lists", "contrastive"}

LayerMap = Literal["uniform", "last"] | tuple[int, ...]
"""Teacher layer for each student layer: evenly spread, only last with last, or an explicit list."""


class Term(BaseModel):
    """One loss; a bare number in a recipe is its weight.

    Attributes:
        weight: factor of the loss; 0 disables it.
        between: part of the training in which the loss is active, as fractions of its steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(default=1.0, ge=0, le=1e6)
    between: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_a_weight(cls, given: Any) -> Any:
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        return {"weight": given} if is_number else given

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        begin, end = self.between
        if not 0 <= begin < end <= 1:
            raise ValueError(
                "between must be two ascending fractions of the training, such as [0, 0.5]; got "
                f"[{begin:g}, {end:g}]"
            )
        return self

    def counts_at(self, done: float) -> bool:
        """Whether the loss is active after this fraction of the training."""
        begin, end = self.between
        return self.weight > 0 and (begin <= done < end or (done >= 1 and end == 1))


class LogitsTerm(Term):
    """KL divergence from the teacher's outputs; their squared distance where answers are numbers.

    Attributes:
        temperature: softens both distributions.
    """

    temperature: float = Field(default=2.0, gt=0, le=100)


class HiddenTerm(Term):
    """Distance of hidden states, token by token; projected if widths differ.

    Attributes:
        layers: teacher layers (from 0) for the student's layers.
    """

    layers: LayerMap = "uniform"


class AttentionTerm(Term):
    """KL divergence of attention maps, averaged over heads if the numbers of heads differ.

    Attributes:
        layers: teacher layers (from 0) for the student's layers.
    """

    layers: LayerMap = "uniform"


class RelationsTerm(Term):
    """MiniLMv2: relations between positions by queries, keys and values of one layer.

    Attributes:
        heads: relation heads, a divisor of both widths; None uses the largest, up to 48.
        teacher_layer: from 0, or from the end with -1; the student's is its last.
    """

    heads: int | None = Field(default=None, ge=1)
    teacher_layer: int = -1


class EmbeddingTerm(Term):
    """Cosine distance of sentence embeddings, the mean of the last hidden states."""


class ContrastiveTerm(Term):
    """Texts that belong together are nearer than the other texts of a batch (multiple negatives, InfoNCE).

    Attributes:
        temperature: cosines are divided by it.
        least: lowest score of texts that belong together; None: any relevance above 0. Pairs with scores need
            it.
    """

    temperature: float = Field(default=0.05, gt=0, le=10)
    least: float | None = None


class LossConfig(BaseModel):
    """The losses of one training; those left out are disabled.

    Attributes:
        labels: the task's own loss; ignores rows without labels.
        lists: list-wise softmax over the candidates of a query, from their relevances (reranking).
        margins: differences of two scores of a query, as the teacher's: margin MSE (reranking).
        contrastive: texts that belong together against the others of a batch (embedding of pairs, or of
            queries and documents).
        logits: KL divergence from the teacher's outputs; their squared distance where answers are numbers.
        similarity: likeness of the texts in a batch by their vectors, as the teacher's (embedding).
        hidden: distance of hidden states, token by token.
        attention: KL divergence of attention maps.
        relations: relations between positions by queries, keys and values of one layer (MiniLMv2).
        embedding: cosine distance of sentence embeddings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Term | None = None
    lists: Term | None = None
    margins: Term | None = None
    contrastive: ContrastiveTerm | None = None
    logits: LogitsTerm | None = None
    similarity: Term | None = None
    hidden: HiddenTerm | None = None
    attention: AttentionTerm | None = None
    relations: RelationsTerm | None = None
    embedding: EmbeddingTerm | None = None

    @model_serializer(mode="wrap")
    def _without_newer_keys(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes that were stored before these keys existed must stay equal to what they load as.
        found: dict[str, Any] = plain(self)
        return {name: term for name, term in found.items() if name not in _NEWER or term is not None}

    @model_validator(mode="after")
    def _always_something(self) -> Self:
        terms = self.terms()
        moments = sorted({0.0, *(edge for term in terms.values() for edge in term.between)} - {1.0})
        for moment in moments:
            if not any(term.counts_at(moment) for term in terms.values()):
                raise ValueError(
                    f"no loss is active after {moment:.0%} of the training; give one a weight above 0 and a "
                    "`between` that covers it"
                )
        return self

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss compares with a teacher, and not only with labels."""
        return not set(self.terms()) <= WITHOUT_TEACHER

    @property
    def least(self) -> float | None:
        """Lowest score of rows that are in one batch, because a loss joins them; None: none does."""
        if self.contrastive is None or "contrastive" not in self.terms():
            return None
        return _ABOVE_0 if self.contrastive.least is None else self.contrastive.least

    @property
    def of_groups(self) -> tuple[str, ...]:
        """The losses over candidates of a group."""
        return tuple(name for name in ("lists", "margins") if name in self.terms())

    @property
    def of_vectors(self) -> tuple[str, ...]:
        """The losses over vectors of texts."""
        return tuple(name for name in ("similarity",) if name in self.terms())

    def terms(self) -> dict[str, Term]:
        """Losses with a weight above 0, by name."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: term for name, term in given.items() if term is not None and term.weight > 0}
