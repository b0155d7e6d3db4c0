"""RunReport: what a run says of itself, as data. JSON, Markdown and HTML are written from this alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from compress.measure.results import Measurement

__all__ = ["SCHEMA_VERSION", "DataFacts", "EpochRecord", "ModelFacts", "Parity", "RunReport", "StageRecord"]

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EpochRecord(_Part):
    """One epoch of training: mean training loss, and loss and metric on validation."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_metric: float


class StageRecord(_Part):
    """One stage: what it was asked, what it did, and what that cost.

    Attributes:
        name: as in the recipe, e.g. prune/heads.
        settings: the stage's resolved settings.
        facts: what it did, name -> number, text, list or table (heads kept a layer, sparsity a tensor, schemes).
        curve: training epochs, where it trained.
        validation_metric: of the PyTorch model after the stage, on validation.
        parameters: numbers in the weights after the stage, quantized ones counted once each.
        reused: its result came from the cache; seconds and memory are those of the run that made it.
        peak_memory_bytes: peak resident memory of the process during the stage.
    """

    name: str
    settings: dict[str, Any]
    facts: dict[str, Any]
    curve: tuple[EpochRecord, ...]
    validation_metric: float
    parameters: int
    nonzero_parameters: int
    seconds: float
    peak_memory_bytes: int
    reused: bool


class Parity(_Part):
    """The ONNX file against the PyTorch model that it came from, on validation rows.

    Attributes:
        agreement: share of rows with the same predicted class.
        metric_difference: ONNX metric minus PyTorch metric on these rows.
        max_abs_error: largest difference of a logit.
    """

    rows: int
    agreement: float
    metric_difference: float
    max_abs_error: float
    min_agreement: float
    max_metric_difference: float


class ModelFacts(_Part):
    """The uncompressed model: where it came from and how large it is."""

    source: str
    parameters: int
    validation_metric: float
    training: tuple[EpochRecord, ...]
    parity: Parity


class DataFacts(_Part):
    """The rows: where from, how many, and the fingerprint of the test rows that the accuracy is measured on."""

    source: str
    train_rows: int
    validation_rows: int
    test_rows: int
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    test_fingerprint: str


class RunReport(_Part):
    """Everything that a run reports.

    Attributes:
        name: the run's name, that of its directory.
        recipe: the resolved recipe.
        command: what to type to have this run again.
        warnings: what a reader must know before trusting or shipping this, a sentence each.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    created: str
    modelpress_version: str
    command: str
    recipe: dict[str, Any]
    data: DataFacts
    model: ModelFacts
    stages: tuple[StageRecord, ...]
    parity: Parity
    measurement: Measurement
    warnings: tuple[str, ...]
    seconds: float = Field(ge=0)

    def save(self, path: Path) -> None:
        """Write as JSON, two spaces deep."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
