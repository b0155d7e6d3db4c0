"""Result types of a measurement. All figures are of an ONNX file run by ONNX Runtime.

Names include the unit. Intervals are 95 % intervals.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from compress.errors import did_you_mean
from compress.measure.answers import unpack_answers
from compress.measure.explain.explanation import Explanation
from compress.measure.machine import Environment
from compress.measure.runtimes.results import Runtimes
from compress.tasks import TASKS, Difference, Integers, Score, Truth
from compress.tasks.spec import Breakdown
from compress.timing import Setting

__all__ = [
    "Accuracy",
    "AccuracyDifference",
    "Answers",
    "Chance",
    "Floor",
    "Interval",
    "Language",
    "LanguageModel",
    "Latency",
    "LatencyComparison",
    "Measurement",
    "ModelMeasurement",
    "Rung",
    "Size",
]


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Accuracy(Score):
    """Score of a file on the test rows, one row at a time (batch 1, no padding).

    Attributes:
        batched_size: rows per batch of that second pass.
        correct: number of correct units; None if units are not right or wrong.
        batched_value: score of the same rows in padded batches of `batched_size`; a different value means
            that predictions depend on other rows of the batch or on padding.
        batched_disagreements: units with different predictions in the two modes.
    """

    correct: int | None
    batched_value: float
    batched_size: int
    batched_disagreements: int


AccuracyDifference = Difference
"""Name in the public interface."""


class Answers(_Result):
    """Predictions for each unit of the test rows, one row at a time; see `compress.measure.answers`.

    Attributes:
        labels: true labels.
        baseline, candidate: predictions of the files.
        positions: units per row, stored consecutively.
        lengths: units of each row, packed, if rows differ; `positions` is then meaningless.
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
            return unpack_answers(self.lengths)
        rows = len(unpack_answers(self.labels)) // self.positions
        return np.full(rows, self.positions, dtype=np.int64)

    def of(self, who: Literal["baseline", "candidate"]) -> NDArray[Any]:
        """Predictions of a file, [u]."""
        return unpack_answers(self.baseline if who == "baseline" else self.candidate)

    @property
    def truth(self) -> Truth:
        """The true labels."""
        return Truth(unpack_answers(self.labels), self.row_lengths)

    @model_validator(mode="after")
    def _of_the_same_rows(self) -> Self:
        lengths = {len(unpack_answers(each)) for each in (self.labels, self.baseline, self.candidate)}
        if len(lengths) > 1:
            raise ValueError(f"labels and predictions have different numbers of rows: {sorted(lengths)}")
        return self


class Latency(_Result):
    """Times of single calls at one setting; `throughput_per_s` is rows per second at the median.

    Attributes:
        p50_ms: median time of a call.
        p95_ms: 95th percentile.
        mean_ms: mean time of a call.
        throughput_per_s: rows per second at the median.
        calls: number of calls.
        p05_ms, p25_ms, p75_ms: further quantiles; None in old reports.
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
        batch: rows per call.
        threads: ONNX Runtime threads.
        baseline: times of the uncompressed model.
        candidate: times of the result.
        sequence: tokens (or patches) per row; None for rows without a sequence.
        speedup: median over rounds of baseline time / candidate time in the same round.
        speedup_low: lower end of the 95 % bootstrap interval of that median; it covers only the noise within
            this run, and is trustworthy from 5 rounds on.
        speedup_high: upper end of that interval.
        rounds: number of rounds.
        disturbed_rounds: rounds that count although other load or the container's CPU quota disturbed them,
            for lack of quiet ones; None in old reports.
        throttled_rounds: of these, rounds in which the quota paused the process.
        used_by_others: mean share of the machine's cores used by other processes in the rounds that count.
    """

    batch: int
    sequence: int | None
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
        """Setting of these times."""
        return Setting(batch=self.batch, sequence=self.sequence, threads=self.threads)

    @property
    def is_disturbed(self) -> bool:
        """Whether too few rounds were quiet even after repetition, so that the times are unreliable."""
        return bool(self.disturbed_rounds)


class Size(_Result):
    """Size on disk of the ONNX file with its external data, and after gzip -6, in bytes.

    Attributes:
        file_bytes: on disk.
        gzip_bytes: after gzip -6.
    """

    file_bytes: int
    gzip_bytes: int


class ModelMeasurement(_Result):
    """Measurements of one ONNX file.

    Attributes:
        size: size of the file.
        accuracy: score on the test rows.
        load_ms: time to create a session; median over three fresh processes with the file in the system's
            cache.
        peak_memory_bytes: median peak resident memory of these processes above that before loading; each
            loads the file and predicts up to 32 test rows one at a time.
        operators: number of nodes of each kind that ONNX Runtime runs for one row, after its own
            optimization.
        decision: settings by which the task turns outputs into answers, chosen on validation rows, such as a
            threshold; empty if it has none.
    """

    size: Size
    accuracy: Accuracy
    load_ms: float
    peak_memory_bytes: int
    operators: dict[str, int]
    decision: dict[str, float] = {}


class Interval(_Result):
    """A value and its 95 % interval.

    Attributes:
        value: the point estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


class Rung(_Result):
    """The model after one stage, as an ONNX file, on validation rows.

    Attributes:
        accuracy: share of right answers.
        file_bytes: size on disk.
        name: the stage; `original` for the uncompressed model in the first rung; stages joined by ` + ` if
            the models between them could not be exported.
        stages: number of stages between the previous rung and this one; meaningless in the first.
        rows: validation rows; for a language model, accuracy and agreement are shares of their tokens.
        disturbed_rounds: as in LatencyComparison; equal in all rungs, which are timed in turns.
        agreement: share of rows with the same predicted class as the original.
        change: in accuracy, from the previous rung.
        p50_ms: median over rounds.
        speedup: original time / this time; median over rounds, with its bootstrap interval.
        gain: time of the previous rung / this time, likewise.
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
        perplexity: exp(loss).
        bits_per_byte: loss in bits per byte of the tokens' text; None if the number of bytes is unknown.
        cache_bytes_per_token: bytes that each token of one row adds to the key/value cache.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    cache_bytes_per_token: int


class Language(_Result):
    """Two language models on the same test rows, each row starting from an empty past.

    Attributes:
        rows: test rows.
        tokens: tokens that are predicted.
        text_bytes: bytes of their text; 0 if unknown.
        baseline: the uncompressed model.
        candidate: the result.
        perplexity_ratio: candidate / baseline; the interval treats rows, not tokens, as independent.
        decode: times of one more token after `sequence` tokens, in turns; throughput is tokens per second.
            The `latency` of a measurement is that of reading a prompt of `sequence` tokens.
    """

    rows: int
    tokens: int
    text_bytes: int
    baseline: LanguageModel
    candidate: LanguageModel
    perplexity_ratio: Interval
    decode: tuple[LatencyComparison, ...]


class Floor(_Result):
    """A linear model of counted words, without a Transformer, on the same rows.

    Attributes:
        model: name of the linear model.
        rows: training rows that it was fitted on; of many, a random part.
        words: words and pairs of words that it counts.
        compared: whether it also reads how alike the two texts of a row are.
        strength: inverse of its regularization, chosen on validation rows.
        score: on the test rows.
        baseline, candidate: the metric of each minus that of this model, on the same test rows.
        fit_seconds: duration of fitting, including the choice of strength.
        row_ms: median time of one text, one at a time, from text to answer in Python.
    """

    model: str
    rows: int
    words: int
    compared: bool = False
    strength: float
    score: Score
    baseline: Difference
    candidate: Difference
    fit_seconds: float
    row_ms: float


class Chance(_Result):
    """Both models compared with the best one that ignores its inputs, where predictions are not kept.

    Attributes:
        value: its metric.
        baseline: the uncompressed model minus it.
        candidate: the result minus it.
    """

    value: float
    baseline: Difference
    candidate: Difference


class Measurement(_Result):
    """Baseline and candidate, measured together.

    Attributes:
        baseline: the uncompressed model.
        candidate: the result.
        difference: candidate minus baseline, on the same test rows.
        latency: both files in turns, one entry per setting.
        environment: machine and versions.
        seconds: duration of the measurement.
        task: name of the task; empty in old reports.
        noise: warnings about unreliable figures (a ratio with a wide interval, a busy machine).
        explanation: where the time goes at the first setting of `latency`; None in old reports, and if it
            could not be measured (`noise` then says why).
        runtimes: the same files in other runtimes; None if only ONNX Runtime was requested.
        answers: predictions row by row; None in old reports, and for vectors.
        labels: class names by index; empty in old reports, and if answers are not classes.
        breakdown: the task's own table of both models' predictions, where these are not kept.
        chance: both models compared with chance, likewise.
        language: measurements of files with a key/value cache; None for other files.
    """

    task: str = ""
    labels: tuple[str, ...] = ()
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
    breakdown: Breakdown | None = None
    chance: Chance | None = None
    language: Language | None = None

    @field_validator("task")
    @classmethod
    def _known_task(cls, name: str) -> str:
        if name and name not in TASKS:
            raise ValueError(f"unknown task '{name}'{did_you_mean(name, TASKS)}")
        return name
