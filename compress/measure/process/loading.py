"""How long a model takes to load and how much memory it needs, measured in fresh processes.

A process that measures itself has imported numpy and onnxruntime and read its rows before it notes where it
starts; what is counted from there on is the session and its answers. Peak memory comes from the kernel's own
high-water mark (VmHWM, reset through /proc/self/clear_refs), which misses nothing. Where there is none
(macOS, Windows, or a kernel that lets nobody reset it), a thread samples the resident memory every
millisecond, and a shorter peak is missed. getrusage's ru_maxrss is no substitute: on Linux a child inherits
its parent's.

    python -m compress.measure.process.loading PROBE.json      prints {"load_ms": ..., "peak_bytes": ...}
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict

from compress.data.split import Split
from compress.errors import MeasureError
from compress.measure.process.spawn import python_command, python_environment
from compress.measure.runtimes.session import answer, create_session
from compress.system.exclusive import alone
from compress.tasks import InputSpec

__all__ = ["PROCESSES", "PeakMemory", "Probe", "measure_load"]

PROCESSES = 3
_SAMPLE_EVERY_S = 0.001
_RESET_HIGH_WATER = "5"  # proc(5), clear_refs: "write 5 to reset the peak resident set size"


class Probe(BaseModel):
    """What one process is asked to do: load a model and answer the rows of a file, one at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    rows: Path
    inputs: tuple[InputSpec, ...]
    threads: int


def measure_load(
    probe: Probe, *, folder: Path, processes: int = PROCESSES, on_process: Callable[[], None] | None = None
) -> tuple[float, int]:
    """Load a model in several processes, one after the other.

    Args:
        probe: what each does.
        folder: where a temporary file may stand.
        processes: how many; the first also warms the file cache, which the median then holds for.
        on_process: told after each.

    Returns:
        Median time to create a session in ms, median peak of resident memory above the start in bytes.

    Raises:
        MeasureError: if a process fails.
    """
    job = folder / "probe.json"
    job.write_text(probe.model_dump_json(), encoding="utf-8")
    loads, peaks = [], []
    with alone():
        for _ in range(processes):
            ended = subprocess.run(
                python_command(__name__, job),
                env=python_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if ended.returncode != 0:
                said = ended.stderr.strip().splitlines()[-1:] or [f"exit code {ended.returncode}"]
                raise MeasureError(f"{probe.model}: the process that loads this file died: {said[0]}")
            answered = json.loads(ended.stdout)
            loads.append(float(answered["load_ms"]))
            peaks.append(int(answered["peak_bytes"]))
            if on_process is not None:
                on_process()
    return median(loads), int(median(peaks))


class PeakMemory:
    """Highest resident memory of this process between entering and leaving, above that at entering.

    Attributes:
        above_start_bytes: the figure, once left.
        sampled: whether it was sampled by a thread, for want of a high-water mark.
    """

    def __init__(self, *, sampled: bool | None = None) -> None:
        import psutil

        self.sampled = not _reset_high_water() if sampled is None else sampled
        self.above_start_bytes = 0
        self._process = psutil.Process()
        self._start = self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        if self.sampled:
            self._thread.start()
        else:
            _reset_high_water()
        self._start = self._peak = self._process.memory_info().rss
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.sampled:
            self._stop.set()
            self._thread.join()
            peak = max(self._peak, self._process.memory_info().rss)
        else:
            peak = _high_water_bytes() or self._start
        self.above_start_bytes = max(peak - self._start, 0)

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_EVERY_S):
            self._peak = max(self._peak, self._process.memory_info().rss)


def _reset_high_water() -> bool:
    """Set VmHWM to the resident memory of now; say whether that was possible."""
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_HIGH_WATER)
    except OSError:
        return False
    return _high_water_bytes() is not None


def _high_water_bytes() -> int | None:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _answer(probe: Probe) -> dict[str, float]:
    import onnxruntime  # noqa: F401  imported here so that its own memory is no part of the figure

    split = Split.load(probe.rows, "test", probe.inputs)
    batches = list(split.batches(1))
    with PeakMemory() as memory:
        begin = time.perf_counter()
        session = create_session(probe.model, threads=probe.threads)
        load_ms = (time.perf_counter() - begin) * 1e3
        for batch in batches:
            answer(session, batch)
    return {"load_ms": load_ms, "peak_bytes": memory.above_start_bytes}


if __name__ == "__main__":
    print(json.dumps(_answer(Probe.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))))
