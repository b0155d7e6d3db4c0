"""Jobs side by side: while one measures the others wait, and nothing outlives who started them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from compress.jobs.runner import Job, run_jobs
from compress.system.exclusive import alone, idle, make_way, work

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no signals")

BEGIN = """
import os, signal, subprocess, sys, time
from compress.cli.job import begin
from compress.system.exclusive import alone, idle, make_way, work
from compress.system.signals import ended_as_interrupted
from compress.measure.process.spawn import end_own_group, end_with_parent
end_with_parent(grace_s=10)
try:
    with ended_as_interrupted():
        begin()
        exec(sys.argv[2])
except KeyboardInterrupt:
    end_own_group()
"""
# Works and measures by turns, and notes when; its child works and measures too while it waits for it.
TURNS = """
def note(kind, *times):
    with open(sys.argv[1], "a") as file:
        print(kind, *times, file=file)

def work_for(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        note("work", began, time.monotonic())
        make_way()

CHILD = '''
import sys, time
from compress.system.exclusive import alone, make_way, work
def note(kind, *times):
    with open(sys.argv[1], "a") as file:
        print(kind, *times, file=file)
work()
for _ in range(2):
    began = time.monotonic()
    with alone():
        began = time.monotonic()
        time.sleep(0.05)
        note("alone", began, time.monotonic())
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        began = time.monotonic()
        note("work", began, time.monotonic())
        make_way()
'''
for _ in range(4):
    work_for(0.1)
    with alone():
        began = time.monotonic()
        with alone():
            time.sleep(0.05)
        time.sleep(0.02)
        note("alone", began, time.monotonic())
with idle():
    subprocess.run([sys.executable, "-c", CHILD, sys.argv[1]], check=True)
work_for(0.1)
"""
DIES = """
with alone():
    os.kill(os.getpid(), signal.SIGKILL)
"""
LEAVES_A_CHILD = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1], "w") as file:
    print(child.pid, file=file)
sys.exit(5)
"""
WAITS = """
print("a warning", file=sys.stderr, flush=True)
time.sleep(0.2)
with alone():
    sys.stdout.write("half\\rdone")
    sys.stdout.flush()
"""
FOR_EVER = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1], "w") as file:
    print(os.getpid(), child.pid, file=file)
if sys.argv[1].endswith("0"):
    while not os.path.exists(sys.argv[1][:-1] + "1"):  # none is started while another is alone
        make_way()
    with alone():
        open(sys.argv[1] + ".alone", "w").close()
        time.sleep(600)
while True:
    make_way()
    time.sleep(0.01)
"""
STARTS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
from compress.jobs.runner import Job, run_jobs
begin, script, *names = sys.argv[1:]
jobs = [Job(name, [sys.executable, "-c", begin, name, script], print, print, print) for name in names]
list(run_jobs(jobs, at_once=len(jobs)))
"""


class _Shown:
    """What a job's process said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now: list[str] = []
        self.complaints: list[str] = []


def _job(script: str, path: Path, shown: _Shown | None = None) -> Job:
    shown = shown or _Shown()
    command = [sys.executable, "-c", BEGIN, str(path), script]
    return Job(path.name, command, shown.lines.append, shown.now.append, shown.complaints.append)


def _run(jobs: list[Job], at_once: int) -> dict[int, int]:
    with closing(run_jobs(jobs, at_once=at_once)) as ended:
        return dict(ended)


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


def test_a_run_by_itself_waits_for_nobody() -> None:
    work()
    make_way()
    with alone(), alone(), idle():
        make_way()


def test_while_one_measures_no_other_works(tmp_path: Path) -> None:
    paths = [tmp_path / str(index) for index in range(3)]
    # With more jobs than run at once, one starts while others measure.
    assert _run([_job(TURNS, path) for path in paths], at_once=2) == {0: 0, 1: 0, 2: 0}
    measured: list[tuple[float, float, int]] = []
    worked: list[tuple[float, float, int]] = []
    for index, path in enumerate(paths):
        for line in path.read_text().splitlines():
            kind, began, ended = line.split()
            (measured if kind == "alone" else worked).append((float(began), float(ended), index))
    assert len(measured) == 3 * (4 + 2)
    assert all(sum(job == index for _, _, job in worked) > 10 for index in range(3))
    for begin, end, job in measured:
        assert not [
            other for other in measured + worked if other[2] != job and other[0] < end and begin < other[1]
        ]
    turns = sum(one[2] != other[2] for one, other in itertools.pairwise(sorted(worked)))
    assert turns > 10  # side by side


def test_one_that_dies_as_it_measures_lets_the_others_go_on(tmp_path: Path) -> None:
    shown = _Shown()
    ended = _run([_job(DIES, tmp_path / "0"), _job(WAITS, tmp_path / "1", shown)], at_once=2)
    assert ended == {0: -signal.SIGKILL, 1: 0}
    assert (shown.complaints, shown.lines) == (["a warning"], ["done"])
    assert shown.now[-1] == "done"


def test_what_a_job_leaves_running_is_ended(tmp_path: Path) -> None:
    assert _run([_job(LEAVES_A_CHILD, tmp_path / "0")], at_once=1) == {0: 5}
    assert _gone([int((tmp_path / "0").read_text())])


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_who_started_it(tmp_path: Path, by: signal.Signals) -> None:
    paths = [tmp_path / "0", tmp_path / "1"]
    command = [sys.executable, "-c", STARTS, BEGIN, FOR_EVER, *map(str, paths)]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not ((tmp_path / "0.alone").exists() and paths[1].exists()):  # one is alone, one waits
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.2)
        pids = [int(pid) for path in paths for pid in path.read_text().split()]
        assert len(pids) == 4 and all(map(_is_there, pids))
        parent.send_signal(by)
        parent.wait(60)
        assert _gone(pids)
    finally:
        parent.kill()
        parent.wait()
