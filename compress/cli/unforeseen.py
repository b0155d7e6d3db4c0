"""Unforeseen exceptions: one line for the user, and the traceback in a log file named in that line."""

from __future__ import annotations

import errno
import logging
import platform
import sys
import tempfile
import traceback
from importlib import metadata

from compress.errors import CompressError, InternalError, RecipeError, shortened
from compress.version import __version__

__all__ = ["as_known"]

_log = logging.getLogger(__name__)

_WRONG_PATHS = (errno.ENAMETOOLONG, errno.ELOOP)
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "pydantic", "tokenizers", "torch", "torchao")
_SHOWN_CHARACTERS = 300


def as_known(error: Exception) -> CompressError:
    """Convert any exception to the error that ends the command.

    Returns:
        A CompressError unchanged; a RecipeError for an impossible path; otherwise an InternalError, or a
        plain CompressError if the operating system refused something. The message names the log file with
        the traceback, which is also logged at level debug.
    """
    if isinstance(error, CompressError):
        return error
    if isinstance(error, OSError) and error.strerror:
        file = "" if error.filename is None else f"{shortened(str(error.filename), _SHOWN_CHARACTERS)}: "
        if error.errno in _WRONG_PATHS:
            return RecipeError(f"{file}{error.strerror}")
        return CompressError(f"{file}{error.strerror}; {_logged(error)}")
    said = shortened(str(error).strip().partition("\n")[0], _SHOWN_CHARACTERS)
    return InternalError(
        f"unexpected {type(error).__name__}{': ' if said else ''}{said}; this is a bug in modelpress; "
        f"{_logged(error)}"
    )


def _logged(error: Exception) -> str:
    """Write the traceback to a log file and return a sentence that names it."""
    _log.debug("unexpected exception", exc_info=error)
    lines = [
        f"modelpress {__version__}, Python {platform.python_version()}, {platform.platform()}\n",
        *(f"{name} {_version(name)}\n" for name in _LIBRARIES),
        f"command: {sys.argv}\n\n",
        *traceback.format_exception(error),
    ]
    try:
        handle, path = tempfile.mkstemp(prefix="modelpress-error-", suffix=".log")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(lines)
    except OSError as failure:
        return f"no log could be written ({failure.strerror}); MODELPRESS_LOG=debug prints the traceback"
    return f"the traceback is in {path} (MODELPRESS_LOG=debug prints it)"


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"
