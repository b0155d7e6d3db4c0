"""The command line: arguments in, exit code out.

0 done, 1 failed work, 2 wrong input, 3 a gate that fails, 4 a gate that a busy machine could not judge,
70 a bug in modelpress, 130 interrupted (143 by SIGTERM, 129 by SIGHUP).
Heavy imports are deferred until a command needs them, so that `--help` is instant.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from compress.cli.common import INTERRUPTED, print_error, start_logging
from compress.cli.compare import check, compare
from compress.cli.generate import generate
from compress.cli.models import bundle, explain, export, inspect
from compress.cli.recipes import list_, show
from compress.cli.run import init, run
from compress.cli.unforeseen import as_known
from compress.errors import RecipeError, shortened
from compress.system.signals import ended_as_interrupted, exit_code
from compress.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    name="modelpress",
    help="Run compression recipes, compare their reports, ship the ONNX bundles.",
    epilog=(
        "Exit codes: 0 done, 1 the work failed, 2 the input was wrong, 3 a gate or check does not hold, "
        "4 none fails, but the machine was too busy to judge one, 130 interrupted."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"modelpress {__version__}")
        raise typer.Exit


for _command in (init, run, export, bundle, inspect, explain, compare, check, generate):
    app.command()(_command)
app.command("list")(list_)
app.command()(show)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    _write_any_text()
    # Keep progress output of libraries out of ours; their errors are still shown.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # OpenMP threads that spin while waiting occupy cores that other processes need. torch reads this when
    # it is loaded; ONNX Runtime's own threads are unaffected.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ended_as_interrupted() as ended:
        code = _run(arguments)
    if code == INTERRUPTED:  # some versions of typer turn a KeyboardInterrupt into this code
        how = f"ended by {signal.Signals(ended.number).name}" if ended.number else "interrupted"
        typer.echo(
            f"\n{how}: nothing half-written is left; finished pieces and the epochs of a training are "
            "kept, so the same command goes on from them",
            err=True,
        )
        return exit_code(ended.number) if ended.number else INTERRUPTED
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        start_logging()
        given = sys.argv[1:] if arguments is None else list(arguments)
        _refuse_no_text(given)
        code = app(
            args=given,
            prog_name="modelpress",
            standalone_mode=False,
        )
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's usage errors, by duck type: click may be vendored
            error.show()  # type: ignore[attr-defined]
            return 2
        known = as_known(error)
        print_error(known)
        return known.exit_code
    return code if isinstance(code, int) else 0


def _write_any_text() -> None:
    """Escape characters that the standard streams cannot encode, such as in file names that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse_no_text(arguments: Sequence[str]) -> None:
    """Reject arguments that are not UTF-8, which no report, manifest or recipe could contain.

    Raises:
        RecipeError: an argument is not UTF-8.
    """
    for word in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise RecipeError(f"the argument {shortened(ascii(word))} is not UTF-8 text; rename the file")


if __name__ == "__main__":
    sys.exit(main())
