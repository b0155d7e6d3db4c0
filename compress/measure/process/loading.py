"""Load time and memory of a model, measured in fresh processes (see `probe`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from pydantic import BaseModel, ConfigDict

from compress.data.split import Split
from compress.errors import MeasureError
from compress.measure.process import probe as script
from compress.measure.process.spawn import python_environment
from compress.system.exclusive import alone
from compress.tasks import InputSpec

__all__ = ["PROCESSES", "Probe", "measure_load"]

PROCESSES = 3


class Probe(BaseModel):
    """Task of one process: load a model and predict the rows of a file one at a time."""

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
        probe: the task of each process.
        folder: for a temporary file.
        processes: number of processes; the first also warms the file cache, so the median is for a warm
            cache.
        on_process: called after each process.

    Returns:
        Median time to create a session in ms, and median peak of resident memory above the start in bytes.

    Raises:
        MeasureError: if a process fails.
    """
    rows = folder / "loaded_rows.npz"
    batches = Split.load(probe.rows, "test", probe.inputs).batches(1)
    arrays = {f"{at} {name}": array for at, batch in enumerate(batches) for name, array in batch.items()}
    np.savez(rows, **arrays)  # type: ignore[arg-type]
    loads, peaks = [], []
    with alone():
        for _ in range(processes):
            ended = subprocess.run(
                [sys.executable, "-P", str(script.__file__), str(probe.model), str(rows), str(probe.threads)],
                env=python_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if ended.returncode != 0:
                said = ended.stderr.strip().splitlines()[-1:] or [f"exit code {ended.returncode}"]
                raise MeasureError(f"{probe.model}: the process that loads this file failed: {said[0]}")
            answered = json.loads(ended.stdout)
            loads.append(float(answered["load_ms"]))
            peaks.append(int(answered["peak_bytes"]))
            if on_process is not None:
                on_process()
    return median(loads), int(median(peaks))
