"""Jobs side by side: while one measures the others stand still, and nothing outlives who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from compress.jobs.runner import Ended, Job, run_jobs
from compress.progress import Silent
from compress.system.exclusive import alone

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no signals")

BEGIN = """
import json, os, signal, subprocess, sys, time
from compress.system.exclusive import alone
from compress.cli.job import tied_to_its_parent
with tied_to_its_parent():
    print(json.dumps({"ready": True}), flush=True)
    exec(sys.argv[2])
"""
# Works and measures by turns, and notes when; its child works or measures too.
TURNS = """
def note(kind, *times):
    with open(sys.argv[1], "a") as file:
        print(kind, *times, file=file)

def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        note("work", time.monotonic())

CHILD = '''
import sys, time
from compress.system.exclusive import alone
for _ in range(2):
    with alone():
        began = time.monotonic()
        time.sleep(0.05)
        with open(sys.argv[1], "a") as file:
            print("alone", began, time.monotonic(), file=file)
end = time.monotonic() + 0.3
while time.monotonic() < end:
    with open(sys.argv[1], "a") as file:
        print("work", time.monotonic(), file=file)
'''
child = subprocess.Popen([sys.executable, "-c", CHILD, sys.argv[1] + ".child"])
for _ in range(4):
    work(0.1)
    with alone():
        began = time.monotonic()
        with alone():
            time.sleep(0.05)
        time.sleep(0.02)
        note("alone", began, time.monotonic())
child.wait()
print(json.dumps({"end": {"done": True}}), flush=True)
"""
DIES = """
with alone():
    os.kill(os.getpid(), signal.SIGKILL)
"""
WAITS = """
print("a warning", file=sys.stderr, flush=True)
time.sleep(0.2)
with alone():
    pass
print(json.dumps({"end": {"done": True}}), flush=True)
"""
FOR_EVER = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1], "w") as file:
    print(os.getpid(), child.pid, file=file)
folder = os.path.dirname(sys.argv[1])
while sum(os.path.getsize(os.path.join(folder, name)) > 0 for name in os.listdir(folder)) < 2:
    time.sleep(0.01)
with alone():
    time.sleep(600)
"""
STARTS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
from compress.jobs.runner import Job, run_jobs
from compress.progress import Silent
begin, script, *names = sys.argv[1:]
jobs = [Job(name, [sys.executable, "-c", begin, name, script], Silent(), print) for name in names]
list(run_jobs(jobs, at_once=len(jobs)))
"""


def _job(script: str, path: Path, complaints: list[str] | None = None) -> Job:
    complain = [].append if complaints is None else complaints.append
    return Job(path.name, [sys.executable, "-c", BEGIN, str(path), script], Silent(), complain)


def _run(jobs: list[Job], at_once: int) -> dict[int, Ended]:
    with closing(run_jobs(jobs, at_once=at_once)) as ended:
        return {each.index: each for each in ended}


def _gone(pids: list[int], within_s: float = 30) -> bool:
    deadline = time.monotonic() + within_s
    while any(_is_there(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(_is_there, pids))


def _is_there(pid: int) -> bool:
    try:
        return str(psutil.Process(pid).status()) != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_alone_is_nothing_in_a_run_by_itself() -> None:
    with alone(), alone():
        pass


def test_while_one_measures_all_others_stand_still(tmp_path: Path) -> None:
    paths = [tmp_path / str(index) for index in range(3)]
    ended = _run([_job(TURNS, path) for path in paths], at_once=3)
    assert [ended[index].said for index in range(3)] == [{"done": True}] * 3
    measured: list[tuple[float, float, int]] = []
    worked: list[tuple[float, int]] = []
    for index, path in enumerate(paths):
        for file in (path, Path(f"{path}.child")):
            for line in file.read_text().splitlines():
                kind, *times = line.split()
                if kind == "alone":
                    measured.append((float(times[0]), float(times[1]), index))
                else:
                    worked.append((float(times[0]), index))
    assert len(measured) == 3 * (4 + 2)
    assert all(sum(job == index for _, job in worked) > 10 for index in range(3))
    for begin, end, job in measured:
        # A job's own processes may measure inside of its turn.
        assert not [o for o in measured if o[2] != job and o[0] < end and begin < o[1]]
        assert not [at for at, other in worked if other != job and begin < at < end]


def test_one_that_dies_as_it_measures_lets_the_others_go_on(tmp_path: Path) -> None:
    complaints: list[str] = []
    ended = _run([_job(DIES, tmp_path / "0"), _job(WAITS, tmp_path / "1", complaints)], at_once=2)
    assert ended[0].said is None
    assert ended[0].died.startswith("by signal 9 (SIGKILL); the system kills a process like this when memory")
    assert ended[1].said == {"done": True}
    assert complaints == ["a warning"]


def _wait_until_one_stands(paths: list[Path]) -> list[int]:
    """The processes of jobs that run for ever, once one of them measures and the others stand still."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.05)
        pids = [[int(pid) for pid in path.read_text().split()] if path.is_file() else [] for path in paths]
        if all(len(each) == 2 for each in pids):
            # Those that stand still have a child that does too.
            still = [
                all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in each) for each in pids
            ]
            if sum(still) == len(paths) - 1:
                return [pid for each in pids for pid in each]
    raise AssertionError("nobody stands still")


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_who_started_it(tmp_path: Path, by: signal.Signals) -> None:
    paths = [tmp_path / "0", tmp_path / "1"]
    command = [sys.executable, "-c", STARTS, BEGIN, FOR_EVER, *map(str, paths)]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        pids = _wait_until_one_stands(paths)
        parent.send_signal(by)
        parent.wait(60)
        assert _gone(pids)
    finally:
        parent.kill()
        parent.wait()
