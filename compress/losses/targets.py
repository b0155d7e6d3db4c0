"""Targets: teachers' outputs and states on the training rows, computed once and kept in files.

They don't change between epochs, so later epochs run no teacher. The part of the outputs that the task keeps
is stored in float32, states in float16 (float32 if they are large), without padding. A folder of targets is
named by a fingerprint of the teachers, the rows and the places, and written under a temporary name first, so
that a partial one is never read. It may be deleted at any time.
Shapes: n = rows, b = batch, s = positions, w = width of a place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from compress.errors import StageError
from compress.keys import targets_key
from compress.losses.target_files import KeptTargets, Sizes, is_whole, keep_targets
from compress.losses.views import Watch
from compress.progress import Progress, Silent
from compress.system.disk import bytes_text, free_bytes, scratch_directory
from compress.system.distributed import from_main
from compress.system.locks import only_one
from compress.tasks import ROW_INDEX_KEY

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Split
    from compress.tasks import Task

__all__ = ["TargetPlace", "Targets", "Teaching", "teacher_targets"]

_LARGE = 1e3  # places with larger values are stored in float32; float16 ends at 65,504
_ROWS = 32  # teacher's batch size
_FREE_PART = 0.5  # share of the free disk that targets may use


@dataclass(frozen=True)
class TargetPlace:
    """Where targets are kept.

    Attributes:
        folder: shared by all trainings; None uses a temporary one.
        most_bytes: larger targets are not stored; the teacher runs at each step instead.
    """

    folder: Path | None = None
    most_bytes: int = 4 << 30


@dataclass(frozen=True)
class Teaching:
    """What a student learns from.

    Attributes:
        teachers: provide the targets: the mean output of all, and the states of the first.
        rows: training rows; batches refer to them by `row_index`.
        place: where targets are kept.
        seed: for sampling rows.
    """

    teachers: Sequence[nn.Module]
    rows: Split
    task: Task
    place: TargetPlace = TargetPlace()
    device: str = "cpu"
    progress: Progress = field(default_factory=Silent)
    seed: int = 0


class Targets(Protocol):
    """Teachers' outputs and states on some rows."""

    def at(self, inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """Targets of a batch: outputs as kept by the task, and each place's states by path, [b, s, w].

        All are float32, on the batch's device.

        Args:
            rows: row indices in the split, [b].
        """

    def close(self) -> None:
        """Remove temporary files."""


def teacher_targets(teaching: Teaching, paths: Sequence[str]) -> Targets:
    """Teachers' outputs (the mean of their logits) and the states of the first teacher, on all rows.

    Args:
        paths: modules of the first teacher that output one state per position, [b, s, w].

    Raises:
        StageError: if a place's output does not match the rows' positions, an output is NaN or infinite, or
            the disk is full.
    """
    place, progress, rows = teaching.place, teaching.progress, teaching.rows
    places = sorted(set(paths))
    sizes = _sizes(teaching, places)
    size = bytes_text(sizes.bytes)
    disk = place.folder or Path(tempfile.gettempdir())
    if from_main(lambda: sizes.bytes > min(place.most_bytes, _FREE_PART * free_bytes(disk))):
        progress.say(
            f"the teacher's states on {len(rows):,} rows would take {size} of disk, so they are not stored "
            "and the teacher runs at every step"
        )
        return _Running(teaching, places)
    key = targets_key(teaching.teachers, rows, places, teaching.device)
    own = ExitStack()
    folder = place.folder or from_main(lambda: own.enter_context(scratch_directory("targets")))
    found = folder / f"targets-{key[:32]}"
    try:
        with only_one(folder, found.name, "computes the outputs of the same teacher", progress.say):
            if from_main(lambda: is_whole(found, key)):
                progress.say(f"the teacher's outputs are in the cache ({size})")
            else:
                progress.say(f"the teacher's outputs on {len(rows):,} rows take {size} in {folder}")
                from_main(lambda: keep_targets(found, key, sizes, _asked(teaching, places)))
    except BaseException:
        own.close()
        raise
    return KeptTargets(found, sizes, temporary=own)


def _sizes(teaching: Teaching, places: Sequence[str]) -> Sizes:
    from compress.model.forward import logits, to_tensors

    teacher, rows, task = teaching.teachers[0], teaching.rows, teaching.task
    lengths = np.array([len(row[rows.inputs[0].name]) for row in rows.rows])
    batch = to_tensors(next(rows.batches(_at_once(rows, task))), task.input_names)
    seen, answers = _look(teacher, places, batch, lambda: task.of_teacher(logits(teacher, batch)))
    longest, extra = batch[task.input_names[0]].shape[1], 0
    for path in places:
        state = seen.get(path)
        if state is None or state.ndim != 3 or len(state) != len(answers) or state.shape[1] < longest:
            shape = "nothing" if state is None else list(state.shape)
            raise StageError(
                f"{path} of the teacher returns {shape} for rows of {longest} positions, so it can't be "
                "compared by position"
            )
        extra = state.shape[1] - longest
    ragged = len(set(lengths.tolist())) > 1
    if places and ragged and (extra or "attention_mask" not in task.input_names):
        raise StageError(
            "states can't be compared by position, because rows differ in length and "
            + ("the model adds positions" if extra else "there is no attention_mask")
        )
    large = frozenset(path for path in places if float(seen[path].abs().max()) > _LARGE)
    widths = {path: int(seen[path].shape[-1]) for path in places}
    kept = {name: tuple(each.shape) for name, each in task.kept_answers(answers).items()}
    a_row = {name: shape[-1] for name, shape in kept.items() if len(shape) == 2}
    a_position = {name: shape[-1] for name, shape in kept.items() if len(shape) == 3}
    return Sizes(lengths + extra, extra, widths | a_position, large | a_position.keys(), a_row)


def _at_once(rows: Split, task: Task) -> int:
    """Teacher's batch size, smaller if each row has many logits."""
    return task.rows_at_once(rows.labels[:1].size, _ROWS)


class _Running:
    """Targets from teachers that run at each request."""

    def __init__(self, teaching: Teaching, places: Sequence[str]) -> None:
        import copy

        copies = [copy.deepcopy(each).to(teaching.device) for each in teaching.teachers]
        self._teachers = [each.eval().requires_grad_(False) for each in copies]
        self._places, self._task = places, teaching.task

    def at(self, inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        del rows
        given = {name: inputs[name] for name in self._task.input_names}
        return _answered(self._teachers, self._places, given, self._task)

    def close(self) -> None:
        self._teachers = []


def _answered(
    teachers: Sequence[nn.Module], places: Sequence[str], inputs: dict[str, Tensor], task: Task
) -> dict[str, Tensor]:
    import torch

    from compress.model.forward import logits

    first, *others = teachers
    seen, answers = _look(first, places, inputs, lambda: task.of_teacher(logits(first, inputs)))
    with torch.no_grad():
        total = answers.float() + sum(task.of_teacher(logits(each, inputs)).float() for each in others)
    states = {path: seen[path].float() for path in places}
    return {**task.kept_answers(total / len(teachers)), **states}


def _look(model: nn.Module, places: Sequence[str], inputs: Any, answer: Any) -> tuple[dict[str, Tensor], Any]:
    import torch

    from compress.model.evaluating import evaluating

    with torch.no_grad(), evaluating(model), Watch(model, places) as watch:
        answers = answer()
        return watch.take(), answers


def _asked(
    teaching: Teaching, places: Sequence[str]
) -> Iterator[tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]]:
    """Run the teachers on all rows, in batches of similar length; yields row indices and their targets."""
    from compress.model.forward import to_tensors

    teachers, rows, task = teaching.teachers, teaching.rows, teaching.task
    for each in teachers:
        each.to(teaching.device)
    try:
        with teaching.progress.bar("computing the teacher's outputs", len(rows)) as bar:
            for batch in rows.batches(_at_once(rows, task), shuffle_seed=0):
                inputs = to_tensors(batch, task.input_names, teaching.device)
                found = _answered(teachers, places, inputs, task)
                if not all(bool(each.isfinite().all()) for name, each in found.items() if name not in places):
                    raise StageError("the teacher's output for a row contains NaN or infinity")
                yield batch[ROW_INDEX_KEY], {name: each.cpu().numpy() for name, each in found.items()}
                bar.advance(len(batch[ROW_INDEX_KEY]))
    finally:
        for each in teachers:
            each.to("cpu")
