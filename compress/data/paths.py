"""Paths in a recipe, relative to its file; on the command line, relative to the working directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from compress.data.table import listed
from compress.errors import nearest_name

__all__ = [
    "COLUMN_FORMATS",
    "CommandLineText",
    "PathOrName",
    "RecipePath",
    "format_of",
    "near_path",
    "what_is_there",
]

COLUMN_FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
"""Extensions of tabular files."""


class CommandLineText(str):
    """A value from the command line: a path in it is relative to the working directory."""


def _resolved(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    base = (info.context or {}).get("base")
    root = Path.cwd() if base is None or isinstance(value, CommandLineText) else Path(base)
    # normpath, not resolve: keeps symlinks as the user wrote them.
    return Path(os.path.normpath(root / Path(value).expanduser()))


def _resolved_if_there(value: Any, info: ValidationInfo) -> Any:
    path = _resolved(value, info)
    return str(path) if isinstance(path, Path) and path.exists() else value


RecipePath = Annotated[Path, BeforeValidator(_resolved)]
"""A path relative to the recipe's file."""

PathOrName = Annotated[str, BeforeValidator(_resolved_if_there)]
"""An existing directory, or else a name on the Hugging Face Hub."""


def format_of(path: Path) -> str:
    """Lower-case extension that decides how a file is read: `.csv` for `a.CSV` and `a.csv.gz`."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def near_path(path: Path) -> Path | None:
    """What resembles a missing path's name in its directory; None if nothing does, or the path exists."""
    try:
        names = [] if path.exists() else [each.name for each in path.parent.iterdir()]
    except OSError:
        return None
    near = nearest_name(path.name, [name for name in names if not name.startswith(".")])
    return None if near is None else path.with_name(near)


def what_is_there(path: Path) -> str:
    """For an error: why a path is not a readable file, and what is near it; empty if it is one."""
    if path.is_file():
        return ""
    if path.is_dir():
        inside = sorted(
            each.name
            for each in path.iterdir()
            if format_of(each) in COLUMN_FORMATS and not each.name.startswith(".")
        )
        return "is a directory" + (f"; it contains {listed(inside)}" if inside else "")
    if path.exists():
        return "is not a regular file"
    near = near_path(path)
    return "does not exist" + (f", but {near.name} does" if near else "")
