"""Cost of a piece of work: seconds, and peak resident memory of this process."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import psutil

__all__ = ["Cost"]


class Cost:
    """Context manager; `seconds` and `peak_memory_bytes` are valid after the block.

    Memory is sampled every 20 ms, because the kernel's own peak cannot be reset on every system, so shorter
    peaks can be missed.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_memory_bytes = 0
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self.seconds = time.perf_counter() - self._began

    def _look(self) -> None:
        self.peak_memory_bytes = max(self.peak_memory_bytes, self._process.memory_info().rss)

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self._look()
