"""Commands on one model: `export`, `bundle`, `inspect`, `explain`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from compress.cli.common import AsJson, Markdown, Quiet, ReplaceDirectory, echo
from compress.errors import RecipeError, work_begun

__all__ = ["bundle", "explain", "export", "inspect"]

_RARELY_MEANT = 0.1  # a share; earlier versions took points


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Hugging Face directory or name, bundle, or recipe.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Directory of the new bundle.")
    ],
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Maximum tokens of a text; longer texts are cut. Default: the recipe's, otherwise 128, or "
            "the model's maximum if that is less.",
        ),
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="The model reads pairs of texts. Recipes say so in data.text.")
    ] = False,
    overwrite: ReplaceDirectory = False,
    quiet: Quiet = False,
) -> None:
    """Export a model to ONNX without compressing it.

    The outputs of the ONNX file are compared with those of PyTorch on rows of the model's data if they are
    known, otherwise on synthetic rows.
    """
    from compress.cli.console import shown_progress
    from compress.pipeline import export_model

    with shown_progress(quiet=quiet) as progress:
        parity = export_model(
            model, output, max_length=max_length, pairs=pairs, overwrite=overwrite, progress=progress
        )
    echo(
        f"wrote {output}: predictions agree with PyTorch on {parity['agreement']:.1%} of "
        f"{parity['rows']:.0f} rows (largest difference of a logit {parity['max_abs_error']:.1e})"
    )


def bundle(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Directories of two or more runs of one model.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Directory of the new bundle.")
    ],
    overwrite: ReplaceDirectory = False,
) -> None:
    """Combine several variants of one model in one directory.

    The program that uses the model chooses a variant, as the README.md of the bundle shows.
    """
    from compress.cli.console import console
    from compress.pipeline import bundle_variants
    from compress.report import variants_table
    from compress.report.render.terminal import terminal_table

    console.print(terminal_table(variants_table(bundle_variants(runs, output, overwrite=overwrite))))
    echo(f"wrote {output}; its README.md shows how to load a variant")


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Hugging Face directory or name, bundle, or recipe (stages ignored).",
        ),
    ],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="The data, as in a recipe, such as data.train=FILE data.validation=FILE, and any other key. "
            "Recipes and bundles of runs have their own data.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Output directory; default: reports/inspect-NAME."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Training rows for importance scores.")] = 512,
    validation_rows: Annotated[
        int, typer.Option(metavar="N", min=2, help="Validation rows for the metric.")
    ] = 500,
    sentences: Annotated[
        int, typer.Option(metavar="N", min=0, max=10, help="Rows whose attention is shown.")
    ] = 3,
    max_drop: Annotated[
        float,
        typer.Option(
            metavar="DROP",
            min=0,
            max=100,
            help="Acceptable drop of the metric: 0.01 is one point. Numbers from 1 on are points.",
        ),
    ] = 0.01,
    quick: Annotated[
        bool, typer.Option("--quick", help="Skip the curves and quantization of single layers.")
    ] = False,
    as_json: AsJson = False,
    markdown: Markdown = False,
    quiet: Quiet = False,
) -> None:
    """Measure what a model can lose: heads, neurons, layers, bits.

    Reports how many attention heads and neurons the task needs, and what quantizing each layer costs. Test
    rows are not used.
    """
    if as_json and markdown:
        raise RecipeError("--json and --markdown exclude each other; give one")
    from compress.cli.console import say, shown_progress
    from compress.pipeline import check_can_be_made, inspect_model, inspection_recipe
    from compress.report import inspection_markdown, needed_heads, neuron_sentence, write_inspection

    drop = max_drop if max_drop < 1 else max_drop / 100
    recipe = inspection_recipe(model, values or [])
    target = Path("reports") / f"inspect-{recipe.run_name}" if output is None else output
    check_can_be_made(target / "inspection.json")
    if _RARELY_MEANT <= drop < 1 and drop == max_drop:
        say(f"note: --max-drop {max_drop:g} is a share, {100 * drop:g} points", "yellow", error=True)
    with shown_progress(to_stderr=as_json or markdown, quiet=quiet) as progress:
        found = inspect_model(
            recipe,
            calibration_rows=rows,
            validation_rows=validation_rows,
            sentences=sentences,
            max_drop=drop,
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
    model: Annotated[Path, typer.Argument(metavar="BUNDLE|FILE", help="Bundle, or any ONNX file.")],
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="BUNDLE|FILE",
            help="Bundle or ONNX file to compare with, profiled alternately.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Rows per call.")] = 1,
    sequence: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Tokens per row. Default: the first length in the bundle's report, otherwise 128.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="ONNX Runtime threads.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show where the time of an ONNX file goes, and what would help.

    Needs only ONNX Runtime's profiler, so it works with ONNX files from any tool.
    """
    from compress.cli.console import show_explanation
    from compress.measure import explain_file

    found = explain_file(model, against, batch=batch, sequence=sequence, threads=threads)
    if as_json:
        echo(found.model_dump_json(indent=2), as_data=True)
    else:
        show_explanation(found)
