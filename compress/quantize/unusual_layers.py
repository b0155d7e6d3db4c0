"""Find layers that must stay float by how the model uses them: bypassed by its forward pass, or not called.

DeBERTa reads `rel_embeddings.weight`, a table that it never calls; a quantized layer has no such tensor. ESM
has a contact head that only its own method calls: no row reaches it, so nothing can be calibrated.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.model.evaluating import evaluating
from compress.model.forward import device_of, to_tensors

if TYPE_CHECKING:
    from compress.stage import Context

__all__ = ["mark_unusual_layers_", "unusual_use"]

_KINDS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.RNNBase)
_MARK = "_modelpress_unusual_use"
_READ = "the model reads its weight itself"
_UNCALLED = "the forward pass does not call it"


def unusual_use(layer: nn.Module) -> str:
    """Why `mark_unusual_layers_` found that a layer must stay float; empty if it did not."""
    return str(getattr(layer, _MARK, ""))


def mark_unusual_layers_(model: nn.Module, context: Context) -> None:
    """Run two rows and mark each layer whose weight is read elsewhere, or that is not called.

    The mark is a plain attribute of the module: copies keep it, files don't. Does nothing without rows.
    """
    rows = next((each for each in (context.train, context.validation) if len(each)), None)
    if rows is None or isinstance(model, _KINDS) or not _takes(model, context.task.input_names):
        return
    layers = [each for each in model.modules() if isinstance(each, _KINDS)]
    inputs = to_tensors(next(rows.batches(2)), context.task.input_names, str(device_of(model)))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it reads weights of torch's encoder layers
    try:
        with ExitStack() as stack, torch.no_grad(), evaluating(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever runs the model for its predictions shows them
            found = [stack.enter_context(_watched(each)) for each in layers]
            model(**inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    for layer, use in zip(layers, found, strict=True):
        setattr(layer, _MARK, _READ if use.is_read else "" if use.is_called else _UNCALLED)


def _takes(model: nn.Module, names: Sequence[str]) -> bool:
    """Whether the rows are of the model at all: a stage that needs no rows may be given any."""
    try:
        inspect.signature(model.forward).bind(**dict.fromkeys(names))
    except TypeError:
        return False
    return True


@dataclass
class _Use:
    is_read: bool = False
    is_called: bool = False


@contextmanager
def _watched(layer: nn.Module) -> Iterator[_Use]:
    """Record calls of a layer, and reads of its weights while the layer itself isn't running."""
    kind: Any = type(layer)
    use = _Use()
    running = [False]

    def read(self: nn.Module, name: str) -> Any:
        if name.startswith("weight") and not running[0]:
            use.is_read = True
        return kind.__getattr__(self, name)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        use.is_called = running[0] = True
        try:
            return kind.forward(self, *args, **kwargs)
        finally:
            running[0] = False

    layer.__class__ = type(kind.__name__, (kind,), {"__getattr__": read, "forward": forward})
    try:
        yield use
    finally:
        layer.__class__ = kind
