"""Checks of where a run or a bundle is written: what is there already, permissions, disk space."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from torch import nn

from compress.errors import OutputError
from compress.pipeline.prepare import Run
from compress.system.disk import check_room
from compress.system.files import read_json

__all__ = ["check_can_be_made", "check_disk", "check_output", "check_room_for", "may_replace", "weight_bytes"]

_SMALL = 8_000_000  # bytes for reports, tokenizers, rows
_LEAST_PART = 8  # minimum compressed size as a fraction of the model's: four bits per weight
_OUTPUT, _SCRATCH = "choose another directory with -o", "set TMPDIR to another directory"


def check_output(target: Path, run_key: str, *, overwrite: bool) -> bool:
    """Whether `target` already contains this run, complete and unchanged.

    Raises:
        OutputError: something else exists there.
    """
    if not target.exists():
        check_can_be_made(target)
        return False
    manifest = target / "manifest.json"
    try:
        found = read_json(manifest)["run_key"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found is None and any(target.iterdir() if target.is_dir() else [target]):
        raise OutputError(
            f"{target} exists and is not a modelpress run; choose another directory with -o, or move it"
        )
    if overwrite or found is None:
        return False
    if found != run_key:
        raise OutputError(
            f"{target} contains a run of another recipe, other data, another version or another machine; "
            "give --overwrite to replace it, or name=... or -o to keep both"
        )
    return True


def may_replace(output: Path, overwrite: bool) -> bool:
    """Whether something will be replaced: an empty directory, or with `overwrite` a bundle.

    Raises:
        OutputError: something else exists there.
    """
    if not output.exists():
        return False
    if output.is_dir() and not any(output.iterdir()):
        return True
    if not (output / "manifest.json").is_file():
        raise OutputError(
            f"{output} exists and is not a modelpress bundle; choose another directory with -o, or move it"
        )
    if not overwrite:
        raise OutputError(f"{output} already exists; give --overwrite to replace it")
    return True


def check_can_be_made(target: Path) -> None:
    """Check that a directory can be created there.

    Raises:
        OutputError: it cannot.
    """
    there = next(parent for parent in target.absolute().parents if parent.exists())
    if not there.is_dir():
        raise OutputError(f"cannot write {target}: {there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {target}: {there} is read-only for this user")


def check_disk(run: Run, target: Path) -> None:
    """Reject a run whose output, cache or temporary folder is not writable or too full.

    Raises:
        OutputError: names the folder, the free space and the space needed.
    """
    recipe, keys, cache = run.recipe, run.keys, run.cache
    check_can_be_made(cache.root / "piece")
    trained = recipe.model.train is not None and not cache.holds(keys.base)
    timed = any(
        stage.is_timed and not cache.holds(key) for stage, key in zip(recipe.stages, keys.stages, strict=True)
    )
    exported = not cache.holds(keys.baseline)
    size = weight_bytes(run.loaded.module)
    check_room_for(
        target,
        output=size * (trained + exported) + 2 * size // _LEAST_PART,
        scratch=size if timed else size // _LEAST_PART,
    )


def check_room_for(target: Path, *, output: int, scratch: int) -> None:
    """Reject a bundle for which there is not enough space.

    Args:
        output: minimum bytes written next to `target`.
        scratch: minimum bytes written to the temporary folder.

    Raises:
        OutputError: names the folder, the free space and the space needed.
    """
    temporary = Path(tempfile.gettempdir())
    check_room({target.parent: (output + _SMALL, _OUTPUT), temporary: (scratch + _SMALL, _SCRATCH)})


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights as stored in memory."""
    return sum(each.numel() * each.element_size() for each in module.state_dict().values())
