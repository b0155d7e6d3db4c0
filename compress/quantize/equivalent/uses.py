"""Trace which functions read the outputs of given layers, in one run of two rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from compress.model.forward import to_tensors

if TYPE_CHECKING:
    from compress.data.split import Split
    from compress.stage import Context

__all__ = ["Uses", "uses_of"]


@dataclass(frozen=True)
class Uses:
    """Result of `uses_of`.

    Attributes:
        calls: number of calls of each layer.
        functions: for each layer, the torch functions that read one of its outputs; None stands for the
            model's own output. Reads of a tensor after an in-place change don't count.
        sources: for each reader, by call, the layer whose output was its input; None for anything else.
    """

    calls: Counter[str] = field(default_factory=Counter)
    functions: dict[str, list[Any]] = field(default_factory=dict)
    sources: dict[str, list[str | None]] = field(default_factory=dict)


def uses_of(
    model: nn.Module, layers: Sequence[str], readers: Sequence[str], rows: Split, context: Context
) -> Uses:
    """Run the model once and record what reads the outputs of some layers.

    Args:
        layers: names of modules that return a tensor.
        readers: names of modules whose inputs are traced to their source.
    """
    watch = _Watch()

    def made(name: str) -> Callable[..., None]:
        return lambda module, given, output: watch.made(name, output)

    def read(name: str) -> Callable[..., None]:
        return lambda module, given: watch.read(name, given[0])

    handles = [model.get_submodule(name).register_forward_hook(made(name)) for name in layers]
    handles += [model.get_submodule(name).register_forward_pre_hook(read(name)) for name in readers]
    try:
        inputs = to_tensors(next(rows.batches(2)), context.task.input_names, context.device)
        model.to(context.device).eval()
        with torch.no_grad(), watch:
            answer = model(**inputs)
        watch.used(tree_leaves(answer), None)
    finally:
        model.to("cpu")
        for handle in handles:
            handle.remove()
    return watch.seen


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = Uses()
        self.tensors: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no id is reused

    def made(self, name: str, tensor: Tensor) -> None:
        self.tensors[id(tensor)] = (name, tensor)
        self.seen.calls[name] += 1
        self.seen.functions.setdefault(name, [])

    def read(self, name: str, given: Tensor) -> None:
        source, _ = self.tensors.get(id(given), (None, None))
        self.seen.sources.setdefault(name, []).append(source)

    def used(self, values: list[Any], function: Any) -> None:
        for value in values:
            if id(value) in self.tensors:
                self.seen.functions[self.tensors[id(value)][0]].append(function)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if tensors:  # reading a shape doesn't count as a use
            self.used(tree_leaves((args, kwargs)), func)
        for each in tensors:
            self.tensors.pop(id(each), None)  # changed in place: now the function's output
        return result
