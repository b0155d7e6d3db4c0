"""The command line: arguments in, exit code out. 0 done, 1 failed work, 2 wrong input, 130 interrupted.

Nothing heavy is imported before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress import __version__
from compress.errors import CompressError, OutputError, RecipeError
from compress.processes import is_main, process_count, process_index

if TYPE_CHECKING:
    from compress.pipeline import Outcome
    from compress.recipe import Recipe

__all__ = ["app", "main"]

app = typer.Typer(
    name="modelpress",
    help="Run compression recipes, compare their reports, ship the ONNX bundles.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the runs and the cache.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run of the same name.")]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"modelpress {__version__}")
        raise typer.Exit


@app.command()
def init(directory: Annotated[Path, typer.Argument(help="Where to write models/ and recipes/.")]) -> None:
    """Write a starter folder: model files and recipes to run and change."""
    from compress.starter import init as write

    recipes = write(directory)
    typer.echo(f"wrote {directory}/models and {directory}/recipes ({len(recipes)} recipes)")
    first = directory / "recipes" / "digits" / "quantize-int8.yaml"
    typer.echo(f"next: modelpress run {first if first in recipes else recipes[0]}")


@app.command()
def run(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE... [KEY=VALUE...]",
            help="Recipe files, and values that replace theirs, e.g. model.hf=DIR or stages.0.sparsity=0.3.",
        ),
    ],
    output: _Output = Path("reports"),
    overwrite: _Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe, data, model and output; say what would be done.")
    ] = False,
) -> None:
    """Run recipes: compress, export to ONNX, prove, measure, report."""
    from compress.console import RichProgress, console

    recipes = _recipes(words)
    if process_count() > 1 and len(recipes) > 1:
        raise RecipeError(
            f"{len(recipes)} recipes were given to {process_count()} processes, which train one model "
            "together: give one recipe"
        )
    if dry_run and not is_main():
        return
    if dry_run:
        for recipe in recipes:
            _rehearse(recipe, output, overwrite=overwrite)
        return
    from compress.pipeline import check_files
    from compress.pipeline import run as run_recipe

    for recipe in recipes:
        check_files(recipe)  # of all, before the first one's work starts
    if not is_main():
        run_recipe(recipes[0], output, overwrite=overwrite)  # the main process says how it goes
        return
    outcomes: list[Outcome] = []
    failures: list[CompressError] = []
    for recipe in recipes:
        console.rule(f"[bold]{recipe.run_name}")
        try:
            with RichProgress() as progress:
                outcome = run_recipe(recipe, output, overwrite=overwrite, progress=progress)
        except CompressError as error:
            if len(recipes) == 1:
                raise
            failures.append(error)
            _print_error(error)
            continue
        outcomes.append(outcome)
        _summarise(outcome)
    _close(outcomes, output)
    if failures:
        typer.echo(f"{len(failures)} of {len(recipes)} recipes failed; the messages stand above", err=True)
        raise typer.Exit(max(error.exit_code for error in failures))


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A Hugging Face directory or name, a bundle, or a recipe.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's directory.")],
    max_length: Annotated[
        int, typer.Option(min=2, help="Longest text in tokens; longer ones are cut.")
    ] = 128,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a directory of this name.")] = False,
) -> None:
    """Export a model to an ONNX bundle as it is, and compare its answers with PyTorch's."""
    from compress.console import RichProgress
    from compress.pipeline import export_model

    with RichProgress() as progress:
        parity = export_model(model, output, max_length=max_length, overwrite=overwrite, progress=progress)
    typer.echo(
        f"wrote {output}: it agrees with PyTorch on {parity['agreement']:.1%} of {parity['rows']:.0f} rows "
        f"(largest difference of a logit {parity['max_abs_error']:.1e})"
    )


@app.command()
def bundle(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Directories of finished runs of one model.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The directory of all variants.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a directory of this name.")] = False,
) -> None:
    """Put the ONNX files of several runs of one model into one directory, to choose from where it is used."""
    from compress.console import console, draw
    from compress.pipeline import bundle_variants
    from compress.report import variants_table

    console.print(draw(variants_table(bundle_variants(runs, output, overwrite=overwrite))))
    typer.echo(f"wrote {output}: its README.md says how to use a variant")


@app.command()
def inspect(
    model: Annotated[
        str, typer.Argument(help="A Hugging Face directory or name, a bundle, or a recipe (stages ignored).")
    ],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE...]",
            help="The rows, as in a recipe, e.g. data.train=FILE data.validation=FILE; other keys too.",
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
) -> None:
    """Say how many heads and neurons a task needs and what quantizing a layer costs, without test rows."""
    if as_json and markdown:
        raise RecipeError("give --json or --markdown, not both")
    from compress.console import RichProgress, say
    from compress.pipeline import check_can_be_made, inspect_model, inspection_recipe
    from compress.report import inspection_markdown, needed_heads, neuron_sentence, write_inspection

    recipe = inspection_recipe(model, values or [])
    target = Path("reports") / f"inspect-{recipe.run_name}" if output is None else output
    check_can_be_made(target / "inspection.json")
    with RichProgress(to_stderr=as_json or markdown) as progress:
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
    write_inspection(found, target)
    if as_json or markdown:
        typer.echo(found.model_dump_json(indent=2) if as_json else inspection_markdown(found))
        return
    say(needed_heads(found), "bold", wrap=True)
    for line in filter(None, (neuron_sentence(found), *found.notes)):
        say(line, wrap=True)
    say(f"report  {(target / 'inspection.html').resolve()}")


@app.command()
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
    from compress.console import show_explanation
    from compress.measure import explain_file

    found = explain_file(model, against, batch=batch, sequence=sequence, threads=threads)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        show_explanation(found)


@app.command()
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
        _write_text(html, comparison.to_html())
        typer.echo(f"wrote {html}", err=True)
    if as_json:
        typer.echo(comparison.to_json())
    elif markdown:
        typer.echo(comparison.to_markdown())
    elif html is None:
        from compress.console import console

        console.print(comparison.to_table())


@app.command("list")
def list_() -> None:
    """List the stages, models and tasks that a recipe can name, a line each."""
    from compress.console import console, listing

    console.print(listing())


@app.command()
def show(
    words: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE [KEY=VALUE...]", help="A recipe, and values that replace its own."),
    ],
) -> None:
    """Show a recipe as it would be run, with every default."""
    recipes = _recipes(words)
    if len(recipes) != 1:
        raise RecipeError("show takes one recipe")
    typer.echo(recipes[0].to_yaml(), nl=False)


def _recipes(words: Sequence[str]) -> list[Recipe]:
    """Load every recipe before any work starts."""
    from compress.recipe import load_recipe

    paths = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if not paths:
        raise RecipeError("give at least one recipe, e.g. modelpress run recipes/digits/quantize-int8.yaml")
    recipes = [load_recipe(Path(path), overrides) for path in paths]
    names = [recipe.run_name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"two recipes have the run name '{name}': run them apart, or give each a name:")
    return recipes


def _rehearse(recipe: Recipe, output: Path, *, overwrite: bool) -> None:
    import tempfile

    from compress.pipeline.cache import Cache
    from compress.pipeline.prepare import check_output, prepare
    from compress.pipeline.warn import doubts_of_data

    with tempfile.TemporaryDirectory(prefix="modelpress-") as scratch:
        prepared = prepare(recipe, Path(scratch))
    target = output / recipe.run_name
    splits, cache = prepared.splits, Cache(output / ".cache")
    typer.echo(f"{recipe.run_name}: recipe, data, model and stages fit together")
    typer.echo(
        f"  data    {splits.source}: {len(splits.train)} / {len(splits.validation)} / {len(splits.test)} rows"
    )
    trained = recipe.model.train is not None
    how = (
        ""
        if not trained
        else " (trained: in the cache)"
        if cache.holds(prepared.base_key)
        else " (would be trained)"
    )
    typer.echo(f"  model   {prepared.loaded.source}{how}")
    for stage, key in zip(recipe.stages, prepared.stage_keys, strict=True):
        typer.echo(f"  stage   {stage.name}{' (in the cache)' if cache.holds(key) else ''}")
    for doubt in doubts_of_data(recipe, splits):
        typer.echo(f"  note    {doubt}")
    done = check_output(target, prepared.run_key, overwrite=overwrite)
    typer.echo(f"  output  {target}{' (done already: nothing would be repeated)' if done else ''}")


def _summarise(outcome: Outcome) -> None:
    from compress.console import say
    from compress.report import caveats, fastest_sentence, verdict

    if outcome.already_done:
        say(
            f"done before, with the same recipe, data and versions: not repeated ({outcome.directory})", "dim"
        )
    found = outcome.report.measurement
    before, after = found.baseline.accuracy, found.candidate.accuracy
    say(f"accuracy {before.value:.1%} -> {after.value:.1%} of {after.rows:,} test rows", "bold")
    say(verdict(outcome.report), wrap=True)
    if found.runtimes is not None:
        say(fastest_sentence(found.runtimes), wrap=True)
    for caveat in caveats(outcome.report):
        say("note: ", "yellow", caveat, wrap=True)


def _close(outcomes: Sequence[Outcome], output: Path) -> None:
    """Say what the user now has, and what to type next."""
    if not outcomes:
        return
    from compress.console import console, say
    from compress.report import compare_reports

    directories = [outcome.directory for outcome in outcomes]
    console.rule("[bold]what you have now")
    page = directories[0] / "report.html"
    if len(outcomes) > 1:
        comparison = compare_reports(directories)
        console.print(comparison.to_table())
        page = output / "compare.html"
        _write_text(page, comparison.to_html())
    for directory in directories:
        say(f"bundle  {directory}", "", "  (onnx/model.onnx, report.html, README.md)", "dim")
    say(f"report  {page.resolve()}")
    example = directories[-1]
    say("next    open the report in a browser; then")
    say(f"          modelpress compare {output}")
    loading = f"import compress; print(compress.load({str(example)!r}))"
    say(f'          python -c "{loading}"', "", "   # the PyTorch module", "dim")
    say(f"        to deploy: copy {example}; its README.md has the code")


def _write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _print_error(error: CompressError) -> None:
    from compress.console import say

    who = "" if is_main() else f"process {process_index()}: "
    say(f"{who}error: ", "bold red", str(error), error=True)


_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    logging.basicConfig(
        level=os.environ.get("MODELPRESS_LOG", "WARNING").upper(), format="%(name)s: %(message)s"
    )
    # Where transformers imports torchao, it warns of how torchao registers its own enums with this torch.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    # One line of a library's own progress between ours is one too many; its errors still come through.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = app(
            args=None if arguments is None else list(arguments),
            prog_name="modelpress",
            standalone_mode=False,
        )
    except CompressError as error:
        _print_error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except typer.Exit as stop:
        code = stop.exit_code
    except Exception as error:  # typer's own usage errors, by their duck type: click may be vendored
        if not hasattr(error, "format_message"):
            raise
        error.show()  # type: ignore[attr-defined]
        return 2
    if code == _INTERRUPTED:  # some versions of typer turn a KeyboardInterrupt into this code themselves
        typer.echo(
            "\ninterrupted: nothing half-written is left; finished pieces and the epochs of a training are "
            "kept, so the same command goes on from them",
            err=True,
        )
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
