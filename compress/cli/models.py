"""Commands on one model: `export`, `bundle`, `inspect`, `explain`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.common import Quiet, echo
from compress.errors import RecipeError, work_begun

__all__ = ["bundle", "explain", "export", "inspect"]


def export(
    model: Annotated[str, typer.Argument(help="A Hugging Face directory or name, a bundle, or a recipe.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's directory.")],
    max_length: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Longest text in tokens; longer ones are cut. As a recipe says; else 128, or what the model "
            "takes.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a directory of this name.")] = False,
    quiet: Quiet = False,
) -> None:
    """Export a model to an ONNX bundle as it is, and compare its answers with PyTorch's."""
    from compress.cli.console import shown_progress
    from compress.pipeline import export_model

    with shown_progress(quiet=quiet) as progress:
        parity = export_model(model, output, max_length=max_length, overwrite=overwrite, progress=progress)
    echo(
        f"wrote {output}: it agrees with PyTorch on {parity['agreement']:.1%} of {parity['rows']:.0f} rows "
        f"(largest difference of a logit {parity['max_abs_error']:.1e})"
    )


def bundle(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Directories of finished runs of one model.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory of all variants.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a directory of this name.")] = False,
) -> None:
    """Put the ONNX files of several runs of one model into one directory, to choose from where it is used."""
    from compress.cli.console import console
    from compress.pipeline import bundle_variants
    from compress.report import variants_table
    from compress.report.render.terminal import terminal_table

    console.print(terminal_table(variants_table(bundle_variants(runs, output, overwrite=overwrite))))
    echo(f"wrote {output}: its README.md says how to use a variant")


def inspect(
    model: Annotated[
        str, typer.Argument(help="A Hugging Face directory or name, a bundle, or a recipe (stages ignored).")
    ],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE...]",
            help="The rows, as in a recipe, e.g. data.train=FILE data.validation=FILE; other keys too. "
            "A run's bundle has those of its own recipe.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; otherwise reports/inspect-NAME.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Train rows for importance.")] = 512,
    validation_rows: Annotated[int, typer.Option(min=2, help="Validation rows for accuracy.")] = 500,
    sentences: Annotated[int, typer.Option(min=0, max=10, help="Rows whose attention is shown.")] = 3,
    max_drop: Annotated[float, typer.Option(min=0, max=100, help="Points of accuracy to give away.")] = 1.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out single layers' curves and quantization.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    quiet: Quiet = False,
) -> None:
    """Say how many heads and neurons a task needs and what quantizing a layer costs, without test rows."""
    if as_json and markdown:
        raise RecipeError("give --json or --markdown, not both")
    from compress.cli.console import say, shown_progress
    from compress.pipeline import check_can_be_made, inspect_model, inspection_recipe
    from compress.report import inspection_markdown, needed_heads, neuron_sentence, write_inspection

    recipe = inspection_recipe(model, values or [])
    target = Path("reports") / f"inspect-{recipe.run_name}" if output is None else output
    check_can_be_made(target / "inspection.json")
    with shown_progress(to_stderr=as_json or markdown, quiet=quiet) as progress:
        found = inspect_model(
            recipe,
            calibration_rows=rows,
            validation_rows=validation_rows,
            sentences=sentences,
            max_drop=max_drop / 100,
            quick=quick,
            cache=target.absolute().parent / ".cache",
            command=shlex.join(["modelpress", "inspect", model, *(values or [])]),
            progress=progress,
        )
    with work_begun():
        write_inspection(found, target)
    if as_json or markdown:
        echo(found.model_dump_json(indent=2) if as_json else inspection_markdown(found), as_data=True)
        return
    say(needed_heads(found), "bold", wrap=True)
    for line in filter(None, (neuron_sentence(found), *found.notes)):
        say(line, wrap=True)
    say(f"report  {(target / 'inspection.html').resolve()}")


def explain(
    model: Annotated[Path, typer.Argument(metavar="BUNDLE_OR_ONNX", help="A bundle, or any .onnx file.")],
    against: Annotated[
        Path | None, typer.Option("--against", help="Another, profiled in turns with it: the baseline.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows a call.")] = 1,
    sequence: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens a row; otherwise what the bundle's report measured first, or 128."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads within an operator.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say where the time of an ONNX file goes, and the one change that would help most."""
    from compress.cli.console import show_explanation
    from compress.measure import explain_file

    found = explain_file(model, against, batch=batch, sequence=sequence, threads=threads)
    if as_json:
        echo(found.model_dump_json(indent=2), as_data=True)
    else:
        show_explanation(found)
