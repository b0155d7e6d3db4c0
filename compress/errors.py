"""Exceptions raised by modelpress. Each message gives location, problem, and what is allowed.

CompressError
├── RecipeError          invalid recipe
│   └── UnknownNameError   unknown name, with the nearest known one
├── DataError            data that is missing, empty, leaking or mislabelled
├── ModelError           a model that cannot be loaded, or has an unknown structure
├── OutputError          an output directory that cannot be written, or contains something else
├── StageError           a stage that cannot be applied as requested
├── ExportError          a graph that cannot be exported
├── ParityError          an ONNX file whose outputs differ from those of its PyTorch model
├── MeasureError         a measurement that returned no result
├── NotReachedError      no result satisfies the request
└── InternalError        a bug in modelpress
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "CompressError",
    "DataError",
    "ExportError",
    "InternalError",
    "MeasureError",
    "ModelError",
    "NotReachedError",
    "OutputError",
    "ParityError",
    "RecipeError",
    "StageError",
    "UnknownNameError",
    "did_you_mean",
    "first_line",
    "shortened",
    "work_begun",
]

_LONGEST_NAME = 500


class CompressError(Exception):
    """Base of our exceptions; `exit_code`: 1 failed work, 2 wrong input, 3 not good enough, 70 our bug."""

    exit_code = 1


class RecipeError(CompressError):
    """A recipe that cannot be run as written."""

    exit_code = 2


class UnknownNameError(RecipeError):
    """An unknown name; the message suggests the nearest known one."""


class DataError(CompressError):
    """Data that is missing, empty, leaking between splits, or mislabelled."""

    exit_code = 2


class ModelError(CompressError):
    """A model that cannot be loaded, or has an unknown structure."""

    exit_code = 2


class OutputError(CompressError):
    """An output directory that cannot be written, or contains something else."""

    exit_code = 2


class StageError(CompressError):
    """A stage that cannot be applied to this model as requested."""


class ExportError(CompressError):
    """A model that cannot be exported to ONNX."""


class ParityError(CompressError):
    """An ONNX file whose outputs differ from those of its PyTorch model."""


class MeasureError(CompressError):
    """A measurement that returned no result."""


class NotReachedError(CompressError):
    """No result satisfies the request: the work was done, but nothing is good enough."""

    exit_code = 3


class InternalError(CompressError):
    """An unforeseen exception in modelpress; the message names the log file with its traceback."""

    exit_code = 70  # EX_SOFTWARE in sysexits.h


@contextmanager
def work_begun() -> Iterator[None]:
    """Report errors raised inside as failed work: the exit code for wrong input is replaced."""
    try:
        yield
    except CompressError as error:
        if error.exit_code == RecipeError.exit_code:
            error.exit_code = CompressError.exit_code
        raise


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Suggest allowed names, nearest first: `; did you mean 'x'?` or `; allowed: a, b`."""
    options = sorted(allowed)
    # No name is this long, and the comparison takes quadratic time.
    compared = name if len(name) <= _LONGEST_NAME else ""
    near = difflib.get_close_matches(compared, options, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; allowed: {', '.join(options)}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its class if it has none."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def shortened(text: str, most: int = 80) -> str:
    """Shorten text quoted in a message to `most` characters, ending in `...` if it was cut."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
