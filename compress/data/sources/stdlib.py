"""Language modelling on the source of Python's own standard library; nothing is downloaded."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from compress.data.sources.corpus import Documents, TextStream, distinct_documents

__all__ = ["StdlibData"]

_NOT_LIBRARY = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "idle_test",
    "lib2to3",
    "__pycache__",
}


class StdlibData(TextStream):
    """Language modelling on the source of Python's own standard library; nothing is downloaded.

    Attributes:
        train_bytes: amount of text to train on: whole files, sampled by the seed.
    """

    source: Literal["stdlib"] = "stdlib"
    train_bytes: int = Field(default=2_000_000, ge=10_000)

    def documents(self) -> dict[str, Documents]:
        """Draw files until there is enough to train on."""
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [
            file
            for file in sorted(root.rglob("*.py"))
            if not _NOT_LIBRARY & set(file.relative_to(root).parts[:-1])
        ]
        share = 1 - self.validation_fraction - self.test_fraction
        texts: list[str] = []
        size = 0
        for index in np.random.default_rng(self.seed).permutation(len(files)):
            if size >= self.train_bytes / share:
                break
            try:
                texts.append(files[index].read_text(encoding="utf-8"))
            except (UnicodeDecodeError, OSError):
                continue  # a few files deliberately use other encodings
            size += len(texts[-1].encode())
        version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
        return {"train": distinct_documents(f"Python {version}'s standard library", texts)}
