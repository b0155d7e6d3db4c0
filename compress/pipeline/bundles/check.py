"""Check a bundle on this machine: its files, its outputs, and its recipe's gates."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compress.data import Splits, load_splits
from compress.errors import ModelError, OutputError, ParityError, RecipeError
from compress.export import ONNX_PATH, broken_seals, read_manifest
from compress.measure import FilePair, Measurement
from compress.measure.answers import unpack_answers
from compress.model import LoadedModel, ModelConfig, load_model
from compress.page.format import percent, plural
from compress.pipeline.exported import parity_of
from compress.pipeline.fitting import check_modality, fitting, reader_of
from compress.pipeline.measuring import measured
from compress.pipeline.requirements import check_gates, check_task_gates
from compress.pipeline.stages import with_truth
from compress.progress import Progress, Silent
from compress.recipe import Recipe, load_recipe
from compress.report import CheckRecord, CheckReport, gate_checks, judged, load_report
from compress.system.disk import scratch_directory
from compress.tasks import TASKS, task_class
from compress.train.threads import limit_threads_
from compress.version import __version__

__all__ = ["check_bundle"]

_RECIPE = "recipe.resolved.yaml"
_MOST_WRONG = 10  # files named in one line


def check_bundle(
    bundle: str | Path,
    against: str | Path | None = None,
    values: Sequence[str] = (),
    *,
    progress: Progress | None = None,
) -> CheckReport:
    """Measure a bundle again: checksums, parity with the PyTorch module, score, latency, gates.

    Args:
        bundle: a run's directory, with the recipe that made it.
        against: another bundle of the same task to compare score and latency with.
        values: `key=value` overrides of the recipe: `gates.min_speedup=2`, `data.test=FILE`.

    Returns:
        The results. If files or outputs are wrong, nothing further is checked.

    Raises:
        CompressError: no bundle, missing data, or gates without a baseline; raised before work starts.
    """
    began, progress = time.perf_counter(), progress or Silent()
    limit_threads_()
    mine = _Bundle.open(Path(bundle))
    recipe = _recipe(mine.directory, values)
    other = None if against is None else _Bundle.open(Path(against))
    if (name := mine.manifest.get("task")) in TASKS:
        check_task_gates(recipe, task_class(name))
    if other is None and recipe.gates.needs_baseline:
        key = f"gates.{recipe.gates.needs_baseline[0]}"
        text = (
            f"{key} compares with a baseline: give --against BUNDLE (modelpress export writes one of the "
            "uncompressed model)"
        )
        raise RecipeError(recipe.problem(key, text))
    checks = [each.sealed() for each in (mine, other) if each is not None]
    measurement = None
    if all(check.holds for check in checks):
        with scratch_directory() as scratch:
            more, measurement = _answers(mine, other, recipe, scratch, progress)
        checks += more
    return CheckReport(
        bundle=str(bundle),
        against=None if against is None else str(against),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        modelpress_version=__version__,
        checks=tuple(checks),
        measurement=measurement,
        seconds=time.perf_counter() - began,
    )


@dataclass(frozen=True)
class _Bundle:
    """A bundle's directory and its manifest."""

    directory: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, directory: Path) -> _Bundle:
        manifest = read_manifest(directory)
        if "variants" in manifest:
            raise OutputError(f"{directory} contains variants; give the run that one of them came from")
        return cls(directory, manifest)

    @property
    def onnx(self) -> Path:
        return self.directory / ONNX_PATH

    def sealed(self) -> CheckRecord:
        """Check that each file is the one that was written, and that there are no others."""
        wrong = broken_seals(self.directory, self.manifest)
        if ONNX_PATH.as_posix() not in self.manifest["sha256"]:
            wrong.insert(0, f"manifest.json does not name {ONNX_PATH.as_posix()}")
        more = f"; and {len(wrong) - _MOST_WRONG:,} more" if len(wrong) > _MOST_WRONG else ""
        found = "; ".join(wrong[:_MOST_WRONG]) + more
        found = found or f"all {len(self.manifest['sha256'])} files are unchanged, and there are no others"
        return CheckRecord(name=f"files of {self.directory.name}", holds=not wrong, found=found)

    def opened(self, recipe: Recipe, scratch: Path) -> tuple[LoadedModel, Splits]:
        """The module, and the recipe's rows as read by this bundle."""
        config, task = ModelConfig(bundle=self.directory), recipe.data.task
        loaded = load_model(config, seed=recipe.seed, scratch=scratch, task=task)
        check_modality(loaded, recipe.data)
        splits = load_splits(recipe.data, reader=reader_of(loaded), label_order=loaded.label_order)
        splits = fitting(loaded, splits)
        return loaded, replace(splits, task=splits.task.with_decision(self.manifest))


def _with_original(
    recipe: Recipe, scratch: Path, against: tuple[nn.Module, Splits] | None, *rows: Splits
) -> tuple[Splits, ...]:
    """Rows whose labels are outputs of the uncompressed model, if the task has no others.

    Args:
        against: the other bundle, which is taken for it; None: the recipe's own model.
    """
    if not rows[0].task.labels_from_model:
        return rows
    known = with_truth(*(against or _own(recipe, scratch)))
    return tuple(
        replace(
            each,
            validation=replace(each.validation, labels=known.validation.labels),
            test=replace(each.test, labels=known.test.labels),
        )
        for each in rows
    )


def _own(recipe: Recipe, scratch: Path) -> tuple[nn.Module, Splits]:
    """The recipe's own model, and its rows."""
    try:
        loaded = load_model(recipe.model, seed=recipe.seed, scratch=scratch, task=recipe.data.task)
    except ModelError as error:
        raise ModelError(
            "the score is measured by the outputs of the recipe's own model, which can't be loaded; give "
            f"--against BUNDLE of it (as written by modelpress export): {error}"
        ) from error
    return loaded.module, fitting(loaded, load_splits(recipe.data, reader=reader_of(loaded)))


def _recipe(directory: Path, values: Sequence[str]) -> Recipe:
    if not (directory / _RECIPE).is_file():
        raise OutputError(
            f"{directory} contains no {_RECIPE}, which says which rows to measure on; give a run's directory"
        )
    return load_recipe(directory / _RECIPE, values)


def _answers(
    mine: _Bundle, other: _Bundle | None, recipe: Recipe, scratch: Path, progress: Progress
) -> tuple[list[CheckRecord], Measurement | None]:
    loaded, splits = mine.opened(recipe, scratch)
    check_gates(recipe, splits)
    against = None if other is None else other.opened(recipe, scratch)
    theirs = splits if against is None else against[1]
    place = None if against is None else (against[0].module, theirs)
    splits, theirs = _with_original(recipe, scratch, place, splits, theirs)
    pair = FilePair(mine.onnx, mine.onnx, splits.test, splits.task)
    if other is not None:
        _same_task(splits, theirs, mine.directory, other.directory)
        pair = FilePair(other.onnx, mine.onnx, theirs.test, theirs.task, splits.test, splits.task)
    progress.say("comparing the ONNX file's outputs with PyTorch's")
    checks = [_parity(loaded, mine.onnx, splits, recipe)]
    if not checks[0].holds:
        return checks, None
    measurement = measured(recipe, pair, runtimes=(), progress=progress)
    checks += _as_reported(mine.directory, measurement.candidate.accuracy.value, splits)
    return [*checks, *gate_checks(judged(recipe.gates, measurement), splits.task.words)], measurement


def _same_task(mine: Splits, theirs: Splits, directory: Path, other: Path) -> None:
    truths = [each.test.truth(each.task).labels for each in (mine, theirs)]
    if mine.task.labels != theirs.task.labels or not np.array_equal(truths[0], truths[1]):
        raise OutputError(f"{other} and {directory} have other labels or other test rows")


def _parity(loaded: LoadedModel, onnx: Path, splits: Splits, recipe: Recipe) -> CheckRecord:
    try:
        found = parity_of(loaded.module, onnx, splits, recipe)
    except ParityError as error:
        return CheckRecord(name="parity", holds=False, found=str(error))
    words = f"agrees with the PyTorch module on {percent(found.agreement)} of {found.rows} validation rows"
    if same := splits.task.words.same:
        words = f"{same} as by the PyTorch module: {percent(found.agreement)}, {found.rows} validation rows"
    return CheckRecord(name="parity", holds=True, found=words)


def _as_reported(directory: Path, here: float, splits: Splits) -> list[CheckRecord]:
    """Whether the metric is within the interval in the run's own report; empty for other rows.

    Args:
        here: the metric measured on the test rows.
    """
    test, truth = splits.test, splits.test.truth(splits.task)
    if not (directory / "report.json").is_file():
        return []
    measured = load_report(directory).measurement
    then = measured.candidate.accuracy
    if then.rows != len(test) or (then.unit == splits.task.words.unit and then.units != len(truth.labels)):
        return []
    kept = measured.answers
    if kept is not None and not np.array_equal(unpack_answers(kept.labels), truth.labels):
        return []
    shown = splits.task.words.scale.text
    found = (
        f"{shown(here)} of {then.units:,} test {plural(then.unit)}; the report says {shown(then.value)} "
        f"({shown(then.low)} to {shown(then.high)})"
    )
    name = f"{splits.task.words.metric} as reported"
    return [CheckRecord(name=name, holds=then.low <= here <= then.high, found=found)]
