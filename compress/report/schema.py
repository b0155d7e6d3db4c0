"""RunReport: the results of a run, as data; the only input for JSON, Markdown and HTML."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from compress.errors import OutputError
from compress.facts import Parity, Record, Saturation, StageFacts, read_facts
from compress.measure.results import Floor, Measurement, Rung
from compress.system.files import parse_json, read_regular

__all__ = [
    "DataFacts",
    "EpochRecord",
    "GateRecord",
    "ModelFacts",
    "PartSize",
    "REPORT_FILE",
    "REPORT_PAGE",
    "RunReport",
    "SCHEMA_VERSION",
    "StageRecord",
    "load_report",
]

REPORT_FILE = "report.json"
REPORT_PAGE = "report.html"

SCHEMA_VERSION = 2


class EpochRecord(Record):
    """One epoch of training: mean training loss, and validation loss and metric.

    Attributes:
        epoch: from 1.
        train_loss: mean over the training rows.
        validation_loss: mean over the validation rows.
        validation_metric: the task's metric on the validation rows.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_metric: float


class StageRecord(Record):
    """One stage: its settings, results and cost.

    Attributes:
        nonzero_parameters: of these weights, those that are not zero.
        seconds: duration of the stage.
        name: as in the recipe, e.g. prune/heads.
        settings: the stage's resolved settings.
        facts: results by name: numbers, texts, lists or tables (heads kept per layer, sparsity per tensor,
            schemes).
        curve: training epochs, if it trained.
        validation_metric: of the PyTorch model after the stage.
        parameters: number of weights after the stage, each quantized weight counted once.
        reused: the result came from the cache; seconds and memory are those of the original run.
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

    @property
    def known(self) -> StageFacts:
        """The facts, typed where a section shows them."""
        return read_facts(self.facts)


class GateRecord(Record):
    """One gate and its measurement.

    Attributes:
        name: as in the recipe.
        limit: in the gate's unit (a share, a ratio, MB, ms).
        value: measured value in that unit; None: not measured at the gate's setting.
        bound: the worse end of its 95 % interval; None: no interval.
        where: the setting of a latency.
        holds: whether bound (or value, without a bound) is within the limit, as far as it was judged.
        not_judged: why the gate neither holds nor fails; empty if it was judged.
    """

    name: str
    limit: float
    value: float | None
    bound: float | None = None
    where: str = ""
    holds: bool
    not_judged: str = ""

    @property
    def fails(self) -> bool:
        """Whether it was judged and does not hold."""
        return not self.holds and not self.not_judged

    @property
    def is_unproven(self) -> bool:
        """Whether the value is within the limit, but the worse end of its interval is not."""
        if self.value is None or self.holds or self.not_judged:
            return False
        return (
            self.value >= self.limit if self.name.startswith(("min_", "above_")) else self.value <= self.limit
        )


class PartSize(Record):
    """Stored weight bytes of one part (embeddings, attention, feed-forward, rest).

    Attributes:
        name: of the part.
        baseline_bytes: in the uncompressed model.
        candidate_bytes: in the result.
    """

    name: str
    baseline_bytes: int
    candidate_bytes: int


class ModelFacts(Record):
    """The uncompressed model: its source and size.

    Attributes:
        source: file, directory or name.
        parameters: number of weights.
        validation_metric: of the PyTorch model.
        training: training epochs, if it was trained.
        parity: its ONNX file compared with the PyTorch model.
        precision: training precision; empty: not trained, or the report is from an older modelpress.
    """

    source: str
    parameters: int
    validation_metric: float
    training: tuple[EpochRecord, ...]
    precision: str = ""
    parity: Parity


class DataFacts(Record):
    """The data: source, number of rows, and fingerprint of the test rows that accuracy is measured on.

    Attributes:
        source: file, directory or name.
        train_rows: rows to train and calibrate on.
        validation_rows: rows that choices are made on.
        test_rows: rows that accuracy is measured on; no stage sees them.
        labels: class names, in the order of the model's outputs.
        notes: caveats on what was read, such as dropped duplicates.
        test_fingerprint: equal in reports that were measured on the same test rows.
    """

    source: str
    train_rows: int
    validation_rows: int
    test_rows: int
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    test_fingerprint: str


class RunReport(Record):
    """The full report of a run.

    Attributes:
        schema_version: of this format.
        created: date and time, ISO 8601.
        modelpress_version: version that wrote the report.
        data: the rows.
        model: the uncompressed model.
        stages: the stages, in order.
        parity: the ONNX file of the result compared with its PyTorch model.
        measurement: accuracy, latency, size and memory of baseline and candidate.
        seconds: duration of the run.
        name: the run's name, which is also that of its directory.
        recipe: the resolved recipe.
        command: the command that repeats this run.
        warnings: caveats, one sentence each; those about the measurement itself are in its `noise`.
        saturation: of int8 products on processors without VNNI; None: there are none, or the report is from
            before this was counted.
        parts: weight bytes by part; empty in reports from before they were counted.
        ladder: the uncompressed model and the model after each stage; empty: not requested, or one stage.
        gates: the recipe's gates, judged by this measurement.
        floor: what is reached without a Transformer; None: not measured, or an older report.
        promise: whether the last stage met its target for speed-up, latency or size; unknown: not measured at
            that setting, or the machine was not quiet; None: no target, or an older report.
    """

    schema_version: Literal[2] = 2
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
    saturation: Saturation | None = None
    parts: tuple[PartSize, ...] = ()
    ladder: tuple[Rung, ...] = ()
    gates: tuple[GateRecord, ...] = ()
    floor: Floor | None = None
    promise: Literal["kept", "missed", "unknown"] | None = None
    seconds: float = Field(ge=0)

    def save(self, path: Path) -> None:
        """Write as JSON, indented by two spaces."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_report(path: Path) -> RunReport:
    """Read a report from its file, or from the directory that contains report.json.

    Raises:
        OutputError: no report, invalid, or written by a newer modelpress.
    """
    file = path / REPORT_FILE if path.is_dir() else path
    try:
        text = read_regular(file).decode("utf-8")
        with contextlib.suppress(ValidationError):  # most reports are valid; errors are reported below
            return _noise_once(RunReport.model_validate_json(text))
        content = parse_json(text)
    except FileNotFoundError as error:
        raise OutputError(
            f"{path}: no {REPORT_FILE} here; give the directory of a run, or a report file"
        ) from error
    except OSError as error:
        raise OutputError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise OutputError(f"{file}: invalid JSON: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise OutputError(f"{file}: not a modelpress report: schema_version is missing")
    if version > SCHEMA_VERSION:
        raise OutputError(
            f"{file}: schema_version {version} is newer than {SCHEMA_VERSION}, the latest that this "
            "version of modelpress can read; update modelpress"
        )
    try:
        return _noise_once(RunReport.model_validate(_from_version_1(content) if version == 1 else content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise OutputError(
            f"{file}: not a valid report: {key}: {first['msg']} ({error.error_count()} errors)"
        ) from error


def _noise_once(report: RunReport) -> RunReport:
    """The report with `noise` removed from its warnings, which used to repeat it."""
    warnings = tuple(text for text in report.warnings if text not in report.measurement.noise)
    return report if warnings == report.warnings else report.model_copy(update={"warnings": warnings})


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Convert version 1, where `rows` counts units (tokens of a language model), to rows and units."""
    measured: Any = content.get("measurement")
    ladder: Any = content.get("ladder", [])
    with contextlib.suppress(
        AttributeError, KeyError, TypeError, ZeroDivisionError
    ):  # validation reports what is missing
        language = measured.get("language")
        positions = 1 if language is None else language["tokens"] // language["rows"]
        counted = [
            measured["baseline"]["accuracy"],
            measured["candidate"]["accuracy"],
            measured["difference"],
        ]
        for each in (*counted, *(rung["change"] for rung in ladder)):
            each["units"] = each["rows"]
            each["rows"] = each["units"] // positions
        for rung in ladder:
            rung["rows"] //= positions
    return content | {"schema_version": 2}
