"""Inspection: what heads and neurons are worth for a task, as data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compress.facts import Record

__all__ = [
    "AttentionFacts",
    "HeadLook",
    "INSPECTION_FILES",
    "Inspection",
    "LayerHeads",
    "LayerNeurons",
    "Pair",
    "Point",
    "QuantizedGroup",
    "Sentence",
]

INSPECTION_FILES = ("inspection.json", "inspection.md", "inspection.html")


class Point(Record):
    """Validation accuracy with a number of units silenced, against the full model on the same rows.

    Attributes:
        accuracy: share of rows answered right.
        difference: accuracy minus the full model's.
        low: of the 95 % interval of the difference (paired, Tango 1998).
        high: of the same.
    """

    silenced: int
    accuracy: float
    difference: float
    low: float
    high: float

    @property
    def measurable(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


class LayerHeads(Record):
    """The heads of one layer.

    Attributes:
        name: path of the block.
        importance: Taylor scores, divided by the layer's L2 norm.
        needed: heads that the task needs (see `Inspection.need`), by index.
        curve: this layer alone, the least important heads silenced first; empty with --quick.
        likeness: linear CKA of each pair of heads.
    """

    layer: int
    name: str
    importance: tuple[float, ...]
    needed: tuple[int, ...]
    curve: tuple[Point, ...]
    likeness: tuple[tuple[float, ...], ...]


class LayerNeurons(Record):
    """How a layer's importance is spread over its feed-forward neurons.

    Attributes:
        top10: share of the importance that the top 10 % of neurons have.
        for90: fewest neurons that together have 90 % of it.
    """

    layer: int
    name: str
    neurons: int
    top10: float
    top25: float
    top50: float
    for90: int
    for99: int


class QuantizedGroup(Record):
    """What a group of layers costs when it alone is quantized.

    Attributes:
        name: paths of the layers.
        divergence: by scheme: KL from the float model's answers, mean over rows, in nats.
        difference: by scheme: change of accuracy on these rows.
    """

    name: str
    divergence: dict[str, float]
    difference: dict[str, float]


class HeadLook(Record):
    """Where one head looks: shares of its attention, which sum to 1.

    Attributes:
        position: index of the position that gets most, where all rows have the same positions; else none.
        position_share: what that one gets.
    """

    layer: int
    head: int
    itself: float
    first: float
    separator: float
    previous: float
    next: float
    other: float
    position: int | None = None
    position_share: float = 0.0

    @property
    def mostly(self) -> tuple[str, float]:
        """The place that gets most of it, and its share."""
        places = ("itself", "first", "separator", "previous", "next", "other")
        return max(((place, float(getattr(self, place))) for place in places), key=lambda item: item[1])


class Sentence(Record):
    """One validation row.

    Attributes:
        tokens: texts of the tokens, or numbers of the positions.
        maps: attention [h, s, s] of each layer of heads; in HTML only.
    """

    tokens: tuple[str, ...]
    maps: tuple[tuple[tuple[tuple[float, ...], ...], ...], ...] = Field(default=(), exclude=True)


class AttentionFacts(Record):
    """What each head looks at.

    Attributes:
        rows: validation rows over which the shares are taken.
        left_out: why there is no view; empty: there is one.
        first_token: what the first position holds, if it is the same in all rows.
    """

    rows: int
    looks: tuple[HeadLook, ...] = ()
    sentences: tuple[Sentence, ...] = ()
    left_out: str = ""
    first_token: str = "first position"


class Inspection(Record):
    """What `modelpress inspect` found.

    Attributes:
        command: what to type to have it again.
        calibration_rows: train rows, for importance and likeness.
        validation_rows: rows of every accuracy here.
        tokens: unpadded tokens of the calibration rows.
        evaluations: passes over the validation rows.
        max_drop: the accuracy that may be lost, as a share of 1.
        accuracy: of the full model.
        need: the point of `joint` with the most heads silenced that loses no more than `max_drop`.
        joint: heads of all layers together, the least important first.
        neuron_curve: the same for feed-forward neurons, with all heads on.
        quantization: groups of layers in the order of the forward pass; empty with --quick.
        quantization_rows: validation rows that these were tried on.
        notes: what a reader must know before trusting this, a sentence each.
    """

    schema_version: Literal[1] = 1
    name: str
    created: str
    modelpress_version: str
    command: str
    model: str
    data: str
    calibration_rows: int
    validation_rows: int
    tokens: int
    evaluations: int
    max_drop: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    need: Point
    heads: tuple[LayerHeads, ...]
    joint: tuple[Point, ...]
    neurons: tuple[LayerNeurons, ...]
    neuron_curve: tuple[Point, ...]
    attention: AttentionFacts
    quantization: tuple[QuantizedGroup, ...] = ()
    quantization_rows: int = 0
    notes: tuple[str, ...]
    seconds: float


class Pair(Record):
    """Two heads of a layer that write nearly the same."""

    layer: int
    first: int
    second: int
    cka: float
