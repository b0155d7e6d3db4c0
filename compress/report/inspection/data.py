"""Inspection: importance of heads and neurons for a task, as data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compress.facts import Record
from compress.page.format import counted
from compress.tasks import TaskName
from compress.tasks.registry import class_by_metric
from compress.tasks.spec import TaskWords

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
    """The metric with a number of units silenced, compared with the full model on the same validation rows.

    Attributes:
        accuracy: the task's metric.
        difference: the metric minus the full model's.
        low: lower end of the paired 95 % interval of the difference.
        high: upper end of the interval.
    """

    silenced: int
    accuracy: float
    difference: float
    low: float
    high: float

    @property
    def measurable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


class LayerHeads(Record):
    """The heads of one layer.

    Attributes:
        name: path of the block.
        importance: Taylor scores, divided by the layer's L2 norm.
        needed: indices of the heads that the task needs (see `Inspection.need`).
        curve: this layer alone, least important heads silenced first; empty with --quick.
        likeness: linear CKA of each pair of heads.
    """

    layer: int
    name: str
    importance: tuple[float, ...]
    needed: tuple[int, ...]
    curve: tuple[Point, ...]
    likeness: tuple[tuple[float, ...], ...]


class LayerNeurons(Record):
    """Distribution of a layer's importance over its feed-forward neurons.

    Attributes:
        top10: share of the importance held by the top 10 % of neurons.
        for90: smallest number of neurons that together hold 90 % of it.
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
    """Effect of quantizing one group of layers alone.

    Attributes:
        name: paths of the layers.
        divergence: from the float model's outputs by scheme (`Task.divergence`: KL in nats for classes), mean
            over what is judged.
        difference: change of the metric on these rows, by scheme.
    """

    name: str
    divergence: dict[str, float]
    difference: dict[str, float]


class HeadLook(Record):
    """Where one head attends: shares of its attention, which sum to 1.

    Attributes:
        position: index of the most attended position, if all rows have the same positions; otherwise None.
        position_share: share of that position.
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
        """The category with the largest share, and its share."""
        places = ("itself", "first", "separator", "previous", "next", "other")
        return max(((place, float(getattr(self, place))) for place in places), key=lambda item: item[1])


class Sentence(Record):
    """One validation row.

    Attributes:
        tokens: token texts, or position numbers.
        maps: attention [h, s, s] of each layer; shown in HTML only.
    """

    tokens: tuple[str, ...]
    maps: tuple[tuple[tuple[tuple[float, ...], ...], ...], ...] = Field(default=(), exclude=True)


class AttentionFacts(Record):
    """Attention of every head.

    Attributes:
        rows: validation rows that the shares are averaged over.
        left_out: why attention is not available; empty if it is.
        first_token: content of the first position, if it is the same in all rows.
    """

    rows: int
    looks: tuple[HeadLook, ...] = ()
    sentences: tuple[Sentence, ...] = ()
    left_out: str = ""
    first_token: str = "first position"


class Inspection(Record):
    """Results of `modelpress inspect`.

    Attributes:
        task: its name.
        metric: the name of the metric, all values of which are called accuracy here.
        command: the command that repeats the inspection.
        calibration_rows: training rows used for importance and likeness.
        validation_rows: rows used for every value of the metric here.
        tokens: unpadded tokens in the calibration rows.
        evaluations: passes over the validation rows.
        units: what the metric counts in the validation rows.
        unit: name of one of these: row, token, query ...
        max_drop: how much of the metric may be lost.
        accuracy: the metric of the full model.
        need: the point of `joint` with the most heads silenced that loses no more than `max_drop`.
        joint: heads of all layers together, least important first.
        neuron_curve: the same for feed-forward neurons, with no head silenced.
        quantization: groups of layers in the order of the forward pass; empty with --quick.
        quantization_rows: validation rows used for `quantization`.
        notes: caveats, one sentence each.
    """

    schema_version: Literal[1] = 1
    name: str
    created: str
    modelpress_version: str
    command: str
    task: TaskName
    metric: str
    model: str
    data: str
    calibration_rows: int
    validation_rows: int
    units: int
    unit: str
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

    @property
    def words(self) -> TaskWords:
        """The task's terms."""
        return class_by_metric(self.task, self.metric).words

    @property
    def judged(self) -> str:
        """What the metric counts: `530 rows`, `4,210 tokens`."""
        return counted(self.units, self.unit)


class Pair(Record):
    """Two heads of a layer with nearly the same output."""

    layer: int
    first: int
    second: int
    cka: float
