"""Commands on finished runs: `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress.cli.common import write_text
from compress.errors import RecipeError

__all__ = ["compare"]


def compare(
    paths: Annotated[
        list[Path], typer.Argument(help="Run directories, report.json files, or folders of runs.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page to this file.")] = None,
) -> None:
    """Compare runs: one table, best values marked, what is not comparable said so."""
    from compress.report import compare_reports

    if as_json and markdown:
        raise RecipeError("give --json or --markdown, not both")
    comparison = compare_reports(paths)
    if html is not None:
        write_text(html, comparison.to_html())
        typer.echo(f"wrote {html}", err=True)
    if as_json:
        typer.echo(comparison.to_json())
    elif markdown:
        typer.echo(comparison.to_markdown())
    elif html is None:
        from compress.console import console

        console.print(comparison.to_table())
