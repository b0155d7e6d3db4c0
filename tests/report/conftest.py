"""Reports built in code, as runs of each kind would write them, and the snapshots of pages."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.measure.machine import Environment
from compress.measure.results import (
    Accuracy,
    AccuracyDifference,
    Interval,
    Language,
    LanguageModel,
    Latency,
    LatencyComparison,
    Measurement,
    ModelMeasurement,
    Size,
)
from compress.report import DataFacts, EpochRecord, ModelFacts, Parity, RunReport, StageRecord

MakeReport = Callable[..., RunReport]
Extents = Callable[[Any, str], list[tuple[float, float, float, float]]]


def _latency(p50_ms: float) -> Latency:
    return Latency(
        p50_ms=p50_ms, p95_ms=p50_ms * 1.2, mean_ms=p50_ms * 1.05, throughput_per_s=1000 / p50_ms, calls=200
    )


def _compared(
    batch: int, base_ms: float, speedup: tuple[float, float, float], threads: int = 1
) -> LatencyComparison:
    value, low, high = speedup
    return LatencyComparison(
        batch=batch,
        sequence=128,
        threads=threads,
        baseline=_latency(base_ms),
        candidate=_latency(base_ms / value),
        speedup=value,
        speedup_low=low,
        speedup_high=high,
        rounds=20,
    )


def _measured(correct: int, rows: int, file_mb: float, gzip_mb: float, memory_mb: float) -> ModelMeasurement:
    value = correct / rows
    accuracy = Accuracy(
        value=value,
        low=value - 0.018,
        high=value + 0.016,
        rows=rows,
        units=rows,
        correct=correct,
        batched_value=value,
        batched_size=8,
        batched_disagreements=0,
    )
    return ModelMeasurement(
        size=Size(file_bytes=int(file_mb * 1e6), gzip_bytes=int(gzip_mb * 1e6)),
        accuracy=accuracy,
        load_ms=file_mb * 2.5,
        peak_memory_bytes=int(memory_mb * 1e6),
        operators={"MatMul": 38, "Add": 60, "Gather": 3},
    )


def _curve(epochs: int) -> tuple[EpochRecord, ...]:
    return tuple(
        EpochRecord(
            epoch=i, train_loss=0.7 / i, validation_loss=0.72 / i + 0.05 * i, validation_metric=0.8 + 0.02 * i
        )
        for i in range(1, epochs + 1)
    )


def _stage(name: str, parameters: int, nonzero: int, facts: dict[str, Any], epochs: int = 0) -> StageRecord:
    return StageRecord(
        name=name,
        settings={"sparsity": 0.5, "train": {"epochs": epochs, "learning_rate": 2e-5}},
        facts=facts,
        curve=_curve(epochs),
        validation_metric=0.905,
        parameters=parameters,
        nonzero_parameters=nonzero,
        seconds=73.4,
        peak_memory_bytes=2_100_000_000,
        reused=False,
    )


def _sites() -> list[dict[str, Any]]:
    """12 layers of BERT's shape; the attention of layer 3 and the feed-forward of layer 11 are gone."""
    heads = (12, 9, 5, 0, 4, 6, 7, 3, 2, 5, 1, 4)
    neurons = (1840, 1200, 960, 900, 1033, 512, 700, 433, 300, 120, 64, 0)
    return [
        {"name": f"layer.{i}.{kind}", "kind": kind, "layer": i, "before": before, "kept": kept[i]}
        for i in range(12)
        for kind, before, kept in (("attention", 12, heads), ("feed_forward", 3072, neurons))
    ]


STRUCTURED = {
    "budget": {"kind": "speedup", "value": 3.0},
    "importance": "obs",
    "point": {"batch": 1, "sequence": 128, "threads": 2, "precision": "fp32"},
    "promised": {"speedup": 3.02, "latency_ms": 8.1},
    "checked": {"speedup": 2.98, "low": 2.90, "high": 3.05, "rounds": 7},
    "sites": _sites(),
    "macs": {"before": 10_900_000_000, "after": 2_900_000_000},
    "parameters": {"before": 85_000_000, "after": 24_000_000},
    "latency_table": {
        "fixed_ms": 0.9,
        "dense_ms": 24.1,
        "baseline_ms": 24.4,
        "kinds": [
            {"kind": "attention", "units": list(range(13)), "ms": [0.05 * i for i in range(13)]},
            {
                "kind": "feed_forward",
                "units": [3072 * i // 16 for i in range(17)],
                "ms": [0.085 * i for i in range(17)],
            },
        ],
        "machine": {
            "cpu": "Example CPU m1",
            "instruction_sets": "avx2 avx512_vnni",
            "onnxruntime": "1.23.0",
        },
    },
    "search": {"evaluations": 60, "loss_first": 0.31, "loss_best": 0.22},
    "steps": [
        {"target": 1.73, "promised": 1.74, "validation_cut": 0.801, "validation_recovered": 0.827},
        {"target": 3.0, "promised": 3.02, "validation_cut": 0.743, "validation_recovered": 0.815},
    ],
    "calibration_rows": 512,
}

STAGES = {
    "structured": (_stage("prune/structured", 48_000_000, 48_000_000, STRUCTURED, epochs=4),),
    "int8": (
        _stage(
            "prune/heads",
            50_000_000,
            50_000_000,
            {"kept_heads": [[0, 1, 3, 5], [2, 4], [0, 1, 2, 3, 4, 5]], "removed_share": 0.33},
            epochs=4,
        ),
        _stage(
            "quantize/int8",
            50_000_000,
            49_100_000,
            {"scheme": "W8A8", "layers": {"encoder.0.query": {"scale": 0.0121, "scheme": "int8"}}},
        ),
    ),
    "int4": (_stage("quantize/int4", 66_000_000, 58_000_000, {"group_size": 32}),),
    "sparse": (_stage("prune/wanda", 66_000_000, 35_000_000, {"sparsity": {"encoder.0.query": 0.5}}),),
}


def _report(
    name: str = "int8",
    kind: str = "int8",
    speedup: tuple[float, float, float] = (2.1, 2.0, 2.2),
    difference: tuple[float, float, float] = (-0.002, -0.011, 0.007),
    file_mb: float = 72.0,
    gzip_mb: float = 50.0,
    base_ms: float = 12.3,
    machine: str = "m1",
    test_rows: str = "t1",
    threads: int = 1,
    **changed: Any,
) -> RunReport:
    rows, correct = 1_000, 912
    value, low, high = difference
    measurement = Measurement(
        baseline=_measured(correct, rows, 266.0, 246.0, 540.0),
        candidate=_measured(round(correct + value * rows), rows, file_mb, gzip_mb, 2 * file_mb),
        difference=AccuracyDifference(
            value=value, low=low, high=high, rows=rows, units=rows, gained=7, lost=9, agreement=0.98
        ),
        latency=(
            _compared(1, base_ms, speedup, threads),
            _compared(8, base_ms * 7.5, speedup, threads),
        ),
        environment=Environment(
            cpu=f"Example CPU {machine}",
            cores=2,
            instruction_sets=("avx2", "avx512_vnni"),
            memory_bytes=8_000_000_000,
            system="Linux 6.1",
            python="3.11.7",
            packages={"onnxruntime": "1.23.0", "torch": "2.11.0"},
            session_options={"graph_optimization_level": "all"},
            fingerprint=machine,
        ),
        noise=(),
        seconds=95.0,
    )
    parity = Parity(
        rows=500,
        agreement=1.0,
        metric_difference=0.0,
        max_abs_error=2e-6,
        min_agreement=0.99,
        max_metric_difference=0.005,
    )
    report = RunReport(
        name=name,
        created="2026-01-31T12:00:00Z",
        modelpress_version="0.1.0",
        command=f"modelpress run recipes/{name}.yaml",
        recipe={
            "model": {"hf": "owner/model"},
            "data": {"source": "file", "max_length": 128},
            "stages": [{"use": "prune/heads"}],
        },
        data=DataFacts(
            source="reviews.csv",
            train_rows=8_000,
            validation_rows=1_000,
            test_rows=rows,
            labels=("negative", "positive"),
            notes=("12 duplicate rows removed",),
            test_fingerprint=test_rows,
        ),
        model=ModelFacts(
            source="owner/model",
            parameters=66_000_000,
            validation_metric=0.91,
            training=_curve(3),
            parity=parity,
        ),
        stages=STAGES[kind],
        parity=parity,
        measurement=measurement,
        warnings=(),
        seconds=1_234.0,
    )
    return report.model_copy(update=changed)


def _of_language(report: RunReport, perplexity: float, *, rows: int = 10) -> RunReport:
    """The same figures of a language model: its units are tokens, and its baseline has perplexity 20."""
    measured = report.measurement
    tokens = {"rows": rows, "unit": "token"}

    def counted(model: ModelMeasurement) -> ModelMeasurement:
        return model.model_copy(update={"accuracy": model.accuracy.model_copy(update=tokens)})

    def losses(value: float) -> LanguageModel:
        return LanguageModel(
            loss=math.log(value), perplexity=value, bits_per_byte=None, cache_bytes_per_token=64
        )

    ratio = perplexity / 20
    language = Language(
        rows=rows,
        tokens=measured.difference.units,
        text_bytes=0,
        baseline=losses(20.0),
        candidate=losses(perplexity),
        perplexity_ratio=Interval(value=ratio, low=ratio * 0.99, high=ratio * 1.01),
        decode=measured.latency,
    )
    update = {
        "baseline": counted(measured.baseline),
        "candidate": counted(measured.candidate),
        "difference": measured.difference.model_copy(update=tokens),
        "language": language,
    }
    data = report.data.model_copy(update={"test_rows": rows, "labels": ()})
    return report.model_copy(update={"measurement": measured.model_copy(update=update), "data": data})


@pytest.fixture
def make_report() -> MakeReport:
    return _report


@pytest.fixture
def of_language() -> Callable[..., RunReport]:
    """A function that makes a report that of a language model with this perplexity."""
    return _of_language


@pytest.fixture
def int8() -> RunReport:
    return _report()


@pytest.fixture
def int4() -> RunReport:
    return _report(
        "int4",
        "int4",
        speedup=(0.87, 0.85, 0.90),
        difference=(-0.023, -0.034, -0.012),
        file_mb=44.0,
        gzip_mb=41.0,
    )


@pytest.fixture
def sparse() -> RunReport:
    return _report("sparse", "sparse", speedup=(1.01, 0.97, 1.05), file_mb=266.0, gzip_mb=151.0)


@pytest.fixture
def structured() -> RunReport:
    return _report("structured", "structured", speedup=(2.97, 2.93, 3.01), base_ms=24.4, threads=2)


@pytest.fixture
def extents() -> Extents:
    """Left, top, right, bottom of each path of a chart whose style contains these words, in pixels."""

    def found(picture: Any, style: str) -> list[tuple[float, float, float, float]]:
        paths = re.findall(rf'<path d="([^"]*)"[^>]*style="[^"]*{re.escape(style)}', str(picture))
        points = [[float(x) for x in re.findall(r"-?[\d.]+", path)] for path in paths]
        return [(min(p[::2]), min(p[1::2]), max(p[::2]), max(p[1::2])) for p in points]

    return found


@pytest.fixture
def same_as_kept() -> Callable[[str, str], None]:
    """Assert that a text equals its snapshot; UPDATE_SNAPSHOTS=1 rewrites it."""

    def compared(name: str, text: str) -> None:
        file = Path(__file__).parent / "snapshots" / name
        if os.environ.get("UPDATE_SNAPSHOTS"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")

    return compared
