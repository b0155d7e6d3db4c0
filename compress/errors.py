"""The errors that modelpress raises. Each message says where, what, and what is allowed.

CompressError
├── RecipeError          a recipe that cannot be run as written
│   └── UnknownNameError   a name that is not known, with the nearest that is
├── DataError            data that is missing, empty, leaking or mislabelled
├── ModelError           a model that cannot be loaded, or whose structure is not known
├── OutputError          an output directory that cannot be written, or that holds something else
├── StageError           a stage that cannot do what it was asked to
├── ExportError          a graph that cannot be exported
├── ParityError          an ONNX file that does not answer as its PyTorch model does
├── MeasureError         a measurement that did not come back
├── NotReachedError      what was asked for is not among what there is
└── InternalError        a fault of modelpress itself
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
    "shortened",
    "work_begun",
]

_LONGEST_NAME = 500


class CompressError(Exception):
    """Base of all our errors; `exit_code` is what the command line returns: 1 failed work, 2 wrong input,
    3 not good enough, 70 a fault of modelpress."""

    exit_code = 1


class RecipeError(CompressError):
    """A recipe that cannot be run as written."""

    exit_code = 2


class UnknownNameError(RecipeError):
    """A name that is not known; the message holds the nearest that is."""


class DataError(CompressError):
    """Data that is missing, empty, leaking between splits, or mislabelled."""

    exit_code = 2


class ModelError(CompressError):
    """A model that cannot be loaded, or whose structure is not known."""

    exit_code = 2


class OutputError(CompressError):
    """An output directory that cannot be written, or that holds something else."""

    exit_code = 2


class StageError(CompressError):
    """A stage that cannot do what it was asked to do to this model."""


class ExportError(CompressError):
    """A model that cannot be exported to ONNX."""


class ParityError(CompressError):
    """An ONNX file that does not answer as the PyTorch model it came from."""


class MeasureError(CompressError):
    """A measurement that did not come back."""


class NotReachedError(CompressError):
    """What was asked for is not among what there is: the work was done, and no result is good enough."""

    exit_code = 3


class InternalError(CompressError):
    """An exception that modelpress did not foresee; the message names the log file with its traceback."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h


@contextmanager
def work_begun() -> Iterator[None]:
    """Whatever fails inside is failed work: errors of wrong input get the exit code of that."""
    try:
        yield
    except CompressError as error:
        if error.exit_code == RecipeError.exit_code:
            error.exit_code = CompressError.exit_code
        raise


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Say which names are allowed, nearest first: `; did you mean 'x'?` or `; allowed: a, b`."""
    options = sorted(allowed)
    # No name is as long as this, and the comparison takes time by the square of the length.
    compared = name if len(name) <= _LONGEST_NAME else ""
    near = difflib.get_close_matches(compared, options, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; allowed: {', '.join(options)}"


def shortened(text: str, most: int = 80) -> str:
    """Cut a text that a message quotes to a number of characters; `...` at its end shows that it was cut."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
