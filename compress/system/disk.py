"""Atomic directories, and removal of what killed processes left behind.

A directory under construction is locked by its process with an operating system lock, which is released when
the process ends in any way. An unlocked one belongs to a dead process and is removed by the next one. If the
file system has no locks, or the system no `flock`, no process is ever considered dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from compress.errors import OutputError

if sys.platform != "win32":
    import fcntl

__all__ = [
    "bytes_text",
    "cannot_write",
    "check_room",
    "free_bytes",
    "new_directory",
    "owned_directory",
    "remove_leftovers",
    "scratch_directory",
]

_RANDOM = "[a-z0-9_]{8}"  # suffix added by tempfile.mkdtemp
_UNFINISHED = re.compile(rf"\.(?P<name>.+)\.(?P<kind>partial|old)-{_RANDOM}")
_PIECE = re.compile(rf"\.(targets-|[0-9a-f]{{12}}\.){_RANDOM}")  # of a cache
_SCRATCH = re.compile(rf"modelpress-([a-z]+-)?{_RANDOM}")
_OWNER = ".owner"  # in a scratch directory, because the temporary folder is shared with other programs
_OLD = "old"
_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
_AT_FDCWD, _EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h: RENAME_EXCHANGE; macOS: RENAME_SWAP is 2, too
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV)


@contextmanager
def new_directory(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `target` that becomes `target` if the block ends without an error.

    With `replace`, a complete directory of that name, old or new, exists at every moment if the system can
    exchange two names (Linux, macOS); elsewhere `remove_leftovers` restores the old one if this process is
    killed between the two renames.

    Raises:
        OutputError: `target` exists (and `replace` is false), or nothing can be written there; also after the
            block, if the operating system refused something in it, with the exit code for failed work.
    """
    target = target.absolute()
    if target.exists() and not replace:
        raise OutputError(f"{target} already exists")
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(owned_directory(target.parent, f".{target.name}.partial-"))
        except OSError as error:
            raise cannot_write(error, target.parent) from error
        try:
            yield partial
            partial.chmod(0o777 & ~_umask())
            _put_in_place(partial, target)
        except OSError as error:
            failed = cannot_write(error, target, partial)
            failed.exit_code = 1  # the input was right
            raise failed from error


@contextmanager
def owned_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a directory that is removed when the block ends (unless renamed) or this process does."""
    directory, lock = _made(parent, prefix)
    try:
        yield directory
    finally:
        _remove(directory)
        if lock is not None:
            os.close(lock)


@contextmanager
def scratch_directory(what: str = "") -> Iterator[Path]:
    """Make a directory in the system's temporary folder that is removed when the block ends.

    Args:
        what: part of its name, in lower-case letters.

    Raises:
        OutputError: there is no writable temporary folder.
    """
    with contextlib.ExitStack() as stack:
        try:
            parent = Path(tempfile.gettempdir())
            _remove_dead_scratch(parent)
            prefix = f"modelpress-{what}-" if what else "modelpress-"
            directory = stack.enter_context(owned_directory(parent, prefix))
            (directory / _OWNER).write_text(f"{os.getpid()}\n", encoding="utf-8")
        except OSError as error:
            where = tempfile.tempdir or "any temporary folder"
            raise OutputError(
                f"cannot write in {where}: {error.strerror or error}; set TMPDIR to another directory"
            ) from error
        yield directory


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished directories of dead processes in a folder of runs or cache; restore moved ones."""
    for found, held in _abandoned(folder, _UNFINISHED, _PIECE):
        unfinished = _UNFINISHED.fullmatch(found.name)
        if unfinished is not None and unfinished["kind"] == "old":
            original = folder / unfinished["name"]
            if (found / _OLD).exists() and not original.exists():
                os.replace(found / _OLD, original)
        _remove(found)
        os.close(held)


@cache  # once per process
def _remove_dead_scratch(parent: Path) -> None:
    for found, held in _abandoned(parent, _SCRATCH):
        if (found / _OWNER).is_file():
            _remove(found)
        os.close(held)


def _abandoned(folder: Path, *patterns: re.Pattern[str]) -> Iterator[tuple[Path, int]]:
    """Matching directories that no process holds, each with the descriptor that now locks it."""
    try:
        there = [each for each in os.scandir(folder) if any(x.fullmatch(each.name) for x in patterns)]
        names = sorted(each.name for each in there if _is_own(each))
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):  # it is locked (BlockingIOError), or was just removed
            lock = _locked(folder / name)
            if lock is not None:
                yield folder / name, lock


def _is_own(entry: os.DirEntry[str]) -> bool:
    if not entry.is_dir(follow_symlinks=False):
        return False
    return not hasattr(os, "geteuid") or entry.stat(follow_symlinks=False).st_uid == os.geteuid()


def _made(parent: Path, prefix: str) -> tuple[Path, int | None]:
    """Make and lock a directory; retry if another process removed it as abandoned before it was locked."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = _locked(directory)
        except (BlockingIOError, FileNotFoundError):
            continue
        if directory.exists():
            return directory, lock
        if lock is not None:
            os.close(lock)


def _locked(directory: Path) -> int | None:
    """Lock a directory and return the open descriptor that holds the lock; None if locks are not supported.

    Raises:
        BlockingIOError: another process holds it.
    """
    if sys.platform == "win32":
        return None
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        raise
    except OSError:
        os.close(opened)
        return None
    return opened


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _put_in_place(new: Path, target: Path) -> None:
    if not target.exists():
        os.replace(new, target)
    elif not _exchanged(new, target):
        with owned_directory(target.parent, f".{target.name}.old-") as aside:
            os.replace(target, aside / _OLD)
            try:
                os.replace(new, target)
            except BaseException:
                os.replace(aside / _OLD, target)
                raise


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False if the system or file system cannot.

    Raises:
        OSError: it is supported but failed.
    """
    libc: Any = None if sys.platform == "win32" else ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE)
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*names, _EXCHANGE)
    else:
        return False
    number = ctypes.get_errno()
    if failed and number not in _NO_EXCHANGE:
        raise OSError(number, os.strerror(number), str(other))
    return not failed


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cannot_write(error: OSError, place: Path, partial: Path | None = None) -> OutputError:
    """The OutputError for a failed write, naming the file and, on a full disk, which disk.

    Args:
        place: what was being written, for errors that name no file.
        partial: temporary name under which it was written.
    """
    named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    reason = error.strerror or str(error)
    full = error.errno in _FULL
    if named is None and full:  # which of the two is full?
        named = min((place, Path(tempfile.gettempdir())), key=free_bytes)
    ours = [each for each in (place, partial) if each is not None]
    inside = named is None or any(x.is_relative_to(named) or named.is_relative_to(x) for x in ours)
    at = place if inside or named is None else named
    if full:
        advice = "free some" if inside else "free some, or set TMPDIR to another directory"
        reason += f" ({bytes_text(free_bytes(at))} free on its file system; {advice})"
    return OutputError(f"cannot write {at}: {reason}")


def check_room(needs: dict[Path, tuple[int, str]]) -> None:
    """Refuse work for which there is not enough disk space, before it starts.

    Args:
        needs: by folder (which need not exist), the minimum bytes to write, and advice if they do not fit;
            needs on the same file system are added up.

    Raises:
        OutputError: there is not enough space.
    """
    wanted: dict[int, int] = {}
    for folder, (size, _) in needs.items():
        device = _existing(folder).stat().st_dev
        wanted[device] = wanted.get(device, 0) + size
    for folder, (_, advice) in needs.items():
        need, free = wanted[_existing(folder).stat().st_dev], free_bytes(folder)
        if free < need:
            raise OutputError(
                f"{folder}: {bytes_text(free)} free on its file system, but at least {bytes_text(need)} are "
                f"needed; free some, or {advice}"
            )


def free_bytes(path: Path) -> int:
    """Free bytes on the file system of a path, which need not exist."""
    return shutil.disk_usage(_existing(path)).free


def bytes_text(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())
