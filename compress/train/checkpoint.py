"""Checkpoints: a training on disk, so that one that was killed goes on where it was.

One file, replaced as a whole: a reader finds the old one or the new one. It holds tensors, numbers and names,
and is read without running code. It knows the training that it is of (settings, seed, first weights, rows),
and is not taken for another one's.
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
"""Of what is in the file: another number is another training."""

_FILE = "checkpoint.pt"
_PARTIAL = ".partial"
_SECONDS = 30.0  # of an epoch's work that a kill may cost
_READ_AT_ONCE = 1 << 20  # bytes


class Checkpoints:
    """Where one training is kept: the last state of it."""

    def __init__(self, folder: Path, key: str, say: Callable[[str], None]) -> None:
        """Nothing is written before the first `save`.

        Args:
            key: `keys.training_key`.
            say: told, in a line, what can't be used or written.
        """
        self._folder, self._key, self._say = folder, key, say
        self._saved_at, self._refused = time.monotonic(), False

    def load(self) -> dict[str, Any] | None:
        """Return what `save` was given last, on the CPU; none if there is nothing that can be used."""
        for partial in self._folder.glob(f"*{_PARTIAL}"):  # of one that was killed while it wrote
            partial.unlink(missing_ok=True)
        path = self._folder / _FILE
        try:
            found = _read(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RuntimeError, pickle.UnpicklingError):
            self._say(f"the checkpoint {path} is damaged: training begins anew")
            return None
        if found.get("key") != self._key:
            self._say(f"the checkpoint {path} is of another training: this one begins anew")
            return None
        return found

    def is_due(self) -> bool:
        """Say whether it is long ago that something was saved."""
        return time.monotonic() - self._saved_at > _SECONDS

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state in the place of the last one.

        If that fails, as on a full disk, it is said once, and the last one stays: a training is worth more
        than its checkpoint.
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
                    f"cannot write a checkpoint in {self._folder}: {error.strerror or error}; training goes "
                    "on, but if it is killed it begins again from the last checkpoint, or anew"
                )
            self._refused = True
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        self._saved_at = time.monotonic()


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write a state, and behind it the SHA-256 of it: torch's own files don't show that a byte changed."""
    import torch

    with path.open("w+b") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # what torch makes of a full disk, or of Ctrl-C
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
        ValueError: the bytes are not those that were written.
    """
    import torch

    with path.open("rb") as file:
        size = path.stat().st_size - hashlib.sha256().digest_size
        digest = hashlib.sha256()
        while part := file.read(min(_READ_AT_ONCE, max(0, size - file.tell()))):
            digest.update(part)
        if file.read() != digest.digest():
            raise ValueError(f"{path} is not as it was written")
        file.seek(0)
        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return found
