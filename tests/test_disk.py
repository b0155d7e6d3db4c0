"""Directories appear whole, are there while they are replaced, and nothing is left of killed processes."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from compress.errors import OutputError
from compress.system import disk
from compress.system.disk import (
    cannot_write,
    check_room,
    new_directory,
    owned_directory,
    remove_leftovers,
    scratch_directory,
)

posix = pytest.mark.skipif(os.name == "nt", reason="there are no such locks and signals")

REPLACES = """
import sys
from pathlib import Path
from compress.system.disk import new_directory
target = Path(sys.argv[1])
while True:
    with new_directory(target, replace=target.exists()) as directory:
        for name in "abc":
            (directory / name).write_text("x" * 1000)
    print("done", flush=True)
"""
HOLDS = """
import sys, time
from pathlib import Path
from compress.system.disk import owned_directory, scratch_directory
with owned_directory(Path(sys.argv[1]), ".run.partial-") as one, scratch_directory("measure") as other:
    (one / "half").write_text("x")
    print(one, other, sep="\\n", flush=True)
    time.sleep(600)
"""


def test_a_directory_appears_when_the_block_ends(tmp_path: Path) -> None:
    with new_directory(tmp_path / "deep" / "run") as directory:
        (directory / "file").write_text("whole")
        assert not (tmp_path / "deep" / "run").exists()
    assert (tmp_path / "deep" / "run" / "file").read_text() == "whole"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_directory_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    with new_directory(tmp_path / "run"):
        pass
    (tmp_path / "plain").mkdir()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_nothing_is_left_of_a_block_that_fails(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_directory(tmp_path / "run") as directory:
        (directory / "half").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="run: ") as failed, new_directory(tmp_path / "run"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert failed.value.exit_code == 1  # the input was right
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    with pytest.raises(OutputError, match=str(tmp_path)), new_directory(tmp_path):
        pytest.fail("the block must not begin")
    assert (tmp_path / "old").read_text() == "x"


def test_a_replaced_directory_keeps_nothing_of_the_old_one(tmp_path: Path) -> None:
    _old(tmp_path / "run")
    with new_directory(tmp_path / "run", replace=True) as directory:
        (directory / "new").write_text("x")
        assert (tmp_path / "run" / "old").is_file()
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "new"]


def test_the_old_directory_stays_when_the_block_fails(tmp_path: Path) -> None:
    _old(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "run", replace=True):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "old"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_the_old_directory_comes_back_when_the_swap_itself_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    _old(tmp_path / "run")
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if ".partial-" in Path(source).name:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    monkeypatch.setattr(disk, "_exchanged", lambda *names: False)  # a system that can't
    with pytest.raises((KeyboardInterrupt, OutputError)), new_directory(tmp_path / "run", replace=True):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "old"]


def test_a_directory_below_a_file_is_refused_before_the_block(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="file: "),
        new_directory(tmp_path / "file" / "run"),
    ):
        pytest.fail("the block must not begin")


# what killed processes leave


def _held(folder: Path, temporary: Path) -> tuple[subprocess.Popen[str], list[Path]]:
    """A process that holds a directory of each kind, and where they are."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    return process, [Path(process.stdout.readline().strip()) for _ in range(2)]


@posix
def test_what_a_live_process_holds_is_never_touched_and_what_a_dead_one_held_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, temporary = tmp_path / "runs", tmp_path / "tmp"
    folder.mkdir(), temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    process, held = _held(folder, temporary)
    try:
        for _ in range(2):
            _look(folder)
        assert all(path.is_dir() for path in held) and (held[0] / "half").is_file()
    finally:
        process.kill()
        process.communicate()
    _look(folder)
    assert list(folder.iterdir()) == list(temporary.iterdir()) == []


def _look(folder: Path) -> None:
    """What a process does that starts now."""
    disk._remove_dead_scratch.cache_clear()
    remove_leftovers(folder)
    with scratch_directory():
        pass


def test_what_is_not_ours_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in (
        "modelpress-graphs00",
        "modelpress",
        ".run.partial",
        ".hidden",
        "run.partial-abcdefgh",
        "run",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / ".run.partial-abcdefgh").write_text("a file")
    before = sorted(tmp_path.iterdir())
    _look(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


@posix
def test_leftovers_of_a_cache_and_of_other_runs_are_removed(tmp_path: Path) -> None:
    dead = [".0123456789ab.abcdefgh", ".targets-abcd_123", ".other.partial-abcdefgh"]
    for name in dead:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    with owned_directory(tmp_path, ".0123456789ab.") as own:
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [own]
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("whole", [False, True])
def test_an_old_directory_that_was_moved_away_comes_back(tmp_path: Path, whole: bool) -> None:
    """A process was killed between two renames, or just after them."""
    _old(tmp_path / ".run.old-abcdefgh")
    os.replace(tmp_path / ".run.old-abcdefgh", tmp_path / "x")
    (tmp_path / ".run.old-abcdefgh").mkdir()
    os.replace(tmp_path / "x", tmp_path / ".run.old-abcdefgh" / "old")
    if whole:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "new").write_text("x")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "new" if whole else "old"]


def _kill_while_it_replaces(tmp_path: Path, times: int) -> None:
    target, draw = tmp_path / "run", random.Random(0)
    for _ in range(times):
        process = subprocess.Popen([sys.executable, "-c", REPLACES, str(target)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"done\n"
        end = time.monotonic() + draw.uniform(0, 0.02)
        while time.monotonic() < end:
            assert {path.name for path in target.iterdir()} <= set("abc")  # it is there
        process.kill()
        process.communicate()
        assert sorted(path.name for path in target.iterdir()) == ["a", "b", "c"]
        assert [path.stat().st_size for path in target.iterdir()] == [1000] * 3
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="names can't be exchanged in one step")
def test_a_directory_is_there_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    _kill_while_it_replaces(tmp_path, 5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="names can't be exchanged in one step")
def test_a_directory_is_there_whole_however_often_its_writer_is_killed(tmp_path: Path) -> None:
    _kill_while_it_replaces(tmp_path, 300)


def test_a_link_to_a_directory_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    _old(tmp_path / "elsewhere")
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with new_directory(tmp_path / "run", replace=True) as directory:
        (directory / "new").write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "run"]
    assert (tmp_path / "elsewhere" / "old").is_file() and (tmp_path / "run" / "new").is_file()


# what the system refuses


def test_an_error_of_the_system_names_its_own_file(tmp_path: Path) -> None:
    target = tmp_path / "run"
    elsewhere = OSError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "other" / "model.onnx"))
    with pytest.raises(OutputError) as failed, new_directory(target):
        raise elsewhere
    assert str(tmp_path / "other" / "model.onnx") in str(failed.value) and str(target) not in str(
        failed.value
    )
    with pytest.raises(OutputError) as failed, new_directory(target) as directory:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(directory / "file"))
    assert f"{target}: " in str(failed.value) and ".partial-" not in str(failed.value)


@pytest.mark.parametrize("full", ["output", "temporary"])
def test_of_two_disks_the_full_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    for name in ("output", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: SimpleNamespace(free=12_000 if full in str(path) else 10**9)
    )
    error = cannot_write(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), tmp_path / "output" / "run")
    where = {"output": tmp_path / "output" / "run", "temporary": tmp_path / "temporary"}[full]
    assert f"{where}: " in str(error) and "0.0 MB free" in str(error)
    assert ("TMPDIR" in str(error)) is (full == "temporary")


def test_room_is_asked_for_of_each_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    one, other = tmp_path / "new" / "run", tmp_path
    check_room({one: (400, "-o"), other: (600, "TMPDIR")})
    with pytest.raises(OutputError) as refused:
        check_room({one: (401, "-o"), other: (600, "TMPDIR")})  # of one disk: added up
    assert refused.value.exit_code == 2 and str(one) in str(refused.value)


def test_no_temporary_folder_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match="TMPDIR"), scratch_directory():
        pytest.fail("the block must not begin")


def _old(directory: Path) -> None:
    directory.mkdir()
    (directory / "old").write_text("x")
