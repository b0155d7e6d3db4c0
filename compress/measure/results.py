"""What a measurement is, as data. Every figure is that of an ONNX file run by ONNX Runtime.

Units stand in the names. Intervals are 95 % intervals.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from compress.measure.answers import unpack_classes
from compress.measure.explain.explanation import Explanation
from compress.tasks import TASKS, Difference, Integers, Score
from compress.timing import Setting

__all__ = [
    "Accuracy",
    "AccuracyDifference",
    "Answers",
    "Environment",
    "Interval",
    "Language",
    "LanguageModel",
    "Latency",
    "LatencyComparison",
    "Measurement",
    "ModelMeasurement",
    "Rung",
    "RuntimeFile",
    "RuntimeTiming",
    "Runtimes",
    "Size",
]


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Accuracy(Score):
    """Score of a file on the test rows, one row at a time (batch 1, no padding).

    Attributes:
        correct: of the units.
        batched_value: the same rows in padded batches of `batched_size`; a value that differs says that
            answers depend on batch-mates or padding.
        batched_disagreements: units that are answered differently in the two.
    """

    correct: int
    batched_value: float
    batched_size: int
    batched_disagreements: int


AccuracyDifference = Difference
"""Its name in the public interface."""


class Answers(_Result):
    """What is named for each unit of the test rows, one row at a time; see `compress.measure.answers`.

    Attributes:
        labels: the true ones.
        baseline, candidate: those that the files name.
        positions: units of each row, one after the other.
        lengths: the same, packed, where rows differ; `positions` says nothing then.
    """

    labels: str
    baseline: str
    candidate: str
    positions: int = 1
    lengths: str = ""

    @property
    def row_lengths(self) -> Integers:
        """Units of each row, [n]."""
        if self.lengths:
            return unpack_classes(self.lengths)
        rows = len(unpack_classes(self.labels)) // self.positions
        return np.full(rows, self.positions, dtype=np.int64)

    @model_validator(mode="after")
    def _of_the_same_rows(self) -> Self:
        lengths = {len(unpack_classes(each)) for each in (self.labels, self.baseline, self.candidate)}
        if len(lengths) > 1:
            raise ValueError(f"labels and answers are of different numbers of rows: {sorted(lengths)}")
        return self


class Latency(_Result):
    """Times of single calls at one setting; `throughput_per_s` is rows a second at the median.

    Attributes:
        p05_ms, p25_ms, p75_ms: further quantiles; None in reports from before they were kept.
    """

    p50_ms: float
    p95_ms: float
    mean_ms: float
    throughput_per_s: float
    calls: int
    p05_ms: float | None = None
    p25_ms: float | None = None
    p75_ms: float | None = None


class LatencyComparison(_Result):
    """Baseline and candidate timed in turns in one process, at one setting.

    Attributes:
        sequence: tokens (or patches) a row.
        speedup: median over rounds of baseline time / candidate time of the same round.
        speedup_low: lower end of the 95 % bootstrap interval of that median over rounds; it covers the noise
            within this run only, and is trustworthy from 5 rounds on.
        speedup_high: upper end of it.
        rounds: how many rounds of both.
        disturbed_rounds: of these, those that other work or the container's CPU quota disturbed, for want of
            quiet ones; None in reports from before that was watched.
        throttled_rounds: of these, those in which the quota stopped the process.
        used_by_others: mean share of the machine's cores that other work used during the rounds that count.
    """

    batch: int
    sequence: int
    threads: int
    baseline: Latency
    candidate: Latency
    speedup: float
    speedup_low: float
    speedup_high: float
    rounds: int
    disturbed_rounds: int | None = None
    throttled_rounds: int = 0
    used_by_others: float | None = None

    @property
    def setting(self) -> Setting:
        """Where it holds."""
        return Setting(batch=self.batch, sequence=self.sequence, threads=self.threads)

    @property
    def is_disturbed(self) -> bool:
        """Whether these times say little of a quiet machine: too few quiet rounds came, although repeated."""
        return bool(self.disturbed_rounds)


class Size(_Result):
    """Bytes on disk of the ONNX file with its external data, and what gzip -6 makes of them."""

    file_bytes: int
    gzip_bytes: int


class ModelMeasurement(_Result):
    """What was measured of one ONNX file.

    Attributes:
        load_ms: time to create a session; median of three fresh processes, the file being in the system's
            cache.
        peak_memory_bytes: peak resident memory of these processes (median), each of which loads the file and
            answers up to 32 test rows one at a time, above that of the same process before loading.
        operators: how many nodes of each kind ONNX Runtime runs for one row, after its own optimization.
    """

    size: Size
    accuracy: Accuracy
    load_ms: float
    peak_memory_bytes: int
    operators: dict[str, int]


class RuntimeFile(_Result):
    """One ONNX file in a runtime other than ONNX Runtime's own CPU kernels.

    Attributes:
        runtime: openvino, or onnxruntime-openvino (ONNX Runtime's OpenVINO provider).
        file: baseline or candidate.
        refused: why the runtime can't run it, in its own words; empty where it can. The rest is then empty.
        precision: what the runtime computes float operators in on this machine, as it says; empty if unsaid.
        products: how many products of matrices it makes in each type; empty if it doesn't say.
        agreement: share of test rows, one at a time, on which it names the class that ONNX Runtime names.
        accuracy: share of test rows that it answers right.
    """

    runtime: str
    version: str
    file: Literal["baseline", "candidate"]
    refused: str = ""
    precision: str = ""
    products: dict[str, int] = {}
    agreement: float | None = None
    accuracy: float | None = None


class RuntimeTiming(_Result):
    """One file in one runtime at one setting.

    Attributes:
        rounds_ms: median of the calls of each round; rounds of all files and runtimes at a setting are the
            same rounds, so ratios are taken round by round.
        disturbed_rounds: as of a LatencyComparison.
    """

    runtime: str
    file: Literal["baseline", "candidate"]
    batch: int
    sequence: int
    threads: int
    rounds_ms: tuple[float, ...]
    disturbed_rounds: int | None = None


class Runtimes(_Result):
    """Both files in all runtimes that were asked for, timed in turns; ONNX Runtime is among `timings`."""

    files: tuple[RuntimeFile, ...]
    timings: tuple[RuntimeTiming, ...]


class Interval(_Result):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


class Rung(_Result):
    """The model after one stage, as an ONNX file, on validation rows.

    Attributes:
        name: of the stage; of the first rung, the uncompressed model, `original`; of several stages joined
            by ` + `, where the models between them could not be exported.
        stages: how many stages lie between the rung before and this one; of the first it says nothing.
        rows: validation rows; of a language model, accuracy and agreement are shares of their tokens.
        disturbed_rounds: as of a LatencyComparison; the same of all rungs, which are timed in turns.
        agreement: share of rows on which it names the class that the original names.
        change: of accuracy, from the rung before.
        p50_ms: median over rounds.
        speedup: original time / this time; median over rounds, with its bootstrap interval.
        gain: time of the rung before / this time, likewise.
    """

    name: str
    rows: int
    accuracy: float
    agreement: float
    change: Difference
    p50_ms: float
    speedup: Interval
    gain: Interval
    file_bytes: int
    stages: int = 1
    disturbed_rounds: int | None = None


class LanguageModel(_Result):
    """Losses of one file on the test rows.

    Attributes:
        loss: mean over tokens, in nats.
        perplexity: exp of it.
        bits_per_byte: the loss by the bytes of text that the tokens stand for; None: their number is unknown.
        cache_bytes_per_token: what one more token of one row adds to the keys and values.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    cache_bytes_per_token: int


class Language(_Result):
    """Two language models on the same test rows, each row from an empty past.

    Attributes:
        perplexity_ratio: candidate / baseline; the interval takes rows, not tokens, as independent.
        decode: times of one more token after `sequence` tokens, in turns; throughput is tokens a second. The
            `latency` of a measurement is that of reading a prompt of `sequence` tokens.
    """

    rows: int
    tokens: int
    text_bytes: int
    baseline: LanguageModel
    candidate: LanguageModel
    perplexity_ratio: Interval
    decode: tuple[LatencyComparison, ...]


class Environment(_Result):
    """Machine and versions that the figures hold for; `fingerprint` is equal where figures compare."""

    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    memory_bytes: int
    system: str
    python: str
    packages: dict[str, str]
    session_options: dict[str, str]
    fingerprint: str


class Measurement(_Result):
    """Baseline and candidate, measured together.

    Attributes:
        task: its name; empty in reports from before it was kept (see `tasks.task_of_measurement`).
        noise: words about what makes these figures doubtful (a ratio whose interval is wide, a busy machine).
        explanation: where the time goes at the first setting of `latency`; None in reports from before there
            were any, and where it could not be had (`noise` then says why).
        runtimes: the same files in other runtimes; None where only ONNX Runtime was asked for.
        answers: row by row; None in reports from before they were kept.
        language: what else is measured where files keep a past; None of others.
    """

    task: str = ""
    baseline: ModelMeasurement
    candidate: ModelMeasurement
    difference: Difference
    latency: tuple[LatencyComparison, ...]
    environment: Environment
    noise: tuple[str, ...]
    seconds: float
    explanation: Explanation | None = None
    runtimes: Runtimes | None = None
    answers: Answers | None = None
    language: Language | None = None

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str) -> str:
        if name and name not in TASKS:
            raise ValueError(f"this modelpress has no task '{name}'")
        return name
