"""Measurement of ONNX files with ONNX Runtime; onnxruntime and torch are imported only on first use."""

from compress.measure.accuracy import predict
from compress.measure.environment import environment, sums_are_exact
from compress.measure.explain.explanation import Explanation
from compress.measure.explain.profiled import explain_file
from compress.measure.floor import measure_floor
from compress.measure.ladder import Step, measure_ladder
from compress.measure.machine import Environment
from compress.measure.process.pair import FilePair, measure_pair
from compress.measure.results import (
    Accuracy,
    AccuracyDifference,
    Floor,
    Interval,
    Latency,
    LatencyComparison,
    Measurement,
    ModelMeasurement,
    Rung,
    Size,
)
from compress.measure.runtimes.others import check_runtimes, installed_runtimes
from compress.measure.runtimes.results import RuntimeFile, Runtimes, RuntimeTiming
from compress.measure.runtimes.session import create_session

__all__ = [
    "Accuracy",
    "AccuracyDifference",
    "Environment",
    "Explanation",
    "FilePair",
    "Floor",
    "Interval",
    "Latency",
    "LatencyComparison",
    "Measurement",
    "ModelMeasurement",
    "Rung",
    "RuntimeFile",
    "RuntimeTiming",
    "Runtimes",
    "Size",
    "Step",
    "check_runtimes",
    "create_session",
    "environment",
    "explain_file",
    "installed_runtimes",
    "measure_floor",
    "measure_ladder",
    "measure_pair",
    "predict",
    "sums_are_exact",
]
