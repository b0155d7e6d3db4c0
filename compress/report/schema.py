"""RunReport: what a run reports, as data. JSON, Markdown and HTML are written from this alone."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from compress.errors import OutputError
from compress.facts import Parity, Record, Saturation, StageFacts, read_facts
from compress.measure.results import Measurement, Rung
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
    """One epoch of training: mean training loss, and loss and metric on validation."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_metric: float


class StageRecord(Record):
    """One stage: its settings, what it did, and what that cost.

    Attributes:
        name: as in the recipe, e.g. prune/heads.
        settings: the stage's resolved settings.
        facts: what it did, name -> number, text, list or table (heads kept a layer, sparsity a
            tensor, schemes).
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

    @property
    def known(self) -> StageFacts:
        """The facts, typed where a section shows them."""
        return read_facts(self.facts)


class GateRecord(Record):
    """One gate and what was measured.

    Attributes:
        name: as in the recipe.
        limit: in the gate's unit (a share, a ratio, MB, ms).
        value: what was measured, in that unit; None: not measured at the setting that the gate names.
        bound: the worse end of its 95 % interval; None: it has no interval.
        where: the setting of a latency.
        holds: whether bound, or else value, is within the limit, as far as was judged.
        not_judged: why it was not judged, which is neither to hold nor to fail; empty: it was.
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


class PartSize(Record):
    """Bytes of the stored weights of one part (embeddings, attention, feed-forward, rest)."""

    name: str
    baseline_bytes: int
    candidate_bytes: int


class ModelFacts(Record):
    """The uncompressed model: where it came from and how large it is.

    Attributes:
        precision: of its training; empty: it wasn't trained, or an older modelpress wrote the report.
    """

    source: str
    parameters: int
    validation_metric: float
    training: tuple[EpochRecord, ...]
    precision: str = ""
    parity: Parity


class DataFacts(Record):
    """The rows: where from, how many, and the fingerprint of the test rows that accuracy is measured on."""

    source: str
    train_rows: int
    validation_rows: int
    test_rows: int
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    test_fingerprint: str


class RunReport(Record):
    """Everything that a run reports.

    Attributes:
        name: the run's name, that of its directory.
        recipe: the resolved recipe.
        command: what to type to have this run again.
        warnings: what a reader must know before trusting or shipping this, a sentence each; what made the
            measurement doubtful is in its `noise`.
        saturation: of int8 products on processors without VNNI; None: there are no such products, or the
            report is from before this was counted.
        parts: where the bytes of the weights are; empty in reports from before they were counted.
        ladder: the uncompressed model and the model after each stage; empty: not asked for, or one stage.
        gates: of the recipe, judged by this measurement; empty: it has none.
        promise: what came of the last stage's promise of a speed-up, latency or size; unknown: it was not
            measured there, or not on a quiet machine; None: there was none, or the report is from before.
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
    promise: Literal["kept", "missed", "unknown"] | None = None
    seconds: float = Field(ge=0)

    def save(self, path: Path) -> None:
        """Write as JSON, two spaces deep."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_report(path: Path) -> RunReport:
    """Read a report, given its file or the directory that holds it as report.json.

    Raises:
        OutputError: there is none, it is not a report, or a newer modelpress wrote it.
    """
    file = path / REPORT_FILE if path.is_dir() else path
    try:
        text = read_regular(file).decode("utf-8")
        with contextlib.suppress(ValidationError):  # what is wrong is said below; most reports are right
            return _noise_once(RunReport.model_validate_json(text))
        content = parse_json(text)
    except FileNotFoundError as error:
        raise OutputError(f"{path}: no {REPORT_FILE} here; give a run's directory or its report") from error
    except OSError as error:
        raise OutputError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise OutputError(f"{file}: not a whole JSON file: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise OutputError(f"{file}: not a modelpress report: it has no schema_version")
    if version > SCHEMA_VERSION:
        raise OutputError(
            f"{file}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest that this "
            "modelpress reads; update modelpress"
        )
    try:
        return _noise_once(RunReport.model_validate(_from_version_1(content) if version == 1 else content))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise OutputError(
            f"{file}: not a whole report: {key}: {first['msg']} ({error.error_count()} such errors)"
        ) from error


def _noise_once(report: RunReport) -> RunReport:
    """The same report without the noise of its measurement among the warnings, where it once was as well."""
    warnings = tuple(text for text in report.warnings if text not in report.measurement.noise)
    return report if warnings == report.warnings else report.model_copy(update={"warnings": warnings})


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Tell rows from units, which version 1 calls rows, too: of a language model, its rows are tokens."""
    measured: Any = content.get("measurement")
    ladder: Any = content.get("ladder", [])
    with contextlib.suppress(
        AttributeError, KeyError, TypeError, ZeroDivisionError
    ):  # the models say what is not whole
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
