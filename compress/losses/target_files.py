"""Targets in files: the task's part of outputs in float32, states in float16 or float32, without padding.

A folder is written under a temporary name first, so that a partial one is never read.
Shapes: n = rows, b = batch, s = positions, w = width of a place.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import StageError
from compress.system.disk import bytes_text, cannot_write, owned_directory
from compress.system.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "KeptTargets",
    "Sizes",
    "is_whole",
    "keep_targets",
]

Found = tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]
"""Row indices, [b], with their outputs (as kept by the task) and each place's states."""

_RECORD = "record.json"


@dataclass(frozen=True)
class Sizes:
    """Dimensions of the targets.

    Attributes:
        lengths: positions of each row's states, [n].
        extra: positions that the model prepends to a row, such as a class token.
        widths: width of each place, by path.
        wide: places stored in float32.
        a_row: width of what is stored once per row, by name.
    """

    lengths: np.ndarray[Any, Any]
    extra: int
    widths: dict[str, int]
    wide: frozenset[str]
    a_row: dict[str, int]

    @property
    def bytes(self) -> int:
        """Total size of the files."""
        per_position = sum(width * (4 if path in self.wide else 2) for path, width in self.widths.items())
        return int(self.lengths.sum()) * per_position + len(self.lengths) * sum(self.a_row.values()) * 4


class KeptTargets:
    """Targets read from files."""

    def __init__(self, folder: Path, sizes: Sizes, temporary: ExitStack) -> None:
        """Open the files of a complete folder; `temporary` is closed by `close`."""
        self._temporary = temporary
        self._a_row = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in sizes.a_row}
        self._states = {
            path: np.load(folder / f"{index}.npy", mmap_mode="r")
            for index, path in enumerate(sorted(sizes.widths))
        }
        self._ends = np.cumsum(sizes.lengths)
        self._lengths, self._extra = sizes.lengths, sizes.extra

    def at(self, inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """Implement `targets.Targets.at`."""
        import torch

        first = next(iter(inputs.values()))
        device, longest = first.device, first.shape[1] + self._extra
        picked = rows.cpu().numpy()
        found = {
            name: torch.from_numpy(np.array(kept[picked])).to(device) for name, kept in self._a_row.items()
        }
        for path, kept in self._states.items():
            states = np.zeros((len(picked), longest, kept.shape[1]), dtype=np.float32)
            for index, row in enumerate(picked):
                length, end = self._lengths[row], self._ends[row]
                states[index, :length] = kept[end - length : end]
            found[path] = torch.from_numpy(states).to(device)
        return found

    def close(self) -> None:
        """Remove the folder if it is temporary."""
        self._states = self._a_row = {}
        self._temporary.close()


def keep_targets(folder: Path, key: str, sizes: Sizes, found: Iterable[Found]) -> None:
    """Write targets as the teachers produce them; the folder appears only once complete.

    Raises:
        StageError: if the disk is full, or the folder can't be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with owned_directory(folder.parent, ".targets-") as partial:
            _write(partial, sizes, found)
            (partial / _RECORD).write_text(json.dumps({"key": key}), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
    except OSError as error:
        raise StageError(
            f"can't store the teacher's outputs, which take {bytes_text(sizes.bytes)}: "
            f"{cannot_write(error, folder.parent)}"
        ) from error


def _write(folder: Path, sizes: Sizes, found: Iterable[Found]) -> None:
    ends = np.cumsum(sizes.lengths)
    a_row = {
        name: np.zeros((len(sizes.lengths), width), dtype=np.float32) for name, width in sizes.a_row.items()
    }
    with ExitStack() as open_files:
        files = {}
        for index, path in enumerate(sorted(sizes.widths)):
            file = folder / f"{index}.npy"
            files[path] = _Rows(file, int(ends[-1]), sizes.widths[path], path in sizes.wide)
            open_files.callback(files[path].close)
        for picked, parts in found:
            for name, kept in a_row.items():
                kept[picked] = parts[name]
            for path, rows in files.items():
                _store(rows, parts[path], picked, sizes.lengths, ends)
    for name, kept in a_row.items():
        np.save(folder / f"{name}.npy", kept)


class _Rows:
    """A .npy file, [positions, w], written piecewise, so that a full disk is an OSError, not a bus error."""

    def __init__(self, path: Path, positions: int, width: int, wide: bool) -> None:
        self.dtype, self.width = np.dtype(np.float32 if wide else np.float16), width
        self._file = path.open("wb")
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (positions, width)}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._begin = self._file.tell()
        self._file.truncate(self._begin + positions * width * self.dtype.itemsize)

    def put(self, position: int, states: np.ndarray[Any, Any]) -> None:
        self._file.seek(self._begin + position * self.width * self.dtype.itemsize)
        if self.dtype == np.float16:
            states = np.clip(states, -65504, 65504)
        self._file.write(np.ascontiguousarray(states, dtype=self.dtype).tobytes())

    def close(self) -> None:
        self._file.close()  # flushes; a full disk may show only here


def _store(
    file: _Rows,
    states: np.ndarray[Any, Any],
    picked: np.ndarray[Any, Any],
    lengths: np.ndarray[Any, Any],
    ends: np.ndarray[Any, Any],
) -> None:
    for index, row in enumerate(picked):
        file.put(int(ends[row] - lengths[row]), states[index, : lengths[row]])


def is_whole(folder: Path, key: str) -> bool:
    """Whether a folder holds the complete targets for this key."""
    try:
        return bool(read_json(folder / _RECORD).get("key") == key)
    except (OSError, ValueError):
        return False
