"""Whether the disks have room for what a run certainly writes, before it begins."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from compress.pipeline.cache import Cache
from compress.pipeline.exported import baseline_key
from compress.pipeline.prepare import Prepared, check_can_be_made
from compress.system.disk import check_room

__all__ = ["check_disk", "check_room_for", "weight_bytes"]

_SMALL = 8_000_000  # reports, tokenizers, rows
_LEAST_PART = 8  # of the model's size that a compressed one has at the least: four bits a weight
_OUTPUT, _SCRATCH = "choose another place with -o", "set TMPDIR to another place"


def check_disk(prepared: Prepared, cache: Cache, target: Path) -> None:
    """Refuse a run whose output, cache or temporary folder can't be written or is too full.

    Raises:
        OutputError: names the folder, what is free and what is needed.
    """
    check_can_be_made(cache.root / "piece")
    recipe, module = prepared.recipe, prepared.loaded.module
    trained = recipe.model.train is not None and not cache.holds(prepared.base_key)
    timed = any(
        stage.is_timed and not cache.holds(key)
        for stage, key in zip(recipe.stages, prepared.stage_keys, strict=True)
    )
    exported = not cache.holds(baseline_key(prepared))
    size = weight_bytes(module)
    check_room_for(
        target,
        output=size * (trained + exported) + 2 * size // _LEAST_PART,
        scratch=size if timed else size // _LEAST_PART,
    )


def check_room_for(target: Path, *, output: int, scratch: int) -> None:
    """Refuse a bundle that there is no room for.

    Args:
        output: bytes that are written beside `target` at the least.
        scratch: bytes that are written to the temporary folder at the least.

    Raises:
        OutputError: names the folder, what is free and what is needed.
    """
    temporary = Path(tempfile.gettempdir())
    check_room({target.parent: (output + _SMALL, _OUTPUT), temporary: (scratch + _SMALL, _SCRATCH)})


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights as they are."""
    return sum(each.numel() * each.element_size() for each in module.state_dict().values())
