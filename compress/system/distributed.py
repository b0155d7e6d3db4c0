"""Several processes that train together, started by a launcher.

    accelerate launch --multi_gpu --num_processes 2 -m compress run recipes/digits/distill.yaml

All go through the same stages, so that each has the model that is trained next. What must happen once
(writing, exporting, measuring, timing) is done by the main process, and the others receive the result.
With one process, the usual case, nothing here has any effect. (`--multi_gpu` is the launcher's term for
several processes on this machine; without a GPU they train on the CPU.)
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from compress.errors import CompressError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["all_of", "device_of", "from_main", "is_main", "process_count", "process_index", "sum_"]

T = TypeVar("T")

_LONGEST_WAIT = timedelta(days=7)  # the others wait while the main process measures
_alone = False  # the main process is doing something that the others wait for


def process_count() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Index of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes and prints."""
    return process_index() == 0


def device_of(name: str) -> str:
    """The device that this process trains on, of the kind that the recipe requests.

    Raises:
        StageError: the processes were started for another kind.
    """
    from accelerate import Accelerator

    if process_count() == 1:
        return str(Accelerator(cpu=name == "cpu").device)
    device = str(_joined().device)
    if (name == "cpu") != device.startswith("cpu"):
        raise StageError(
            f"device: {name}: the processes were launched to train on {device}; to train on the CPU, set "
            "ACCELERATE_USE_CPU=true"
        )
    return device


def from_main(make: Callable[[], T]) -> T:
    """Call `make` in the main process only; all processes return its result or raise its CompressError.

    Nested calls inside `make` run in the main process alone, as plain calls.
    """
    if process_count() == 1 or _alone:
        return make()
    import torch

    said: list[Any] = [None, None]
    _joined()
    if is_main():
        with _by_itself():
            try:
                said[0] = make()
            except CompressError as error:
                said[1] = error
    torch.distributed.broadcast_object_list(said, src=0)
    if said[1] is not None:
        raise said[1]
    found: T = said[0]
    return found


def all_of(value: T) -> list[T]:
    """The value of each process, by index."""
    if process_count() == 1:
        return [value]
    import torch

    found: list[Any] = [None] * process_count()
    _joined()
    torch.distributed.all_gather_object(found, value)
    return found


def sum_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor with its sum over all processes; all tensors are on one device."""
    if process_count() == 1:
        return
    import torch

    _joined()
    flat = torch.cat([each.flatten() for each in tensors])
    torch.distributed.all_reduce(flat)
    for each, part in zip(tensors, torch.split(flat, [each.numel() for each in tensors]), strict=True):
        each.copy_(part.view_as(each))


@contextmanager
def _by_itself() -> Iterator[None]:
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def _joined() -> Any:
    """The group of all processes, created on first use."""
    import torch
    from accelerate import PartialState

    cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    first = not torch.distributed.is_initialized()
    state = PartialState(cpu=cpu, timeout=_LONGEST_WAIT)
    if first:
        # At interpreter exit the group's threads may still run when they are destroyed: the process then
        # aborts, and a complete run counts as failed.
        atexit.register(_leave)
    return state


def _leave() -> None:
    """Close the connections to the other processes before the interpreter exits."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
