"""Locks: one process makes a thing, the other waits and is told; a process that is killed holds none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from compress.system.exclusive import alone
from compress.system.locks import FOLDER, only_one

HOLDER = """
import sys, time
from pathlib import Path
from compress.system.locks import only_one
with only_one(Path(sys.argv[1]), "key", "makes it", print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_nobody_is_waited_for_where_nobody_is(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        with only_one(tmp_path, "key", "makes it", said.append):
            pass
    assert said == []
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["key.lock"]


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        holder.send_signal(signal.SIGKILL)

    with only_one(tmp_path, "other key", "makes it", said.append):
        pass
    with only_one(tmp_path, "key", "makes the teacher", say):
        pass
    assert said == ["waiting for another run that makes the teacher"]
    holder.communicate()


def test_a_second_one_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with only_one(tmp_path, "key", "makes it", lambda line: waits.set()):
            order.append("second")

    thread = threading.Thread(target=second)
    with only_one(tmp_path, "key", "makes it", order.append):
        thread.start()
        assert waits.wait(60)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_a_folder_that_cannot_be_written_has_no_locks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with only_one(tmp_path / "file", "key", "makes it", pytest.fail):
        pass


def test_no_lock_is_taken_while_others_wait(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="made way"),
        alone(),
        only_one(tmp_path, "key", "makes it", pytest.fail),
    ):
        pass
