"""Convolutions: value ranges of their inputs and outputs on calibration rows, and their integers.

Per group, a convolution is a linear layer of its unfolded inputs, so integers are chosen as for one. Its
outputs are quantized too, so they need a range. If only ReLUs read an output, the range is taken after the
ReLU: clipping below 0 is then the ReLU itself, and no step is spent on negative values. All positions count,
padded ones too: a convolution mixes them with their neighbours.

Shapes: b = batch, c = input channels, o = output channels, k = kernel, t = positions of all rows,
i = c / groups * k inputs of an output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import StageError
from compress.model.forward import to_tensors
from compress.model.layers.convolution import edges_of
from compress.model.observe.gram import Gram
from compress.model.ops.convolution import pad_edges
from compress.quantize.equivalent.uses import uses_of
from compress.quantize.integers.clipping import Histogram

if TYPE_CHECKING:
    from compress.data.split import Split
    from compress.quantize.integers.choose import Algorithm, Integers
    from compress.quantize.integers.grid import Grid
    from compress.stage import Context

__all__ = ["Ends", "choose_convolutions_", "ends_of", "unfolded"]

Convolution = nn.Conv1d | nn.Conv2d
Meet = Callable[[Tensor, Tensor], None]
_BATCH = 8  # rows
_RELUS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


@dataclass(frozen=True)
class Ends:
    """Values of a convolution's inputs, and of its outputs or of the ReLU after it."""

    inputs: Histogram
    outputs: Histogram


def ends_of(model: nn.Module, names: Sequence[str], rows: Split, context: Context) -> dict[str, Ends]:
    """Values on both sides of convolutions from one pass, by name in the order in which the model runs them.

    Raises:
        StageError: the forward pass does not call one of them, an input has no batch axis, or a value is not
            finite; the message names the layer.
    """
    found: dict[str, Ends] = {}
    uses = uses_of(model, names, (), rows, context).functions
    before_relu = {name for name, read in uses.items() if read and all(each in _RELUS for each in read)}

    def meet(name: str, given: Tensor, made: Tensor) -> None:
        ends = found.setdefault(name, Ends(Histogram(), Histogram()))
        if given.ndim != made.ndim or given.ndim != 2 + len(model.get_submodule(name).kernel_size):  # type: ignore[arg-type]
            raise StageError(f"gets {list(given.shape)}, without a batch dimension; name it under `skip`")
        ends.inputs.add_(given.cpu())
        ends.outputs.add_((made.relu() if name in before_relu else made).cpu())

    with context.progress.bar("calibrating convolutions", len(rows)) as bar:
        hooks = {name: lambda given, made, name=name: meet(name, given, made) for name in names}
        for _ in _passes(model, hooks, rows, context):
            bar.advance(_BATCH)
    missing = set(names) - set(found)
    if missing:
        raise StageError(f"calibration: the forward pass does not call {', '.join(sorted(missing))}")
    return found


def choose_convolutions_(
    model: nn.Module,
    names: Sequence[str],
    grid: Grid,
    algorithm: Algorithm,
    rows: Split,
    context: Context,
    *,
    bias_correction: bool = False,
) -> dict[str, Integers]:
    """Choose the integers of convolutions; otherwise as `choose_integers_`.

    Args:
        names: in the order in which the model runs them.
    """
    from compress.quantize.integers.choose import settle_

    looks = algorithm not in ("rtn", "hqq") or bias_correction
    chosen: dict[str, Integers] = {}
    with context.progress.bar("choosing integers of convolutions", len(names)) as bar:
        for name in names:
            layer: Convolution = model.get_submodule(name)  # type: ignore[assignment]
            grams = _grams_at(model, name, rows, context) if looks else [None]
            chosen[name] = settle_(layer, name, grid, algorithm, grams, bias_correction=bias_correction)
            bar.advance(1)
    return chosen


def unfolded(x: Tensor, layer: Convolution) -> Tensor:
    """Unfold the inputs so that a convolution becomes a linear layer.

    Args:
        x: [b, c, ...].

    Returns:
        [groups, t, i], inputs in the order of the weight's.
    """
    spatial = len(layer.kernel_size)
    padded = pad_edges(x, edges_of(layer))
    if spatial == 1:  # an image of one row
        padded = padded.unsqueeze(2)
    one = (1,) * (2 - spatial)
    columns = F.unfold(
        padded,
        (*one, *layer.kernel_size),
        dilation=(*one, *layer.dilation),
        stride=(*one, *layer.stride),
    )  # [b, groups * i, positions]
    by_group = columns.reshape(len(x), layer.groups, -1, columns.shape[2])  # [b, groups, i, positions]
    return by_group.permute(1, 0, 3, 2).flatten(1, 2)


def _grams_at(model: nn.Module, name: str, rows: Split, context: Context) -> list[Gram]:
    """Second moments of the unfolded inputs, per group of channels."""
    layer: Convolution = model.get_submodule(name)  # type: ignore[assignment]
    size = layer.weight[0].numel() + 1
    grams = [Gram(torch.zeros(size, size)) for _ in range(layer.groups)]

    def meet(given: Tensor, made: Tensor) -> None:
        for row in torch.split(given.cpu(), 1):  # one by one: unfolding multiplies the size by k
            for gram, inputs in zip(grams, unfolded(row, layer), strict=True):
                gram.add_(inputs)

    for _ in _passes(model, {name: meet}, rows, context):
        pass
    return grams


def _passes(model: nn.Module, hooks: Mapping[str, Meet], rows: Split, context: Context) -> Iterator[None]:
    """Run all rows; each hook is called with its convolution's inputs and outputs, at every call."""
    with _meeting(model, hooks), torch.no_grad():
        model.to(context.device).eval()
        try:
            for batch in rows.batches(_BATCH):
                model(**to_tensors(batch, context.task.input_names, context.device))
                yield
        finally:
            model.to("cpu")


@contextmanager
def _meeting(model: nn.Module, hooks: Mapping[str, Meet]) -> Iterator[None]:
    def named(name: str, meet: Meet) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            try:
                meet(given[0], made)
            except StageError as error:
                raise StageError(f"calibration: {name}: {error}") from error

        return hook

    handles = [
        model.get_submodule(name).register_forward_hook(named(name, meet)) for name, meet in hooks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
