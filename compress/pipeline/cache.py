"""Cache of finished pieces of work, keyed by everything they depend on (see `compress.keys`).

A piece is a module with its record: a trained model, or the result of a stage. Recipes with the same model
share its training; an interrupted run continues from its last finished piece. If two runs need one piece at
once, one makes it and the other waits (see `system.locks`). The folder can be deleted at any time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from compress.errors import ModelError
from compress.export import sha256_of
from compress.model import load_module, save_module
from compress.system.disk import cannot_write, owned_directory, remove_leftovers
from compress.system.distributed import from_main
from compress.system.files import read_json
from compress.system.locks import only_one

__all__ = ["Cache", "Piece"]


@dataclass(frozen=True)
class Piece:
    """A module, the record of how it was made, and whether it came from the cache."""

    module: nn.Module
    record: dict[str, Any]
    reused: bool


_FILES = "sha256"  # key in a record: hash of each of the piece's files, by name


class Cache:
    """A folder of pieces."""

    def __init__(self, root: Path, say: Callable[[str], None] | None = None) -> None:
        """`say` is called with a message when another run is making a piece that this one needs."""
        self.root = root
        self._say = say or (lambda line: None)

    def holds(self, key: str) -> bool:
        """Whether a piece exists."""
        return (self.root / key / "record.json").is_file()

    def module(
        self, key: str, make: Callable[[], tuple[nn.Module, dict[str, Any]]], *, what: str = "the same piece"
    ) -> Piece:
        """Return the piece with this key; make and store it if it is missing or damaged.

        Args:
            what: name of the piece, for messages while waiting for another run that makes it.
        """
        with only_one(self.root, key, f"makes {what}", self._say):
            return self._module(key, make)

    def _module(self, key: str, make: Callable[[], tuple[nn.Module, dict[str, Any]]]) -> Piece:
        loaded: list[nn.Module] = []  # in the main process
        found = from_main(lambda: self._loadable(key, loaded))
        if found is not None:
            return Piece(loaded[0] if loaded else load_module(self.root / key), found, reused=True)
        module, record = make()

        def keep() -> dict[str, Any]:
            self._keep(key, lambda directory: save_module(module, directory), record)
            shutil.rmtree(self.training(key), ignore_errors=True)
            return record

        return Piece(module, from_main(keep), reused=False)

    def _loadable(self, key: str, loaded: list[nn.Module]) -> dict[str, Any] | None:
        """Load the module of a piece and return its record; remove a damaged one and return None."""
        found = self._record(key)
        if found is not None:
            try:
                loaded.append(load_module(self.root / key))
            except ModelError:
                shutil.rmtree(self.root / key)
                return None
            shutil.rmtree(self.training(key), ignore_errors=True)  # it was killed before removing them
        return found

    def training(self, key: str) -> Path:
        """Folder of the checkpoints until the piece with this key is stored."""
        return self.root / f"{key}.training"

    def file(
        self,
        key: str,
        make: Callable[[Path], dict[str, Any]],
        *,
        what: str = "the same piece",
        usable: Callable[[dict[str, Any]], bool] = lambda record: True,
    ) -> tuple[Path, dict[str, Any]]:
        """Return the directory of this key and its record; `make` writes files into a directory.

        Args:
            what: as for `module`.
            usable: whether the piece with this record can be used here; if not, it is made again.
        """
        return self.root / key, from_main(lambda: self._files(key, make, what, usable))

    def _files(
        self,
        key: str,
        make: Callable[[Path], dict[str, Any]],
        what: str,
        usable: Callable[[dict[str, Any]], bool],
    ) -> dict[str, Any]:
        with only_one(self.root, key, f"makes {what}", self._say):
            found = self._record(key)
            if found is not None and usable(found):
                return found
            shutil.rmtree(self.root / key, ignore_errors=True)
            made: dict[str, Any] = {}
            self._keep(key, lambda directory: made.update(make(directory)), made)
            return made

    def _record(self, key: str) -> dict[str, Any] | None:
        """Return the record of a complete piece; remove a damaged one and return None."""
        directory = self.root / key
        if not directory.exists():
            return None
        try:
            record: dict[str, Any] = read_json(directory / "record.json")
            if all(sha256_of(directory / name) == kept for name, kept in record.pop(_FILES, {}).items()):
                return record
        except (OSError, ValueError):
            pass  # a file is missing, or the record is not JSON
        shutil.rmtree(directory)
        return None

    def _keep(self, key: str, write: Callable[[Path], None], record: dict[str, Any]) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.root)
            with owned_directory(self.root, f".{key[:12]}.") as partial:
                write(partial)
                files = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
                text = json.dumps({**record, _FILES: files}, indent=1)
                (partial / "record.json").write_text(text, encoding="utf-8")
                if not self.holds(key):
                    os.replace(partial, self.root / key)
        except OSError as error:
            raise cannot_write(error, self.root) from error
