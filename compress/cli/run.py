"""`modelpress init` and `modelpress run`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress.cli.common import (
    GATES_FAILED,
    NOT_JUDGED,
    Quiet,
    echo,
    load_recipes,
    print_error,
    print_gates,
    see_page,
    write_summary,
    write_text,
)
from compress.cli.unforeseen import as_known
from compress.errors import CompressError, InternalError, RecipeError, StageError, work_begun
from compress.system.distributed import is_main, process_count

if TYPE_CHECKING:
    from compress.pipeline import Outcome
    from compress.recipe import Recipe

__all__ = ["init", "run"]

_SAID = (CompressError.exit_code, RecipeError.exit_code, InternalError.exit_code)  # these print a message


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Directory to create models/ and recipes/ in.")
    ],
) -> None:
    """Write example models and recipes to run and edit."""
    from compress.recipe.starter import init as write

    recipes = write(directory)
    echo(f"wrote {directory}/models and {directory}/recipes ({len(recipes)} recipes)")
    first = directory / "recipes" / "digits" / "quantize-int8.yaml"
    echo(f"next: modelpress run {first if first in recipes else recipes[0]}")


def run(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|KEY=VALUE",
            help="Recipe files, and values that override theirs, such as model.hf=DIR.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Directory of the runs and the cache.")
    ] = Path("reports"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run of the same name.")
    ] = False,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            "-j",
            metavar="N",
            min=1,
            help="Number of recipes to run at the same time; measurements still run one at a time.",
        ),
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check recipes, data, models and output directory, and show what would be done.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Run recipes: compress, export to ONNX, verify, measure, report.

    Each run writes a directory with the ONNX file, the PyTorch module, a report and the code to deploy it.
    Exit code 3: a gate of a recipe failed. Exit code 4: none failed, but the machine was too busy to judge
    one.
    """
    recipes = load_recipes(words)
    if process_count() > 1 and (len(recipes) > 1 or jobs > 1):
        if not is_main():
            raise typer.Exit(RecipeError.exit_code)  # the main process prints the reason
        many = f"{len(recipes)} recipes" if len(recipes) > 1 else f"--jobs {jobs}"
        raise RecipeError(
            f"{many} cannot be used with {process_count()} processes, which train one model together; give "
            "one recipe without --jobs",
        )
    if dry_run and not is_main():
        return
    if dry_run:
        for recipe in recipes:
            _rehearse(recipe, output, overwrite=overwrite)
        return
    from compress.cli.console import say
    from compress.pipeline import check_files
    from compress.pipeline import run as run_recipe

    for recipe in recipes:
        check_files(recipe)  # of all recipes, before the first one's work starts
    if not is_main():
        run_recipe(recipes[0], output, overwrite=overwrite)  # the main process reports progress
        return
    at_once = min(jobs, len(recipes))
    if at_once > 1:
        outcomes, failures = _side_by_side(recipes, output, overwrite=overwrite, at_once=at_once, quiet=quiet)
    else:
        outcomes, failures = _one_by_one(recipes, output, overwrite=overwrite, quiet=quiet)
    _close(outcomes, output)
    _write_summaries(outcomes)
    failed = [outcome for outcome in outcomes if any(gate.fails for gate in outcome.gates)]
    if failed:
        names = ", ".join(outcome.directory.name for outcome in failed)
        echo(f"gates failed: {names} (the runs are complete and kept; see the lines above)", err=True)
    not_judged = [outcome for outcome in outcomes if any(gate.not_judged for gate in outcome.gates)]
    if not_judged:
        names = ", ".join(outcome.directory.name for outcome in not_judged)
        echo(
            f"the machine was too busy to judge speed gates: {names} (the runs are complete and kept; "
            "measure again on a quiet machine, with `modelpress check BUNDLE --against BASELINE` or "
            "--overwrite)",
            err=True,
        )
    if failed or not_judged:
        say(see_page("how-to/ci-gates"), "dim", error=True)
    if failures:
        echo(f"{len(failures)} of {len(recipes)} recipes failed; see the messages above", err=True)
        raise typer.Exit(max(failures))
    if failed or not_judged:
        raise typer.Exit(GATES_FAILED if failed else NOT_JUDGED)


def _one_by_one(
    recipes: Sequence[Recipe], output: Path, *, overwrite: bool, quiet: bool
) -> tuple[list[Outcome], list[int]]:
    """Run recipes one after the other and report the outcome of each.

    Returns:
        Outcomes, and the exit codes of those that failed.
    """
    from compress.cli.console import console, shown_progress
    from compress.pipeline import run as run_recipe

    outcomes: list[Outcome] = []
    failures: list[int] = []
    for recipe in recipes:
        console.rule(f"[bold]{recipe.run_name}")
        try:
            with shown_progress(quiet=quiet) as progress:
                outcome = run_recipe(recipe, output, overwrite=overwrite, progress=progress)
        except Exception as error:
            if len(recipes) == 1:
                raise
            known = as_known(error)
            failures.append(known.exit_code)
            print_error(known)
            continue
        outcomes.append(outcome)
        _summarise(outcome)
    return outcomes, failures


def _side_by_side(
    recipes: Sequence[Recipe], output: Path, *, overwrite: bool, at_once: int, quiet: bool
) -> tuple[list[Outcome], list[int]]:
    """Run recipes in separate processes, some at a time, and report outcomes as they finish.

    Returns:
        Outcomes in the order of the recipes, and the exit codes of those that failed.
    """
    from compress.cli.console import JobRows, console
    from compress.cli.job import ALREADY_DONE
    from compress.jobs.runner import Job, run_jobs
    from compress.pipeline import outcome_of

    outcomes: dict[int, Outcome] = {}
    failures: list[int] = []
    with JobRows(quiet=quiet) as rows:
        options = ["--output", str(output), *(["--overwrite"] if overwrite else [])]
        options += ["--quiet"] if quiet else ["--live"] if rows.is_live else []
        jobs = [
            Job(
                recipe.run_name,
                _job_command(recipe, options),
                *(partial(show, recipe.run_name) for show in (rows.line, rows.now, rows.complain)),
            )
            for recipe in recipes
        ]
        with closing(run_jobs(jobs, at_once=at_once)) as ended:
            for index, code in ended:
                recipe = recipes[index]
                with rows.aside(recipe.run_name):
                    console.rule(f"[bold]{recipe.run_name}")
                    if code in (0, ALREADY_DONE):
                        outcomes[index] = outcome_of(recipe, output, already_done=code == ALREADY_DONE)
                        _summarise(outcomes[index])
                    else:
                        failures.append(_failure(recipe, code))
    return [outcomes[index] for index in sorted(outcomes)], failures


def _job_command(recipe: Recipe, options: Sequence[str]) -> list[str]:
    from compress.measure.process.spawn import python_command

    assert recipe.path is not None
    return python_command("compress.cli.job", *options, "--", recipe.path, *recipe.overrides)


def _failure(recipe: Recipe, code: int) -> int:
    """Exit code of a failed recipe; reports how its process ended if it printed no message itself."""
    from compress.measure.process.spawn import how_it_ended

    if code in _SAID:
        echo(f"{recipe.run_name} failed; see its message above", err=True)
        return code
    died = StageError(f"{recipe.run_name}: the process that ran this recipe ended {how_it_ended(code)}")
    print_error(died)
    return died.exit_code


def _rehearse(recipe: Recipe, output: Path, *, overwrite: bool) -> None:
    from compress.pipeline.cache import Cache
    from compress.pipeline.caveats import lines_before_work
    from compress.pipeline.output import check_disk, check_output
    from compress.pipeline.prepare import prepare
    from compress.system.disk import scratch_directory

    with scratch_directory() as scratch:
        prepared = prepare(recipe, scratch, cache=Cache(output / ".cache"))
    target = output / recipe.run_name
    splits, cache, keys = prepared.splits, prepared.cache, prepared.keys
    echo(f"{recipe.run_name}: recipe, data, model and stages fit together")
    echo(
        f"  data    {splits.source}: {len(splits.train)} / {len(splits.validation)} / {len(splits.test)} rows"
    )
    trained = recipe.model.train is not None
    how = (
        "" if not trained else " (trained, in the cache)" if cache.holds(keys.base) else " (would be trained)"
    )
    echo(f"  model   {prepared.loaded.source}{how}")
    for stage, key in zip(recipe.stages, keys.stages, strict=True):
        echo(f"  stage   {stage.name}{' (in the cache)' if cache.holds(key) else ''}")
    for line in (*prepared.notes, *lines_before_work(recipe, splits)):
        echo(f"  note    {line}")
    done = check_output(target, keys.run, overwrite=overwrite)
    if not done:
        check_disk(prepared, target)
    echo(f"  output  {target}{' (already done, would not be repeated)' if done else ''}")


def _summarise(outcome: Outcome) -> None:
    from compress.cli.console import say
    from compress.page.format import plural
    from compress.report import caveats, fastest_sentence, verdict
    from compress.tasks import task_of_measurement

    if outcome.already_done:
        say(
            f"already done with the same recipe, data and versions; not repeated ({outcome.directory})", "dim"
        )
    found = outcome.report.measurement
    before, after = found.baseline.accuracy, found.candidate.accuracy
    words = task_of_measurement(found).words
    say(
        f"{words.metric} {words.scale.text(before.value)} -> {words.scale.text(after.value)} of "
        f"{after.units:,} test {plural(after.unit)}",
        "bold",
    )
    say(verdict(outcome.report), wrap=True)
    if found.runtimes is not None:
        say(fastest_sentence(found.runtimes), wrap=True)
    for caveat in caveats(outcome.report):
        say("note: ", "yellow", caveat.text, wrap=True)
    print_gates(outcome.gates, words)


def _write_summaries(outcomes: Sequence[Outcome]) -> None:
    """Append each outcome to the summary of a CI job, if there is one."""
    from compress.report import run_summary

    with work_begun():
        for outcome in outcomes:
            write_summary(partial(run_summary, outcome.report, outcome.gates))


def _close(outcomes: Sequence[Outcome], output: Path) -> None:
    """Print what was produced and what to do next."""
    if not outcomes:
        return
    from compress.cli.console import console, say
    from compress.report import compare_reports
    from compress.tasks import task_of_measurement

    directories = [outcome.directory for outcome in outcomes]
    console.rule("[bold]results")
    page = directories[0] / "report.html"
    if len(outcomes) > 1:
        comparison = compare_reports(directories)
        console.print(comparison.to_table())
        page = output / "compare.html"
        write_text(page, comparison.to_html(output))
    for directory in directories:
        say(f"bundle  {directory}", "", "  (onnx/model.onnx, report.html, README.md)", "dim")
    say(f"report  {page.resolve()}")
    example = directories[-1]
    say("next    open the report in a browser, or run")
    say(f"          modelpress compare {output}")
    if task_of_measurement(outcomes[-1].report.measurement).keeps_past:
        say(
            f'          modelpress generate {example} "Once upon a time"',
            "",
            "   # generates text",
            "dim",
        )
    loading = f"import compress; print(compress.load({str(example)!r}))"
    say(f'          python -c "{loading}"', "", "   # the PyTorch module", "dim")
    say(f"deploy  copy {example}; its README.md contains the code")
