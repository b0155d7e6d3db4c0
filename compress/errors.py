"""Exceptions raised by modelpress. Each message gives location, problem, and what is allowed or what to do.

The same facts are fields of the exception, for programs and tests: `file`, `line`, `key`, `value`, `allowed`,
`nearest`. `see` is the page of docs/ that explains the subject.

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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
    "Problem",
    "RecipeError",
    "StageError",
    "UnknownNameError",
    "did_you_mean",
    "first_line",
    "nearest_name",
    "shortened",
    "work_begun",
]

_LONGEST_NAME = 500
_LONGEST_OVERRIDE = 120
_LISTED = 5  # overrides in one message


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, as fields; `str()` is the sentence. None or empty: unknown or not applicable.

    Attributes:
        text: the problem and what is allowed, without the location.
        file: the file that contains it.
        line: line in that file, from 1.
        overrides: the command-line overrides that contain it, as typed.
        key: key in a recipe, with dots: model.train.epochs, prune/heads.sparsity, measure.batch[0].
        value: the value found there.
        allowed: the names or values that are allowed.
        nearest: the allowed name that resembles the value most.
        unknown_name: the problem is just an unknown name.
        see: page of the documentation, such as how-to/own-modules.
    """

    text: str = ""
    file: str | None = None
    line: int | None = None
    overrides: tuple[str, ...] = ()
    key: str | None = None
    value: Any = None
    allowed: tuple[str, ...] = ()
    nearest: str | None = None
    unknown_name: bool = False
    see: str | None = None

    def __str__(self) -> str:
        quoted = [f"override '{shortened(each, _LONGEST_OVERRIDE)}'" for each in self.overrides]
        if len(quoted) > _LISTED:
            quoted[_LISTED - 1 :] = [f"{quoted[_LISTED - 1]} and {len(quoted) - _LISTED} more"]
        file = None if self.file is None else self.file if self.line is None else f"{self.file}:{self.line}"
        location = " with ".join(filter(None, (file, ", ".join(quoted))))
        return f"{location}: {self.text}" if location else self.text


class CompressError(Exception):
    """Base of our exceptions.

    Attributes:
        exit_code: 1 failed work, 2 wrong input, 3 not good enough, 70 a bug in modelpress.
        problems: what is wrong, as fields; the fields of the first are also attributes of the exception.
        see: page of the documentation that helps, as `modelpress docs` takes it; None: no particular one.
    """

    exit_code = 1
    see: str | None = None

    def __init__(
        self, message: str | Problem = "", *, problems: Sequence[Problem] = (), see: str | None = None
    ) -> None:
        super().__init__(str(message))
        self.problems = (message,) if isinstance(message, Problem) else tuple(problems)
        first = self.problems[0] if self.problems else Problem()
        self.file, self.line, self.overrides = first.file, first.line, first.overrides
        self.key, self.value = first.key, first.value
        self.allowed, self.nearest = first.allowed, first.nearest
        self.see = see or first.see or type(self).see


class RecipeError(CompressError):
    """A recipe that cannot be run as written."""

    exit_code = 2


class UnknownNameError(RecipeError):
    """An unknown name; the message suggests the nearest known one."""


class DataError(CompressError):
    """Data that is missing, empty, leaking between splits, or mislabelled."""

    exit_code = 2
    see = "reference/recipe"


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

    see = "how-to/own-modules"


class ParityError(CompressError):
    """An ONNX file whose outputs differ from those of its PyTorch model."""

    see = "explanation/numerics"


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


def nearest_name(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that resembles `name` most; None if none does."""
    # No name is this long, and the comparison takes quadratic time.
    compared = name if len(name) <= _LONGEST_NAME else ""
    for near in difflib.get_close_matches(compared, sorted(allowed), n=3, cutoff=0.6):
        given, known = compared.rpartition("/")[2], near.rpartition("/")[2]
        if difflib.SequenceMatcher(None, given, known).ratio() >= 0.5:  # a folder in common is not enough
            return near
    return None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """End of a message about an unknown name: `; did you mean 'x'?` or `; allowed: a, b`."""
    options = sorted(allowed)
    near = nearest_name(name, options)
    return f"; allowed: {', '.join(options)}" if near is None else f"; did you mean '{near}'?"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its class if it has none."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def shortened(text: str, most: int = 80) -> str:
    """Shorten text quoted in a message to `most` characters, ending in `...` if it was cut."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
