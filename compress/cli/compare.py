"""Commands on finished runs: `compare` and `check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compress.cli.common import (
    GATES_FAILED,
    NOT_JUDGED,
    AsJson,
    Markdown,
    Quiet,
    echo,
    print_check,
    see_page,
    write_summary,
    write_text,
)
from compress.errors import RecipeError, work_begun
from compress.system.garbage import uncollected

if TYPE_CHECKING:
    from compress.report import CheckReport

__all__ = ["check", "compare"]


@uncollected()
def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Directories of runs, folders with runs, or report.json files."),
    ],
    as_json: AsJson = False,
    markdown: Markdown = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the unrounded figures as CSV.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write an HTML page to this file."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Include only runs that meet the condition, such as 'speedup > 2 and drop < 0.01'.",
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="COLUMN", help="Sort by a column, such as size_mb, best first."),
    ] = None,
    best: Annotated[
        Literal["size", "speed", "accuracy"] | None,
        typer.Option("--best", help="Print only the name of the smallest, fastest or most accurate run."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="DROP",
            min=0,
            max=1,
            help="With --best: consider only runs whose accuracy drop is within this limit over the whole "
            "95 % interval.",
        ),
    ] = None,
) -> None:
    """Compare the reports of runs in one table.

    The best value of each column is marked, and figures that are not comparable are marked as such.
    """
    from compress.report import best_run, compare_reports, comparison_csv, known_column, sorted_by

    if as_json + markdown + as_csv + (best is not None) > 1:
        raise RecipeError("--json, --markdown, --csv and --best exclude each other; give one")
    if max_drop is not None and best is None:
        raise RecipeError("--max-drop needs --best; to filter the table, use --where 'worst_drop <= 0.01'")
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
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of a run.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Values that override the recipe of the run, such as gates.min_speedup=2 or data.test=FILE.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="BUNDLE", help="Bundle to compare with, measured alternately."),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="FILE", help="Write the result as JUnit XML."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Verify and measure a bundle on this machine, and judge its gates.

    Checks that the files are unchanged and that the ONNX file answers as when it was made, then measures
    accuracy and latency. Exit code 3: a check or gate failed. Exit code 4: none failed, but the machine was
    too busy to judge a speed gate.
    """
    from compress.cli.console import say, shown_progress
    from compress.pipeline import check_bundle, check_can_be_made
    from compress.report import check_summary, junit_xml

    if junit is not None:
        check_can_be_made(junit)
    with shown_progress(to_stderr=as_json, quiet=quiet) as progress:
        report = check_bundle(bundle, against, values or [], progress=progress)
    with work_begun():
        if junit is not None:
            write_text(junit, junit_xml(report))
        write_summary(lambda: check_summary(report))
    if as_json:
        echo(report.model_dump_json(indent=2), as_data=True)
    else:
        _print_check(report)
    if not report.holds:
        say(see_page("how-to/ci-gates"), "dim", error=True)
        raise typer.Exit(GATES_FAILED if report.fails else NOT_JUDGED)


def _print_check(report: CheckReport) -> None:
    from compress.cli.console import say
    from compress.report import check_lines

    for line in check_lines(report):
        say(line, wrap=True)
    for note in report.measurement.noise if report.measurement else ():
        say("note: ", "yellow", note, wrap=True)
    for each in report.checks:
        print_check(each)
