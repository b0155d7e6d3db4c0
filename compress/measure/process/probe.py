"""Load a model in a fresh process, predict rows, and print the load time and the peak memory.

    python -P probe.py MODEL ROWS.npz THREADS      prints {"load_ms": ..., "peak_bytes": ...}

This script must not import the package: a pair of files takes six such processes, and the import would take
longer than the rest of their work. numpy, onnxruntime and the rows are loaded before memory is first read, so
that only the session and its predictions are counted.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["CONFIG", "INTER_OP_THREADS", "OPTIMIZATION", "PROVIDER", "PeakMemory", "new_options"]

PROVIDER = "CPUExecutionProvider"
INTER_OP_THREADS = 1
OPTIMIZATION = "ORT_ENABLE_ALL"
CONFIG = {"session.intra_op.allow_spinning": "0"}

_LOG_SEVERITY_ERROR = 3
_SAMPLE_EVERY_S = 0.001
_RESET_HIGH_WATER = "5"  # proc(5), clear_refs: "write 5 to reset the peak resident set size"


def new_options(threads: int) -> Any:
    """Return the onnxruntime.SessionOptions used for every measurement.

    Args:
        threads: intra-op threads.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = INTER_OP_THREADS
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, OPTIMIZATION)
    options.log_severity_level = _LOG_SEVERITY_ERROR
    for key, value in CONFIG.items():
        options.add_session_config_entry(key, value)
    return options


class PeakMemory:
    """Peak resident memory of this process within a `with` block, above that at entry.

    Uses the kernel's exact high-water mark (VmHWM, reset through /proc/self/clear_refs). Where that is
    unavailable (macOS, Windows, or a kernel that does not allow the reset), a thread samples resident memory
    every millisecond and may miss shorter peaks. getrusage's ru_maxrss is no substitute: on Linux a child
    inherits its parent's.

    Attributes:
        above_start_bytes: the result, set on exit.
        sampled: whether it was sampled by a thread.
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
    """Reset VmHWM to the current resident memory; return whether that was possible."""
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_HIGH_WATER)
    except OSError:
        return False
    return _high_water_bytes() is not None


def _high_water_bytes() -> int | None:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _probe(model: str, rows: Path, threads: int) -> dict[str, float]:
    import numpy as np
    import onnxruntime

    with np.load(rows, allow_pickle=False) as stored:
        count = 1 + max(int(name.partition(" ")[0]) for name in stored)
        batches: list[dict[str, Any]] = [{} for _ in range(count)]
        for name, array in stored.items():
            index, _, input_name = name.partition(" ")
            batches[int(index)][input_name] = array
    with PeakMemory() as memory:
        begin = time.perf_counter()
        session = onnxruntime.InferenceSession(model, new_options(threads), providers=[PROVIDER])
        load_ms = (time.perf_counter() - begin) * 1e3
        outputs = [each.name for each in session.get_outputs()]
        output = "logits" if "logits" in outputs else outputs[0]
        for batch in batches:
            session.run([output], {each.name: _value(each, batch) for each in session.get_inputs()})
    return {"load_ms": load_ms, "peak_bytes": memory.above_start_bytes}


def _value(given: Any, batch: dict[str, Any]) -> Any:
    """Input of a row; if the row lacks it, an empty decoder past: [1, heads, 0, head size]."""
    if given.name in batch:
        return batch[given.name]
    import numpy as np

    dtype = np.float16 if given.type == "tensor(float16)" else np.float32
    return np.zeros((1, given.shape[1], 0, given.shape[3]), dtype=dtype)


if __name__ == "__main__":
    print(json.dumps(_probe(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
