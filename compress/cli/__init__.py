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
from collections.abc import Callable, Sequence
from inspect import cleandoc
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from compress.cli.common import INTERRUPTED, print_error, start_logging
from compress.cli.compare import check, compare
from compress.cli.docs import docs
from compress.cli.generate import generate
from compress.cli.models import bundle, explain, export, inspect
from compress.cli.recipes import list_, show
from compress.cli.run import init, run
from compress.cli.unforeseen import as_known
from compress.errors import RecipeError, shortened
from compress.system.signals import ended_as_interrupted, exit_code
from compress.version import __version__

__all__ = ["app", "main"]

_EXIT_CODES = """Exit codes:
   0  success
   1  the work failed
   2  wrong input: a command, recipe, model, data set or file
   3  a gate or check failed, or no run satisfies the request
   4  no gate failed, but the machine was too busy to judge one
  70  a bug in modelpress
 130  interrupted by Ctrl-C (143 by SIGTERM, 129 by SIGHUP)"""


def _examples(*commands: str) -> str:
    return "\n".join(["Examples:", *(f"$ modelpress {command}" for command in commands)])


def _paragraphs(text: str) -> str:
    """A docstring with one line for each paragraph, which typer wraps at the terminal's width."""
    return "\n\n".join(" ".join(each.split()) for each in cleandoc(text).split("\n\n"))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types_of_flags(super().get_params(ctx))


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types_of_flags(super().get_params(ctx))


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return parameters


app = typer.Typer(
    name="modelpress",
    help="Compress PyTorch models by recipe, export them to ONNX, and measure the result.",
    epilog=f"{_examples('init demo', 'run demo/recipes/digits/quantize-int8.yaml')}\n\n{_EXIT_CODES}",
    cls=_Group,
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


_INT8 = "reports/digits-quantize-int8"
# Headings of `modelpress --help`, and the examples that end each command's help.
_COMMANDS: dict[str, dict[Callable[..., None], tuple[str, ...]]] = {
    "Start": {
        init: ("init demo",),
        docs: ("docs", "docs how-to/choose-a-recipe"),
        list_: ("list", "list stages"),
        show: ("show recipes/digits/prune-heads.yaml prune/heads.sparsity=0.5", "show prune/heads"),
    },
    "Compress": {
        run: (
            "run recipes/digits/quantize-int8.yaml --dry-run",
            "run recipes/digits/prune-heads.yaml prune/heads.sparsity=0.5",
        ),
        export: ("export my-model -o bundle",),
    },
    "Understand": {
        inspect: (
            "inspect my-model data.train=train.csv",
            "inspect recipes/digits/quantize-int8.yaml --quick",
        ),
        explain: (f"explain {_INT8}", "explain new.onnx --against old.onnx --threads 2"),
        compare: ("compare reports", "compare reports --where 'drop < 0.01' --sort size_mb"),
    },
    "Ship and check": {
        check: (f"check {_INT8} gates.max_size_mb=50", f"check {_INT8} --junit check.xml"),
        bundle: (f"bundle {_INT8} reports/digits-prune-heads -o variants",),
        generate: ('generate reports/decoder-joint "Once upon a time"',),
    },
}
for _heading, _group in _COMMANDS.items():
    for _command, _lines in _group.items():
        app.command(
            _command.__name__.strip("_"),
            cls=_Command,
            help=_paragraphs(_command.__doc__ or ""),
            rich_help_panel=_heading,
            epilog=_examples(*_lines),
        )(_command)


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
            f"\n{how}: partial output was removed; finished stages and training epochs are cached, so the "
            "same command continues from there",
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
