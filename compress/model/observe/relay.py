"""Resume a model from its last settled block instead of its start: total cost linear in its depth.

If layers are changed one after the other, each based on the outputs of those before it, a block (a layer of
an encoder) that is settled returns the same outputs in every later pass. Those of the last settled block are
kept in files, batch by batch; later passes skip all settled blocks and continue from them. Memory is that of
one batch, and the files hold rows * positions * width numbers. Whether the rest of the model depends on the
blocks only through the last one's output is verified on two rows; otherwise the model is run from its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import StageError
from compress.model.observe.capture import Place, inputs_at

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

__all__ = ["Relay"]

Inputs = Mapping[str, "Tensor"]


class _DoneError(BaseException):
    """Ends a forward pass after a block; not an Exception, so that no `except` in a model catches it."""


class Relay:
    """The inputs of places, requested in the order in which the model reaches them.

    Attributes:
        blocks: skipped once settled; empty if this model is run from its start.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Sequence[Place],
        batches: Callable[[], Iterator[dict[str, Tensor]]],
        folder: Path,
    ) -> None:
        """Find the model's blocks.

        Args:
            model: in eval mode on the batches' device whenever they are drawn.
            places: all that will be requested, in the order in which the model reaches them.
            batches: returns the same batches each time.
            folder: empty; holds the blocks' outputs.
        """
        self._model, self._batches, self._folder = model, batches, folder
        self._settled = 0
        self.blocks: list[nn.Module] = []
        self._before: dict[str, int] = {}
        for batch in batches():
            few = {name: tensor[:2] for name, tensor in batch.items()}
            self.blocks, self._before = _chain(model, places, few)
            break

    def inputs_at(self, place: Place) -> Iterator[Tensor]:
        """Yield a place's inputs, batch by batch, without padding: [t, i].

        Everything that the model runs before the place must be final.

        Raises:
            StageError: as `capture.inputs_at`, or the blocks' outputs can't be written.
        """
        self._settle(self._before.get(place.name, 0))
        for index, batch in enumerate(self._batches()):
            with self._skipping(index):
                yield inputs_at(self._model, [place], batch)[0]

    def arguments_of(self, number: int) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], Tensor | None]]:
        """Yield what a block is called with, batch by batch: its arguments, and the mask of the positions.

        Everything that the model runs before the block must be final.

        Args:
            number: of the block, from 0.
        """
        self._settle(number)
        for index, batch in enumerate(self._batches()):
            with self._skipping(index):
                given, named = _arguments_of(self.blocks[number], self._model, batch)
            yield given, named, batch.get("attention_mask")

    def _settle(self, count: int) -> None:
        """Store the output of the last settled block; delete what was stored before."""
        if count <= self._settled:
            return
        for index, batch in enumerate(self._batches()):
            with self._skipping(index):
                output = _output_of(self.blocks[count - 1], self._model, batch)
            self._write(self._file(count, index), output)
            self._file(self._settled, index).unlink(missing_ok=True)
        self._settled = count

    def _skipping(self, index: int) -> Any:
        kept = _read(self._file(self._settled, index), self._model) if self._settled else None
        return _skipped(self.blocks[: self._settled], kept)

    def _file(self, settled: int, index: int) -> Path:
        return self._folder / f"{settled}-{index}.npz"

    def _write(self, file: Path, output: Any) -> None:
        parts = [output] if not isinstance(output, tuple) else output
        arrays = {str(at): part.cpu().numpy() for at, part in enumerate(parts) if part is not None}
        arrays["parts"] = np.array(len(parts) if isinstance(output, tuple) else 0)
        try:
            np.savez(file, **arrays)
        except OSError as error:
            raise StageError(
                f"calibration: can't write to {file.parent}: {error.strerror or error}"
            ) from error


def _read(file: Path, model: nn.Module) -> Any:
    import torch

    from compress.model.forward import device_of

    device = device_of(model)
    with np.load(file, allow_pickle=False) as arrays:
        count = int(arrays["parts"])
        found = {name: torch.from_numpy(arrays[name]).to(device) for name in arrays if name != "parts"}
    return tuple(found.get(str(at)) for at in range(count)) if count else found["0"]


def _chain(
    model: nn.Module, places: Sequence[Place], inputs: Inputs
) -> tuple[list[nn.Module], dict[str, int]]:
    """Find blocks that run once each, in order, and the number of blocks run before each place."""
    import torch
    from torch.nn import ModuleList, Sequential

    from compress.model.forward import logits

    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, (ModuleList, Sequential))]
    if not lists:
        return [], {}
    _, chosen = max(lists, key=lambda each: sum(p.consumer.startswith(f"{each[0]}.") for p in places))
    blocks = list(chosen)
    if any("forward" in vars(block) for block in blocks):
        return [], {}
    truth, order, outputs, before = _traced(model, blocks, places, inputs)
    if order != list(range(len(blocks))) or any(output is None for output in outputs):
        return [], {}
    for count, output in enumerate(outputs, start=1):
        with torch.no_grad(), _skipped(blocks[:count], output):
            if not torch.equal(logits(model, inputs), truth):
                return [], {}
    return blocks, before


def _traced(
    model: nn.Module, blocks: Sequence[nn.Module], places: Sequence[Place], inputs: Inputs
) -> tuple[Tensor, list[int], list[Any], dict[str, int]]:
    """One pass: logits, the order in which blocks ended, their outputs, blocks before each place."""
    import torch

    from compress.model.forward import logits

    order: list[int] = []
    outputs: list[Any] = []
    before: dict[str, int] = {}

    def finished(index: int, output: Any) -> None:
        order.append(index)
        outputs.append(_copied(output))

    def reached(name: str) -> None:
        before.setdefault(name, len(order))

    handles = [
        block.register_forward_hook(lambda _, __, output, index=index: finished(index, output))
        for index, block in enumerate(blocks)
    ]
    handles += [
        model.get_submodule(place.consumer).register_forward_pre_hook(
            lambda _, __, name=place.name: reached(name)
        )
        for place in places
    ]
    try:
        with torch.no_grad():
            return logits(model, inputs), order, outputs, before
    finally:
        for handle in handles:
            handle.remove()


def _copied(output: Any) -> Any:
    """Copy a tensor, or a tuple of only tensors; None for anything else."""
    from torch import Tensor

    if isinstance(output, Tensor):
        return output.clone()
    if type(output) is tuple and output and all(part is None or isinstance(part, Tensor) for part in output):
        return tuple(None if part is None else part.clone() for part in output)
    return None


def _output_of(block: nn.Module, model: nn.Module, inputs: Inputs) -> Any:
    """Run a model up to the end of a block and return the block's output."""

    def hooked(stop: Callable[[Any], None]) -> RemovableHandle:
        return block.register_forward_hook(lambda _, __, output: stop(output))

    return _stopped(model, inputs, hooked)


def _arguments_of(
    block: nn.Module, model: nn.Module, inputs: Inputs
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Run a model up to a block, and return the block's arguments."""

    def hooked(stop: Callable[[Any], None]) -> RemovableHandle:
        return block.register_forward_pre_hook(lambda _, given, named: stop((given, named)), with_kwargs=True)

    found: tuple[tuple[Any, ...], dict[str, Any]] = _stopped(model, inputs, hooked)
    return found


def _stopped(
    model: nn.Module, inputs: Inputs, hooked: Callable[[Callable[[Any], None]], RemovableHandle]
) -> Any:
    """What a hook gives to the function that it is made with, which ends the forward pass."""
    import torch

    found: list[Any] = []

    def stop(what: Any) -> None:
        found.append(what)
        raise _DoneError

    handle = hooked(stop)
    try:
        with torch.no_grad():
            model(**inputs)
    except _DoneError:
        pass
    finally:
        handle.remove()
    return found[0]


@contextmanager
def _skipped(blocks: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Make blocks return the last one's output without running."""
    for block in blocks:
        vars(block)["forward"] = lambda *_, **__: output
    try:
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]
