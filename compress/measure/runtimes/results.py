"""Result types of files in other runtimes; see `measure.results`."""

from __future__ import annotations

from typing import Literal

from compress.facts import Record
from compress.timing import Setting

__all__ = ["RuntimeFile", "RuntimeTiming", "Runtimes"]


class RuntimeFile(Record):
    """One ONNX file in a runtime other than ONNX Runtime's CPU kernels.

    Attributes:
        version: version of the runtime.
        runtime: openvino, or onnxruntime-openvino (ONNX Runtime's OpenVINO provider).
        file: baseline or candidate.
        refused: the runtime's reason for refusing the file, leaving the other fields empty; empty if it runs.
        precision: type that the runtime reports for float operators on this machine; empty if not reported.
        products: number of matrix products by type; empty if not reported.
        agreement: share of test rows, one at a time, with the same predicted class as in ONNX Runtime.
        accuracy: share of test rows predicted correctly.
    """

    runtime: str
    version: str
    file: Literal["baseline", "candidate"]
    refused: str = ""
    precision: str = ""
    products: dict[str, int] = {}
    agreement: float | None = None
    accuracy: float | None = None


class RuntimeTiming(Record):
    """One file in one runtime at one setting.

    Attributes:
        runtime: as in RuntimeFile.
        file: baseline or candidate.
        batch: rows per call.
        sequence: as in LatencyComparison.
        threads: threads of the runtime.
        rounds_ms: median time of the calls in each round; all files and runtimes at a setting share the same
            rounds, so ratios are taken round by round.
        disturbed_rounds: as in LatencyComparison.
    """

    runtime: str
    file: Literal["baseline", "candidate"]
    batch: int
    sequence: int | None
    threads: int
    rounds_ms: tuple[float, ...]
    disturbed_rounds: int | None = None

    @property
    def setting(self) -> Setting:
        """Setting of these times."""
        return Setting(batch=self.batch, sequence=self.sequence, threads=self.threads)


class Runtimes(Record):
    """Both files in all requested runtimes, timed in turns; `timings` includes ONNX Runtime.

    Attributes:
        files: each file in each runtime: whether it runs, and its answers.
        timings: times, including those in ONNX Runtime.
    """

    files: tuple[RuntimeFile, ...]
    timings: tuple[RuntimeTiming, ...]
