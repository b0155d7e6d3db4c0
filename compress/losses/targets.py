"""Targets: what teachers answer and hold on the rows of a training, computed once and kept in files.

Their answers don't change between epochs, so that no later epoch runs a teacher. Answers are kept in float32,
states in float16 (float32 where they are large), each row's own positions without padding. A folder of
targets is named by a fingerprint of the teachers, the rows and the places looked at, and made under another
name first: half of one is never read. Delete it at any time.
Shapes: n = rows, b = batch, c = classes, s = positions, w = width of a place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from compress.errors import StageError
from compress.losses.views import Watch
from compress.progress import Progress
from compress.task import ROW_INDEX_KEY

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.task import Task

__all__ = ["ANSWERS", "TargetPlace", "Targets", "teacher_targets"]

ANSWERS = "answers"
"""The name of logits among the places."""

_LARGE = 1e3  # a place with numbers above this is kept in float32: float16 ends at 65,504
_ROWS = 32  # that a teacher answers at once
_FREE_PART = 0.5  # of the free disk that targets may take
_RECORD = "record.json"


@dataclass(frozen=True)
class TargetPlace:
    """Where targets are kept.

    Attributes:
        folder: shared by all trainings; none: a temporary one.
        most_bytes: targets that are larger are not kept: the teacher runs at each step.
    """

    folder: Path | None = None
    most_bytes: int = 4 << 30


class Targets(Protocol):
    """What the teachers answer and hold on some rows."""

    def at(self, inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """Of a batch: `ANSWERS` [b, c], and each place by its path [b, s, w], float32, on the batch's device.

        Args:
            rows: which rows of the split they are, [b].
        """

    def close(self) -> None:
        """Remove what is kept for this use alone."""


def teacher_targets(
    teachers: Sequence[nn.Module],
    rows: Split,
    paths: Sequence[str],
    task: Task,
    place: TargetPlace,
    *,
    device: str,
    progress: Progress,
) -> Targets:
    """What teachers answer (the mean of their logits), and what the first of them holds, on all rows.

    Args:
        paths: modules of the first teacher that put out a state a position, [b, s, w].

    Raises:
        StageError: what a place puts out doesn't have the rows' positions, an answer is not a number, or the
            disk is full.
    """
    places = sorted(set(paths))
    sizes = _Sizes.of(teachers[0], rows, places, task)
    if sizes.bytes > place.most_bytes or sizes.bytes > _FREE_PART * _free_bytes(place.folder):
        progress.say(
            f"the teacher's states on {len(rows):,} rows would take {_size(sizes.bytes)} of disk: not kept, "
            "the teacher runs at every step"
        )
        return _Running(teachers, places, task, device)
    key = _key(teachers, rows, places)
    folder = place.folder or Path(tempfile.mkdtemp(prefix="modelpress-targets-"))
    found = folder / f"targets-{key[:32]}"
    if _is_whole(found, key):
        progress.say(f"the teacher's answers are in the cache ({_size(sizes.bytes)}): not asked again")
    else:
        progress.say(f"the teacher's answers on {len(rows):,} rows take {_size(sizes.bytes)} in {folder}")
        try:
            _keep(found, key, teachers, rows, sizes, task, device, progress)
        except BaseException:
            if place.folder is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
    return _Kept(found, sizes, temporary=folder if place.folder is None else None)


@dataclass(frozen=True)
class _Sizes:
    """How large each place is."""

    lengths: np.ndarray[Any, Any]  # positions of each row's states, [n]
    extra: int  # positions that the model adds before the row's own, as a class token
    widths: dict[str, int]
    wide: frozenset[str]  # places that need float32
    classes: int

    @classmethod
    def of(cls, teacher: nn.Module, rows: Split, places: Sequence[str], task: Task) -> _Sizes:
        from compress.model.calls import logits, to_tensors

        lengths = np.array([len(row[rows.inputs[0].name]) for row in rows.rows])
        batch = to_tensors(next(rows.batches(_ROWS)), task.input_names)
        seen, answers = _look(teacher, places, batch, lambda: logits(teacher, batch))
        longest, extra = batch[task.input_names[0]].shape[1], 0
        for path in places:
            state = seen.get(path)
            if state is None or state.ndim != 3 or len(state) != len(answers) or state.shape[1] < longest:
                shape = "nothing" if state is None else list(state.shape)
                raise StageError(
                    f"{path} of the teacher puts out {shape} for rows of {longest} positions: it can't be "
                    "compared position by position"
                )
            extra = state.shape[1] - longest
        ragged = len(set(lengths.tolist())) > 1
        if places and ragged and (extra or "attention_mask" not in task.input_names):
            raise StageError(
                "states can't be compared position by position: rows differ in length and "
                + ("the model adds positions" if extra else "no attention_mask says where they end")
            )
        large = frozenset(path for path in places if float(seen[path].abs().max()) > _LARGE)
        widths = {path: int(seen[path].shape[-1]) for path in places}
        return cls(lengths + extra, extra, widths, large, int(answers.shape[-1]))

    @property
    def bytes(self) -> int:
        per_position = sum(width * (4 if path in self.wide else 2) for path, width in self.widths.items())
        return int(self.lengths.sum()) * per_position + len(self.lengths) * self.classes * 4


class _Kept:
    """Targets in files."""

    def __init__(self, folder: Path, sizes: _Sizes, temporary: Path | None) -> None:
        self._temporary = temporary
        self._answers = np.load(folder / f"{ANSWERS}.npy", mmap_mode="r")
        self._states = {
            path: np.load(folder / f"{index}.npy", mmap_mode="r")
            for index, path in enumerate(sorted(sizes.widths))
        }
        self._ends = np.cumsum(sizes.lengths)
        self._lengths, self._extra = sizes.lengths, sizes.extra

    def at(self, inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        import torch

        first = next(iter(inputs.values()))
        device, longest = first.device, first.shape[1] + self._extra
        picked = rows.cpu().numpy()
        found = {ANSWERS: torch.from_numpy(np.array(self._answers[picked])).to(device)}
        for path, kept in self._states.items():
            states = np.zeros((len(picked), longest, kept.shape[1]), dtype=np.float32)
            for index, row in enumerate(picked):
                length, end = self._lengths[row], self._ends[row]
                states[index, :length] = kept[end - length : end]
            found[path] = torch.from_numpy(states).to(device)
        return found

    def close(self) -> None:
        self._states = {}
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


class _Running:
    """Targets of teachers that run whenever they are asked."""

    def __init__(self, teachers: Sequence[nn.Module], places: Sequence[str], task: Task, device: str) -> None:
        import copy

        copies = [copy.deepcopy(each).to(device).eval().requires_grad_(False) for each in teachers]
        self._teachers, self._places, self._task = copies, places, task

    def at(self, inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        del rows
        return _answered(self._teachers, self._places, {n: inputs[n] for n in self._task.input_names})

    def close(self) -> None:
        self._teachers = []


def _answered(
    teachers: Sequence[nn.Module], places: Sequence[str], inputs: dict[str, Tensor]
) -> dict[str, Tensor]:
    import torch

    from compress.model.calls import logits

    first, *others = teachers
    seen, answers = _look(first, places, inputs, lambda: logits(first, inputs))
    with torch.no_grad():
        total = answers.float() + sum(logits(each, inputs).float() for each in others)
    return {ANSWERS: total / len(teachers), **{path: seen[path].float() for path in places}}


def _look(model: nn.Module, places: Sequence[str], inputs: Any, answer: Any) -> tuple[dict[str, Tensor], Any]:
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad(), Watch(model, places) as watch:
        answers = answer()
        seen = watch.take()
    model.train(was_training)
    return seen, answers


def _keep(
    folder: Path,
    key: str,
    teachers: Sequence[nn.Module],
    rows: Split,
    sizes: _Sizes,
    task: Task,
    device: str,
    progress: Progress,
) -> None:
    """Ask the teachers and write what they say; the folder appears when all of it is there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".targets-", dir=folder.parent))
        try:
            _write(partial, teachers, rows, sizes, task, device, progress)
            (partial / _RECORD).write_text(json.dumps({"key": key}), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StageError(
            f"can't keep the teacher's answers in {folder.parent}: {error.strerror or error}; "
            f"they take {_size(sizes.bytes)}"
        ) from error


def _write(
    folder: Path,
    teachers: Sequence[nn.Module],
    rows: Split,
    sizes: _Sizes,
    task: Task,
    device: str,
    progress: Progress,
) -> None:
    from compress.model.calls import to_tensors

    places, ends = sorted(sizes.widths), np.cumsum(sizes.lengths)
    answers = np.zeros((len(rows), sizes.classes), dtype=np.float32)
    for each in teachers:
        each.to(device)
    with ExitStack() as open_files, progress.bar("asking the teacher", len(rows)) as bar:
        files = {
            path: _Rows(folder / f"{index}.npy", int(ends[-1]), sizes.widths[path], path in sizes.wide)
            for index, path in enumerate(places)
        }
        for file in files.values():
            open_files.callback(file.close)
        for batch in rows.batches(_ROWS, shuffle_seed=0):  # in batches of like length
            found = _answered(teachers, places, to_tensors(batch, task.input_names, device))
            picked = batch[ROW_INDEX_KEY]
            answers[picked] = found.pop(ANSWERS).cpu().numpy()
            if not np.isfinite(answers[picked]).all():
                raise StageError("the teacher answers a row with something that is not a number")
            for path, states in found.items():
                _store(files[path], states.cpu().numpy(), picked, sizes.lengths, ends)
            bar.advance(len(picked))
    for each in teachers:
        each.to("cpu")
    np.save(folder / f"{ANSWERS}.npy", answers)


class _Rows:
    """A .npy file, [positions, w], written piece by piece: a full disk is an OSError, not a bus error."""

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
        self._file.close()  # writes what is left: a full disk may show only here


def _store(
    file: _Rows,
    states: np.ndarray[Any, Any],
    picked: np.ndarray[Any, Any],
    lengths: np.ndarray[Any, Any],
    ends: np.ndarray[Any, Any],
) -> None:
    for index, row in enumerate(picked):
        file.put(int(ends[row] - lengths[row]), states[index, : lengths[row]])


def _is_whole(folder: Path, key: str) -> bool:
    try:
        return bool(json.loads((folder / _RECORD).read_text(encoding="utf-8")).get("key") == key)
    except (OSError, ValueError):
        return False


def _key(teachers: Sequence[nn.Module], rows: Split, places: Sequence[str]) -> str:
    """SHA-256 over the teachers, the rows (not their labels) and the places, hexadecimal."""
    from compress.model.definition import definition_of
    from compress.model.save import module_fingerprint

    digest = hashlib.sha256(json.dumps(list(places)).encode())
    for each in teachers:
        definition = definition_of(each)
        digest.update(
            type(each).__name__.encode() if definition is None else definition.fingerprint().encode()
        )
        digest.update(module_fingerprint(each).encode())
    digest.update(rows.fingerprint(labels=False).encode())
    return digest.hexdigest()


def _free_bytes(folder: Path | None) -> int:
    at = Path(tempfile.gettempdir()) if folder is None else folder
    while not at.exists():
        at = at.parent
    return shutil.disk_usage(at).free


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
