"""Checkpoints: training state on disk, so that a killed training can resume.

A single file, replaced atomically, so that it is always complete. It holds tensors, numbers and names, and is
loaded without running code. It records which training it belongs to (settings, seed, initial weights, rows),
and is not used for another.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress.system.distributed import is_main

__all__ = ["Checkpoints", "FORMAT"]

FORMAT = 1
"""Version of the file's contents; changing it invalidates old checkpoints."""

_FILE = "checkpoint.pt"
_PARTIAL = ".partial"
_SECONDS = 30.0  # most work that a kill may lose within an epoch
_READ_AT_ONCE = 1 << 20  # bytes


class Checkpoints:
    """The latest checkpoint of one training."""

    def __init__(self, folder: Path, key: str, say: Callable[[str], None]) -> None:
        """Set up without writing; the first `save` creates the folder.

        Args:
            key: `keys.training_key`.
            say: called with a message about a checkpoint that can't be used or written.
        """
        self._folder, self._key, self._say = folder, key, say
        self._saved_at, self._refused = time.monotonic(), False

    def load(self) -> dict[str, Any] | None:
        """Return the state last given to `save`, on the CPU; None if there is no usable checkpoint."""
        for partial in self._folder.glob(f"*{_PARTIAL}"):  # left by a process that was killed while writing
            partial.unlink(missing_ok=True)
        path = self._folder / _FILE
        try:
            found = _read(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RuntimeError, pickle.UnpicklingError):
            self._say(f"the checkpoint {path} is damaged; training starts again from the first epoch")
            return None
        if found.get("key") != self._key:
            self._say(f"the checkpoint {path} is from another training; this one starts from the first epoch")
            return None
        return found

    def is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved_at > _SECONDS

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by a new state.

        A failure, such as a full disk, is reported once and leaves the old checkpoint: it must not end the
        training.
        """
        if not is_main():
            return
        partial = self._folder / f"{_FILE}.{os.getpid()}{_PARTIAL}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write(partial, {**state, "key": self._key})
            os.replace(partial, self._folder / _FILE)
        except OSError as error:
            if not self._refused:
                self._say(
                    f"cannot write a checkpoint in {self._folder}: {error.strerror or error}; training "
                    "continues, but if it is killed it resumes from the last checkpoint or from the first "
                    "epoch"
                )
            self._refused = True
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        self._saved_at = time.monotonic()


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write a state followed by its SHA-256, because torch's files do not reveal a changed byte."""
    import torch

    with path.open("w+b") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # raised by torch for a full disk or Ctrl-C
            if isinstance(error.__context__, OSError | KeyboardInterrupt):
                raise error.__context__ from error
            raise
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(digest)


def _read(path: Path) -> dict[str, Any]:
    """Read what `_write` wrote.

    Raises:
        ValueError: if the contents do not match their SHA-256.
    """
    import torch

    with path.open("rb") as file:
        size = path.stat().st_size - hashlib.sha256().digest_size
        digest = hashlib.sha256()
        while part := file.read(min(_READ_AT_ONCE, max(0, size - file.tell()))):
            digest.update(part)
        if file.read() != digest.digest():
            raise ValueError(f"the checksum of {path} is wrong")
        file.seek(0)
        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return found
