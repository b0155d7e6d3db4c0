from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydantic import ValidationError

import compress.measure
from compress.errors import MeasureError
from compress.measure import FilePair, measure_pair
from compress.measure.process import worker as measuring
from compress.measure.process.request import Request
from compress.recipe import MeasureConfig

from .conftest import FEATURES, TOKENS

TINY = MeasureConfig(batch=(1,), threads=(1,), rounds=3, seconds=0.01)


class Recorder:
    """Notes what a bar is told."""

    def __init__(self, on_advance=lambda: None):
        self.total = self.done = 0
        self.facts: list[str] = []
        self.open = False
        self.on_advance = on_advance

    def bar(self, description, total):
        self.total = total
        return self

    def say(self, line):
        raise AssertionError(line)

    def __enter__(self):
        self.open = True
        return self

    def __exit__(self, *error):
        self.open = False

    def advance(self, steps=1, facts=""):
        assert steps > 0
        self.done += steps
        self.facts.append(facts)
        self.on_advance()


def _workers() -> list[psutil.Process]:
    """Find our own child processes that measure, and no other child that pytest may have."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a killed one, not yet waited for, included
            if "compress.measure.process.worker" in child.cmdline():
                found.append(child)
    return found


@pytest.fixture
def own_temp(tmp_path, monkeypatch):
    """A directory of its own for temporary files, so that what is left behind is seen."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_measure_is_exported_sorted():
    assert compress.measure.__all__ == sorted(compress.measure.__all__)
    assert all(hasattr(compress.measure, name) for name in compress.measure.__all__)


def test_a_model_against_itself_differs_by_nothing(token_model, token_split, own_temp, monkeypatch):
    progress = Recorder()
    path = token_model(external="model.onnx_data")
    monkeypatch.chdir(path.parent)  # a relative path must reach the worker whole
    relative = Path(path.name)
    how = TINY.model_copy(update={"batch": (1, 2), "threads": (1, 4096)})
    found = measure_pair(FilePair(relative, relative, token_split, TOKENS), how, progress=progress)

    assert found.difference.value == 0
    assert found.difference.low < 0 < found.difference.high
    assert found.difference.agreement == 1
    assert (found.baseline.accuracy.value, found.baseline.accuracy.batched_disagreements) == (0.75, 0)
    assert found.baseline.accuracy == found.candidate.accuracy
    assert found.baseline.size == found.candidate.size
    assert found.baseline.size.file_bytes > (path.parent / "model.onnx_data").stat().st_size
    assert found.baseline.operators["Gather"] == 1
    assert found.baseline.load_ms > 0
    assert found.baseline.peak_memory_bytes > 0
    # 6 is the longest row: the usual length, 8, would be more than any row has.
    assert [(one.batch, one.sequence, one.threads) for one in found.latency] == [(1, 6, 1), (2, 6, 1)]
    assert all(one.speedup_low <= one.speedup <= one.speedup_high for one in found.latency)
    assert found.noise[0].startswith("measure.threads: 4096 ")
    assert found.environment.session_options["intra_op_num_threads"] == "1"
    why = found.explanation
    assert why is not None and why.baseline is not None
    assert (why.batch, why.sequence, why.threads, why.made_up) == (
        1,
        6,
        1,
        "",
    )  # the first setting, real rows
    assert why.baseline.nodes == why.candidate.nodes == sum(found.baseline.operators.values())

    assert progress.done == progress.total
    assert not progress.open
    assert any(facts.startswith("batch 2, sequence 6, 1 thread: ") for facts in progress.facts)
    assert list(own_temp.iterdir()) == []


def test_a_candidate_with_other_ids_is_given_the_same_rows_in_its_own(token_model, make_tokens, token_split):
    # Token 1 is gone, 2 and 3 are now 1 and 2: the same texts, the same evidence.
    baseline = token_model()
    candidate = token_model("small.onnx", evidence=np.array([[9, 0], [0, 1], [0, 2]], dtype=np.float32))
    rows = make_tokens([2, 2, 3], [3], labels=[0, 1])
    own = make_tokens([1, 1, 2], [2], labels=[0, 1])
    found = measure_pair(FilePair(baseline, candidate, rows, TOKENS, own), TINY)
    assert found.difference.agreement == 1
    assert found.baseline.accuracy == found.candidate.accuracy
    with pytest.raises(MeasureError, match="candidate_test"):
        measure_pair(FilePair(baseline, candidate, rows, TOKENS, token_split), TINY)


def test_time_that_cannot_be_explained_leaves_a_note_and_all_other_figures(
    token_model, token_split, tmp_path, monkeypatch
):
    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(measuring, "explain_batch", fail)
    token_split.save(tmp_path / "rows.npz")
    request = Request(
        baseline=token_model(),
        candidate=token_model(),
        rows=tmp_path / "rows.npz",
        split="test",
        task=TOKENS.facts(),
        settings=({"batch": 1, "sequence": 6, "threads": 1},),
        rounds=1,
        seconds=0.01,
        folder=tmp_path,
        result=tmp_path / "result.json",
    )
    steps: list[int] = []
    found = measuring.measure(request, lambda count, facts: steps.append(count))
    assert found.explanation is None
    assert any("No space left on device" in note for note in found.noise)
    assert sum(steps) == request.steps


def test_what_the_worker_refuses_comes_back_in_its_own_words(token_model, feature_split, own_temp):
    path = token_model()
    with pytest.raises(MeasureError, match="'input_ids', 'attention_mask'"):
        measure_pair(FilePair(path, path, feature_split, FEATURES), TINY)
    assert list(own_temp.iterdir()) == []


def test_a_worker_that_is_killed_is_reported_with_its_signal(token_model, token_split, own_temp):
    def kill_worker():
        for worker in _workers():
            worker.kill()

    path = token_model()
    with pytest.raises(MeasureError, match=r"signal 9 \(SIGKILL\)"):
        measure_pair(FilePair(path, path, token_split, TOKENS), TINY, progress=Recorder(kill_worker))
    assert list(own_temp.iterdir()) == []


def test_ctrl_c_ends_the_worker_and_leaves_no_file(token_model, token_split, own_temp):
    workers: list[psutil.Process] = []

    def interrupt():
        for worker in _workers():
            workers.extend([worker, *worker.children(recursive=True)])
        raise KeyboardInterrupt

    path = token_model()
    with pytest.raises(KeyboardInterrupt):
        measure_pair(FilePair(path, path, token_split, TOKENS), TINY, progress=Recorder(interrupt))
    assert workers
    deadline = time.monotonic() + 5  # a killed grandchild is reaped by init, not by us
    while any(worker.is_running() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(worker.is_running() for worker in workers)
    assert list(own_temp.iterdir()) == []


def test_measure_pair_refuses_a_missing_file_before_it_starts(token_model, token_split, tmp_path):
    with pytest.raises(MeasureError, match=r"nothing\.onnx"):
        measure_pair(FilePair(token_model(), tmp_path / "nothing.onnx", token_split, TOKENS), TINY)


@pytest.mark.parametrize(("key", "value"), [("rounds", 0), ("settings", ()), ("seconds", 0)])
def test_impossible_requests_are_refused_by_key(tmp_path, key, value):
    given = {
        "baseline": tmp_path / "a.onnx",
        "candidate": tmp_path / "b.onnx",
        "rows": tmp_path / "rows.npz",
        "split": "test",
        "task": TOKENS.facts(),
        "settings": ({"batch": 1, "sequence": 6, "threads": 1},),
        "rounds": 1,
        "seconds": 0.1,
        "folder": tmp_path,
        "result": tmp_path / "result.json",
    }
    Request(**given)
    with pytest.raises(ValidationError) as caught:
        Request(**{**given, key: value})
    assert [error["loc"] for error in caught.value.errors()] == [(key,)]


def test_a_request_survives_json(token_split, tmp_path):
    request = Request(
        baseline=tmp_path / "a.onnx",
        candidate=tmp_path / "b.onnx",
        rows=tmp_path / "rows.npz",
        split="test",
        task=TOKENS.facts(),
        settings=({"batch": 1, "sequence": 6, "threads": 1},),
        rounds=3,
        seconds=0.5,
        folder=tmp_path,
        result=tmp_path / "result.json",
    )
    assert Request.model_validate_json(request.model_dump_json()) == request
    assert os.fspath(request.baseline).endswith("a.onnx")


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_the_measuring_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """Also when that is killed: it stands for a worker, whose group has a child."""
    worker = (
        "import subprocess, sys, time; from compress.measure.process.spawn import end_with_parent; "
        "end_with_parent(); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"open({str(tmp_path / 'pids')!r}, 'w').write(str(child.pid) + chr(10)); time.sleep(600)"
    )
    starts = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
        "stdin=subprocess.PIPE, start_new_session=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", starts, worker])
    pids = tmp_path / "pids"
    try:
        deadline = time.monotonic() + 60
        while not (pids.is_file() and pids.read_text().endswith("\n")) and time.monotonic() < deadline:
            time.sleep(0.05)
        child = psutil.Process(int(pids.read_text()))
        ours = [child, *child.parents()[:1]]
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while any(map(_lives, ours)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_lives, ours))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
