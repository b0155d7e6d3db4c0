"""Reading untrusted files: regular files only, with bounded size, and JSON of any shape."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

__all__ = ["parse_json", "read_json", "read_regular"]


def read_regular(path: Path, *, most_bytes: int = -1) -> bytes:
    """Read a regular file; never blocks on a pipe or device.

    Args:
        most_bytes: maximum number of bytes to read; negative: all.

    Raises:
        OSError: the file cannot be read, or is not a regular file (EINVAL; EISDIR for a directory).
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is a pipe or a device, not a regular file", str(path))
        with open(handle, "rb", closefd=False) as file:
            return file.read(most_bytes)
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: as `read_regular`.
        ValueError: it is not UTF-8 text, or not JSON.
    """
    return parse_json(read_regular(path).decode("utf-8"))


def parse_json(text: str) -> Any:
    """Parse JSON text.

    Raises:
        json.JSONDecodeError: it is not JSON, is nested too deeply for Python's parser (which raises
            RecursionError), or contains a number with too many digits for Python.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("brackets are nested too deeply", text, 0) from None
    except ValueError as error:  # int() rejects text of more than 4,300 digits
        raise json.JSONDecodeError(str(error), text, 0) from None
