"""Results of a stage that cuts to a budget: widths, promised gain, latency table and steps.

Stages may produce these records. Reports store them as plain facts, and each is parsed on its own: one that
is missing or malformed is skipped here, and shown like any other fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, model_validator

from compress.timing import Compared, Setting

__all__ = [
    "Asked",
    "Change",
    "Cost",
    "CostTable",
    "Cut",
    "CutSite",
    "CutStep",
    "Place",
    "Promised",
    "Search",
    "cut_of",
]


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Asked(_Fact):
    """The budget: `kind` is speedup, latency_ms, size_mb, macs or sparsity."""

    kind: str
    value: FiniteFloat = Field(gt=0)


class Place(Setting):
    """The setting of a latency, and the precision in which the models were timed."""

    model_config = ConfigDict(extra="ignore")

    precision: str = ""


class Promised(_Fact):
    """Predicted gain of the chosen widths, by table or by count; macs and sparsity are in [0, 1]."""

    speedup: FiniteFloat | None = Field(default=None, gt=0)
    latency_ms: FiniteFloat | None = Field(default=None, gt=0)
    size_mb: FiniteFloat | None = Field(default=None, gt=0)
    macs: FiniteFloat | None = None
    sparsity: FiniteFloat | None = None


class CutSite(_Fact):
    """One sub-layer: units before and units kept; 0 kept means it was removed."""

    name: str = ""
    kind: str
    layer: int
    before: int = Field(ge=0)
    kept: int = Field(ge=0)


class Change(_Fact):
    """A count before and after."""

    before: int = Field(gt=0)
    after: int = Field(ge=0)


class Cost(_Fact):
    """Latency of one kind of sub-layer by number of units.

    Attributes:
        shape: columns per unit and outputs of the sub-layer; distinguishes kinds that share a name.
        units: ascending.
        ms: one per entry of `units`.
    """

    kind: str
    shape: tuple[int, ...] = ()
    units: tuple[int, ...] = Field(min_length=1)
    ms: tuple[FiniteFloat, ...]

    @model_validator(mode="after")
    def _one_time_each(self) -> Self:
        if len(self.units) != len(self.ms) or list(self.units) != sorted(set(self.units)):
            raise ValueError("units must ascend, with one time each")
        return self


class CostTable(_Fact):
    """The latency table.

    Attributes:
        fixed_ms: time outside the sub-layers.
        dense_ms: the model before the cut.
        baseline_ms: the recipe's uncompressed model, if different.
    """

    fixed_ms: FiniteFloat
    dense_ms: FiniteFloat
    baseline_ms: FiniteFloat | None = None
    kinds: tuple[Cost, ...] = Field(min_length=1)
    machine: dict[str, Any] = Field(default_factory=dict)


class Search(_Fact):
    """Number of candidate widths evaluated, and the loss of the first and the best."""

    evaluations: int
    loss_first: float
    loss_best: float


class CutStep(_Fact):
    """One of several steps: its target in the budget's unit, and the validation metric after it."""

    target: FiniteFloat
    promised: FiniteFloat
    validation_cut: float | None = None
    validation_recovered: float | None = None


@dataclass(frozen=True)
class Cut:
    """The facts of one stage that could be parsed.

    Attributes:
        checked: the cut model, timed in alternation with the uncompressed one while pruning.
        read: names of the parsed facts, so that they are not shown again.
    """

    budget: Asked | None = None
    importance: str | None = None
    point: Place | None = None
    promised: Promised | None = None
    checked: Compared | None = None
    sites: tuple[CutSite, ...] = ()
    macs: Change | None = None
    parameters: Change | None = None
    latency_table: CostTable | None = None
    search: Search | None = None
    steps: tuple[CutStep, ...] = ()
    read: frozenset[str] = field(default_factory=frozenset)

    @property
    def asked(self) -> tuple[str, float] | None:
        """Kind and value of the promised gain: the budget, or without one the predicted gain."""
        if self.budget is not None:
            return (self.budget.kind, self.budget.value) if self.budget.kind in _MEASURED else None
        said = {} if self.promised is None else self.promised.model_dump(exclude_none=True)
        return next(((kind, said[kind]) for kind in _MEASURED if kind in said), None)

    @property
    def asked_kind(self) -> str:
        """The budget's kind; empty if unknown."""
        return self.budget.kind if self.budget is not None else self.asked[0] if self.asked else ""


_MEASURED = ("speedup", "latency_ms", "size_mb")
_SHAPES = {name: TypeAdapter(kind) for name, kind in get_type_hints(Cut).items() if name != "read"}
# Any of these identifies a stage that cuts to a budget; the others alone could be another stage's facts.
_TELLING = {"sites", "promised", "latency_table"}


def cut_of(facts: Mapping[str, Any]) -> Cut | None:
    """Parse a stage's facts; None if they are not those of a cut."""
    found: dict[str, Any] = {}
    for name, shape in _SHAPES.items():
        if facts.get(name) is not None:
            try:
                found[name] = shape.validate_python(facts[name])
            except ValidationError:
                continue  # not ours, or malformed: the report shows it like any other fact
    if not any(found.get(name) for name in _TELLING):
        return None
    return Cut(read=frozenset(found), **found)
