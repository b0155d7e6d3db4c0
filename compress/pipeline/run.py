"""Run a recipe: check, load, keys, stages, export, measure, report."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from compress.errors import work_begun
from compress.pipeline.cache import Cache
from compress.pipeline.caveats import doubt_of_model, lines_before_work
from compress.pipeline.exported import exported_baseline
from compress.pipeline.output import check_disk, check_output
from compress.pipeline.prepare import Run, prepare
from compress.pipeline.publish import published
from compress.pipeline.stages import Base, decided, run_stages, trained_model, with_truth
from compress.progress import Progress, Silent
from compress.recipe import Recipe, load_recipe
from compress.report import GateRecord, RunReport, judged, load_report
from compress.system.disk import new_directory, remove_leftovers, scratch_directory
from compress.system.distributed import from_main, is_main
from compress.system.locks import only_one

__all__ = ["Outcome", "outcome_of", "run"]


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        report: the run's report.
        already_done: the run existed already, and nothing was repeated.
        gates: the recipe's current gates; those in the report are from when it was made.
    """

    directory: Path
    report: RunReport
    already_done: bool
    gates: tuple[GateRecord, ...] = ()


def run(
    recipe: Recipe | str | Path,
    output: str | Path = "reports",
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Run a recipe: train or load the model, apply the stages, export, check, measure, report.

    Args:
        recipe: a recipe or its file.
        output: parent folder of the run's directory and of the cache (`.cache`).
        overwrite: replace a run of the same name.

    Returns:
        The outcome. An existing complete run with the same recipe, data and versions is not repeated.

    Raises:
        CompressError: wrong input (before work starts) or failed work; no partial output is left.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(Path(recipe))
    progress = progress or Silent()
    target = Path(output) / recipe.run_name
    cache = Cache(Path(output) / ".cache", progress.say)
    with scratch_directory() as scratch:
        made = prepare(recipe, scratch, cache=cache, progress=progress)

        def is_done() -> bool:
            return check_output(target, made.keys.run, overwrite=overwrite)

        for folder in (target.parent, cache.root):
            from_main(partial(remove_leftovers, folder))
        if from_main(is_done):
            return outcome_of(recipe, output, already_done=True)
        from_main(lambda: check_disk(made, target))
        with only_one(cache.root, f"run-{recipe.run_name}", f"writes {target}", progress.say):
            if from_main(is_done):  # by another run that this one waited for
                return outcome_of(recipe, output, already_done=True)
            own = new_directory(target, replace=target.exists()) if is_main() else nullcontext(scratch)
            with own as directory, work_begun():
                report = _work(made, directory)
    return Outcome(target, report, already_done=False, gates=report.gates)


def outcome_of(recipe: Recipe, output: str | Path, *, already_done: bool) -> Outcome:
    """The outcome of a finished run."""
    target = Path(output) / recipe.run_name
    report = load_report(target)
    return Outcome(target, report, already_done, gates=judged(recipe.gates, report.measurement))


def _work(run: Run, directory: Path) -> RunReport:
    began = time.perf_counter()
    for line in (*run.notes, *lines_before_work(run.recipe, run.splits)):
        run.progress.say(f"note: {line}")
    module, training = trained_model(run)
    run = replace(run, splits=decided(module, with_truth(module, run.splits)))
    if doubt := doubt_of_model(module, run.splits):
        run.progress.say(f"warning: {doubt}")
    base = Base(module, training, exported_baseline(run, module))
    work = run_stages(run, base)
    return from_main(lambda: published(run, base, work, directory, began))
