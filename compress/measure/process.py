"""Python processes of our own, which find the packages that this one finds, in any working directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["python_command", "python_environment"]


def python_command(module: str, *arguments: Path) -> list[str]:
    """Build the command that runs a module; -P keeps a user's file named like a library out of the way."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def python_environment() -> dict[str, str]:
    """Build the environment that hands on this process's search path, as multiprocessing's spawn does."""
    path = os.pathsep.join(str(Path.cwd()) if entry == "" else entry for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path}
