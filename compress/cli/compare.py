"""Commands on finished runs: `compare` and `check`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compress.cli.common import GATES_FAILED, NOT_JUDGED, Quiet, append_text, echo, print_verdict, write_text
from compress.errors import RecipeError, work_begun

if TYPE_CHECKING:
    from compress.report import CheckReport

__all__ = ["check", "compare"]


def compare(
    paths: Annotated[
        list[Path], typer.Argument(help="Run directories, report.json files, or folders of runs.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print raw figures as CSV.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page to this file.")] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", help="Only runs that meet this, e.g. 'speedup > 2 and drop < 0.01'."),
    ] = None,
    sort: Annotated[str | None, typer.Option("--sort", help="Best first in a column, e.g. size_mb.")] = None,
    best: Annotated[
        Literal["size", "speed", "accuracy"] | None,
        typer.Option("--best", help="Print the name of the smallest, fastest or most accurate run alone."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", min=0, max=1, help="For --best: accuracy that is surely not lost beyond."),
    ] = None,
) -> None:
    """Compare runs: one table, best values marked, what is not comparable said so."""
    from compress.report import best_run, compare_reports, comparison_csv, known_column, sorted_by

    if as_json + markdown + as_csv + (best is not None) > 1:
        raise RecipeError("give one of --json, --markdown, --csv and --best")
    if max_drop is not None and best is None:
        raise RecipeError("--max-drop goes with --best; to filter: --where 'worst_drop <= ...'")
    if sort is not None:
        known_column(sort, "--sort")  # before thousands of reports are read
    comparison = compare_reports(paths, where)
    if sort is not None:
        comparison = sorted_by(comparison, sort)
    if html is not None:
        write_text(html, comparison.to_html(html.parent))
        echo(f"wrote {html}", err=True)
    if as_json:
        echo(comparison.to_json(), as_data=True)
    elif markdown:
        echo(comparison.to_markdown(), as_data=True)
    elif as_csv:
        echo(comparison_csv(comparison), nl=False, as_data=True)
    elif best is not None:
        echo(best_run(comparison, best, max_drop).name, as_data=True)
    elif html is None:
        from compress.cli.console import console

        console.print(comparison.to_table())


def check(
    bundle: Annotated[Path, typer.Argument(help="A run's directory.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE...]", help="Replace the recipe's, e.g. gates.min_speedup=2 or data.test=FILE."
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Another bundle, measured in turns with it.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure a bundle again, here and now: files, answers, accuracy, latency, gates.

    Exit code 3: one fails. 4: none fails, but the machine was too busy to judge a gate of speed.
    """
    from compress.cli.console import shown_progress
    from compress.pipeline import check_bundle, check_can_be_made
    from compress.report import check_summary, junit_xml

    if junit is not None:
        check_can_be_made(junit)
    with shown_progress(to_stderr=as_json, quiet=quiet) as progress:
        report = check_bundle(bundle, against, values or [], progress=progress)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    with work_begun():
        if junit is not None:
            write_text(junit, junit_xml(report))
        if summary:
            append_text(Path(summary), check_summary(report))
    if as_json:
        echo(report.model_dump_json(indent=2), as_data=True)
    else:
        _print_check(report)
    if not report.holds:
        raise typer.Exit(GATES_FAILED if report.fails else NOT_JUDGED)


def _print_check(report: CheckReport) -> None:
    from compress.cli.console import say
    from compress.report import check_lines

    for line in check_lines(report):
        say(line, wrap=True)
    for note in report.measurement.noise if report.measurement else ():
        say("note: ", "yellow", note, wrap=True)
    for each in report.checks:
        print_verdict(each.holds, f"{each.name}: {each.found}", judged=each.judged)
