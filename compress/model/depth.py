"""Cut the depth: some of a model's layers stay, in their order, and nothing else changes.

How a definition says the number of layers is found by trying: an argument that equals it is changed, and
what is then built must have as many layers as were asked for. So `num_hidden_layers`, `n_layers` or a
builder's own word are the same to us.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from compress.errors import ModelError
from compress.model.definition import Definition, attach_definition_, definition_of
from compress.model.structure import structure_of

__all__ = ["keep_layers_", "layer_count", "with_layers"]


def layer_count(model: nn.Module) -> int:
    """How many layers a model has.

    Raises:
        ModelError: it doesn't say where they are.
    """
    return len(_layers(model))


@contextmanager
def with_layers(model: nn.Module, kept: Sequence[int]) -> Iterator[None]:
    """Let a model answer with some of its layers alone, inside the block; nothing else of it is changed.

    Args:
        kept: indices from 0, ascending.

    Raises:
        ModelError: the model doesn't say where its layers are.
    """
    layers = _layers(model)
    holder, name = _place(model)
    setattr(holder, name, nn.ModuleList([layers[index] for index in kept]))
    try:
        yield
    finally:
        setattr(holder, name, layers)


def keep_layers_(model: nn.Module, kept: Sequence[int]) -> None:
    """Keep only these layers; the model's definition then says so too, and it can be saved and loaded again.

    Args:
        kept: indices from 0, ascending.

    Raises:
        ModelError: an index that isn't there, or none; or the model can't be built with fewer layers.
    """
    layers = _layers(model)
    total = len(layers)
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= total:
        raise ModelError(f"layers to keep must be some of 0..{total - 1}, ascending; got {list(kept)}")
    if len(kept) == total:
        return
    definition = definition_of(model)
    if definition is None:
        raise ModelError(
            f"{type(model).__name__} was not built by modelpress: it can't be built again with fewer layers"
        )
    path = structure_of(model).layers
    assert path is not None
    name, changed = _shallower(definition, path, total, len(kept))
    holder, last = _place(model)
    shorter = nn.ModuleList([layers[index] for index in kept]).train(layers.training)
    for number, layer in enumerate(shorter):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # by which transformers finds a layer's keys and values
                module.layer_idx = number  # type: ignore[assignment]
    setattr(holder, last, shorter)
    # A file's model may be one of Hugging Face, too; its configuration has another word than its builder.
    config: Any = getattr(model, "config", None)
    word = name if definition.kind == "hf" else "num_hidden_layers"
    if getattr(config, word, None) == total:
        setattr(config, word, len(kept))
    attach_definition_(model, changed)


def _layers(model: nn.Module) -> nn.ModuleList:
    path = structure_of(model).layers
    found = None if path is None else model.get_submodule(path)
    if not isinstance(found, nn.ModuleList):
        raise ModelError(
            f"{type(model).__name__}.structure() doesn't say which nn.ModuleList its layers are in ('layers')"
        )
    return found


def _place(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the layers, and their name in it."""
    path = structure_of(model).layers
    assert path is not None
    holder, _, name = path.rpartition(".")
    return model.get_submodule(holder), name


def _shallower(definition: Definition, path: str, total: int, count: int) -> tuple[str, Definition]:
    """The argument that is the number of layers, and the definition with another number."""
    for name, value in _whole_numbers(definition).items():
        if value != total:
            continue
        changed = definition.changed({name: count})
        try:
            built = changed.build()
            found = built.get_submodule(path)
        except (ModelError, AttributeError):
            continue
        if isinstance(found, nn.ModuleList) and len(found) == count:
            return name, changed
    raise ModelError(
        f"none of the model's arguments is its number of layers ({total}): it can't be built with {count}"
    )


def _whole_numbers(definition: Definition) -> dict[str, int]:
    """Arguments that are whole numbers; those that say so by their name come first."""
    values = dict(definition.args)
    if definition.kind == "file":
        parameters = inspect.signature(definition.load_builder()).parameters
        values = {name: each.default for name, each in parameters.items()} | values
    numbers = {name: value for name, value in values.items() if type(value) is int}
    return dict(sorted(numbers.items(), key=lambda each: "layer" not in each[0]))
