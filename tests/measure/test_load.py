from __future__ import annotations

import time

import numpy as np
import pytest

from compress.errors import MeasureError
from compress.measure.process.loading import Probe, measure_load
from compress.measure.process.probe import PeakMemory

MB = 1_000_000
HELD_BYTES = 64 * MB


def _hold_and_let_go() -> None:
    held = np.ones(HELD_BYTES, dtype=np.uint8)
    held += 1
    time.sleep(0.05)  # so that a sampling thread sees it on a busy machine, too


@pytest.mark.parametrize("sampled", [None, True])
def test_peak_memory_sees_what_was_let_go_again(sampled):
    with PeakMemory(sampled=sampled) as memory:
        _hold_and_let_go()
    # numpy asks the system for such an array and gives it back; the rest is the interpreter's own few MB.
    assert HELD_BYTES * 0.9 < memory.above_start_bytes < HELD_BYTES * 1.2


def test_peak_memory_does_not_count_what_was_let_go_before():
    _hold_and_let_go()
    with PeakMemory() as memory:
        pass
    assert memory.above_start_bytes < HELD_BYTES / 4


def test_measure_load_loads_in_fresh_processes(token_model, token_split, tmp_path):
    token_split.save(tmp_path / "rows.npz")
    probe = Probe(model=token_model(), rows=tmp_path / "rows.npz", inputs=token_split.inputs, threads=1)
    told = []
    load_ms, peak_bytes = measure_load(
        probe, folder=tmp_path, processes=1, on_process=lambda: told.append("process")
    )
    assert told == ["process"]
    assert load_ms > 0
    # A session of nothing costs onnxruntime some MB; its import, tens of MB, must not be counted.
    assert 0 < peak_bytes < 40 * MB


def test_measure_load_says_which_file_a_process_died_of(token_split, tmp_path):
    token_split.save(tmp_path / "rows.npz")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    probe = Probe(
        model=tmp_path / "broken.onnx", rows=tmp_path / "rows.npz", inputs=token_split.inputs, threads=1
    )
    with pytest.raises(MeasureError, match=r"broken\.onnx"):
        measure_load(probe, folder=tmp_path, processes=1)
