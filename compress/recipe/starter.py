"""Location of the model files and recipes that ship with modelpress.

A wheel carries them as package data; an editable install finds them at the root of the repository.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from compress.errors import OutputError

__all__ = ["init", "starter_folder"]

_PARTS = ("models", "recipes")


def starter_folder() -> Path:
    """Return the folder that contains models/ and recipes/."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / "_starter", package.parent):
        if all((root / part).is_dir() for part in _PARTS):
            return root
    raise OutputError(f"models/ and recipes/ are missing beside {package}; install modelpress again")


def init(directory: Path) -> list[Path]:
    """Copy models/ and recipes/ into a directory, creating it if needed.

    Returns:
        Paths of the copied recipes.

    Raises:
        OutputError: one of the folders exists already, or nothing can be written.
    """
    for part in _PARTS:
        if (directory / part).exists():
            raise OutputError(
                f"{directory / part} already exists, so nothing was written; choose another directory"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for part in _PARTS:
            shutil.copytree(
                starter_folder() / part,
                directory / part,
                ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
            )
    except OSError as error:
        raise OutputError(f"cannot write in {directory}: {error.strerror or error}") from error
    return sorted((directory / "recipes").rglob("*.yaml"))
