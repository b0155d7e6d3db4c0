"""Capture the inputs of layers, token by token; the forward pass stops there.

Calibrating one place costs on average half a forward pass per row, and the memory of one batch. Padded
positions are dropped if the task has an input `attention_mask`; without one all positions count.
Shapes: b = rows of a batch, s = sequence, t = tokens, i = input features of the consumer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from compress.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compress.data.split import Batch, Row, Split
    from compress.model.structure.sites import Site
    from compress.tasks import Task

__all__ = [
    "Call",
    "Place",
    "called_again",
    "calls_of",
    "input_at",
    "inputs_at",
    "inputs_of_sites",
    "placed_batches",
    "positions_of",
    "visit_inputs",
    "without_padding",
]

_MASK = "attention_mask"

Call = tuple[int, int]  # of a projection: sequences, and positions in each


class Place(Protocol):
    """A capture point: a `Site`, or anything else with a readable name and the path of a module."""

    @property
    def name(self) -> str:
        """Name for messages."""

    @property
    def consumer(self) -> str:
        """Path of the module whose input is captured."""


class _ReachedError(BaseException):
    """Ends a forward pass at the consumer; not an Exception, so that no `except` in a model catches it."""


def called_again(model: nn.Module, places: Sequence[Place], inputs: Mapping[str, Tensor]) -> list[str]:
    """Names of the places whose consumer is called more than once in a forward pass."""
    import torch

    calls: Counter[str] = Counter()
    handles = [
        model.get_submodule(place.consumer).register_forward_pre_hook(
            lambda _, __, name=place.name: calls.update([name])
        )
        for place in places
    ]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [place.name for place in places if calls[place.name] > 1]


def inputs_of_sites(
    model: nn.Module,
    sites: Sequence[Place],
    split: Split,
    task: Task,
    *,
    batch_size: int = 32,
    device: str = "cpu",
) -> Iterator[list[Tensor]]:
    """Yield the inputs of sites' consumers from one forward pass per batch, in order: [t, i] each.

    On the device. They are what the consumers receive: an open `gated` has been applied. Between two batches
    the model may be used, and changed; it is in eval mode on `device` until the last batch.

    Raises:
        StageError: an input is not finite, or a consumer is not reached; the message names the site.
    """
    for batch in placed_batches(model, split.batches(batch_size), task, device):
        yield inputs_at(model, sites, batch)


def placed_batches(
    model: nn.Module, batches: Iterable[Batch], task: Task, device: str
) -> Iterator[dict[str, Tensor]]:
    """Yield batches as tensors on a device; the model is there in eval mode until the last one."""
    from compress.model.evaluating import evaluating
    from compress.model.forward import to_tensors

    with evaluating(model, device):
        for batch in batches:
            yield to_tensors(batch, task.input_names, device)


def input_at(model: nn.Module, site: Place, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run one batch up to a site's consumer and return its input, without padding: [t, i]."""
    return inputs_at(model, [site], inputs)[0]


def inputs_at(model: nn.Module, sites: Sequence[Place], inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Run one batch up to the last of the consumers and return the input of each, without padding: [t, i].

    For a consumer that is called more than once, the first call counts.

    Raises:
        StageError: an input is not finite, or a consumer is not reached; the message names the site.
    """
    found: dict[int, Tensor] = {}
    visit_inputs(model, sites, inputs, found.__setitem__)
    return [found[index] for index in range(len(sites))]


def visit_inputs(
    model: nn.Module,
    sites: Sequence[Place],
    inputs: Mapping[str, Tensor],
    visit: Callable[[int, Tensor], None],
    *,
    again: bool = False,
) -> None:
    """Run one batch up to the last of the consumers, passing each input to `visit` immediately.

    Nothing is kept from one consumer to the next: memory is that of the forward pass.

    Args:
        visit: called with a site's index and its consumer's input, without padding: [t, i]. Once per site:
            for a consumer that is called more than once, at its first call.
        again: call it at every call, and run the whole forward pass.

    Raises:
        StageError: an input is not finite, or a consumer is not reached; the message names the site.
    """
    import torch

    met: set[int] = set()

    def meet(index: int, given: Tensor) -> None:
        if again or index not in met:
            met.add(index)
            visit(index, without_padding(given, inputs.get(_MASK), sites[index]))
        if len(met) == len(sites) and not again:
            raise _ReachedError

    # Registered for each call: they run after the hooks of `gated`, and don't affect other uses of the model.
    handles = [
        model.get_submodule(site.consumer).register_forward_pre_hook(
            lambda _, given, index=index: meet(index, given[0])
        )
        for index, site in enumerate(sites)
    ]
    try:
        with torch.no_grad():
            model(**inputs)
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    for index, site in enumerate(sites):
        if index not in met:
            raise StageError(f"calibration: {site.name}: the forward pass does not call {site.consumer}")


def positions_of(model: nn.Module, sites: Sequence[Site], row: Row, task: Task) -> int | None:
    """Number of positions of a row in a model's layers: its length; for an image, patches and extra tokens.

    Returns:
        None if the rows have no sequence and the sites (if there are any) see different numbers of positions.
    """
    first = task.inputs[0]
    if isinstance(first.shape[0], str):
        return len(row[first.name])
    calls = calls_of(model, sites, row, task)
    found = {sum(math.prod(call) for call in calls[site.consumer]) for site in sites}
    return found.pop() if len(found) == 1 else None


def calls_of(model: nn.Module, sites: Sequence[Site], row: Row, task: Task) -> dict[str, list[Call]]:
    """Calls of each projection of the sites in one forward pass of a row, by path.

    A projection whose weight the model uses without calling it counts as called where the consumer is.

    Raises:
        StageError: a consumer is not reached; the message names the site.
    """
    import torch

    from compress.model.evaluating import evaluating
    from compress.model.forward import to_tensors

    calls: dict[str, list[Call]] = {path: [] for site in sites for path in site.paths}
    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda module, _, output, path=path: calls[path].append(_call(module, output))
        )
        for path in calls
    ]
    batch = {name: row[name][None] for name in task.input_names}
    try:
        with torch.no_grad(), evaluating(model):
            model(**to_tensors(batch, task.input_names))
    finally:
        for handle in handles:
            handle.remove()
    for site in sites:
        if not calls[site.consumer]:
            raise StageError(f"{site.name}: the forward pass does not call {site.consumer}")
        for path in site.paths:
            calls[path] = calls[path] or calls[site.consumer]
    return calls


def _call(module: nn.Module, output: Tensor) -> Call:
    """Sequences and positions, by the output: [..., s, o] of a Linear, [b, o, ...] of a convolution."""
    weight: Any = getattr(module, "weight", None)
    if weight is not None and weight.ndim > 2:
        return len(output), output[0, 0].numel()
    return (output.shape[:-2].numel(), output.shape[-2]) if output.ndim > 1 else (1, 1)


def without_padding(x: Tensor, mask: Tensor | None, site: Place) -> Tensor:
    """Drop padded positions of a consumer's input or output: [b, s, i], [s, b, i] or [b*s, i] -> [t, i].

    Args:
        mask: [b, s], 0 = padding; None: no known padding.

    Raises:
        StageError: the shape doesn't say where the padding is, or a value is not finite.
    """
    import torch

    tokens = _kept(x, mask, site)
    if not bool(torch.isfinite(tokens).all()):
        raise StageError(f"calibration: the input of {site.consumer} ({site.name}) contains NaN or infinity")
    return tokens


def _kept(x: Tensor, mask: Tensor | None, site: Place) -> Tensor:
    tokens = x.flatten(0, -2) if x.ndim > 1 else x[None]  # [b*s, i]
    if mask is None or (x.ndim == 2 and len(x) == len(mask) != mask.numel()):
        return tokens  # no known padding, or one position per row, as after a pooler
    if x.ndim == 3 and len(x) == 1 and x.shape[:-1] != mask.shape:
        return tokens  # the same for all rows, like DeBERTa's relative positions
    if x.ndim == 3 and x.shape[:-1] == mask.T.shape != mask.shape:
        mask = mask.T  # a module that works with positions first, [s, b, i]
    if x.shape[:-1] not in (mask.shape, (mask.numel(),)):
        raise StageError(
            f"calibration: {site.name}: {site.consumer} gets {list(x.shape)}, so padding can't be located "
            f"with {_MASK} {list(mask.shape)}; it must get [b, s, i] or [b*s, i]"
        )
    return tokens[mask.flatten().bool()]  # [t, i]
