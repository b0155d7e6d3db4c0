"""Cut the depth: keep some of a model's layers, in order, and change nothing else.

Which argument of a definition is the number of layers is found by trying: an argument of equal value is
changed, and the result must have the requested number of layers. So `num_hidden_layers`, `n_layers` or a
builder's own name all work. A list with one entry per layer (`layer_types`, `no_rope_layers`) keeps the
entries of the kept layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from compress.errors import ModelError
from compress.model.files.definition import Definition, attach_definition_, definition_of
from compress.model.structure.find import lacking, structure_of

__all__ = ["keep_layers_", "layer_count", "shallower", "with_layers"]


def layer_count(model: nn.Module) -> int:
    """Number of layers of a model.

    Raises:
        ModelError: the model doesn't say where its layers are.
    """
    return len(_layers(model))


@contextmanager
def with_layers(model: nn.Module, kept: Sequence[int]) -> Iterator[None]:
    """Run a model with only some of its layers inside the block; nothing else is changed.

    Args:
        kept: indices from 0, ascending.

    Raises:
        ModelError: the model doesn't say where its layers are.
    """
    layers, config = _layers(model), getattr(model, "config", None)
    holder, name = _place(model)
    lists = _lists_of(config, len(layers))
    shorter = nn.ModuleList([layers[index] for index in kept])
    setattr(holder, name, shorter)
    _number_(shorter)
    for each, values in lists.items():
        setattr(config, each, [values[index] for index in kept])
    try:
        yield
    finally:
        setattr(holder, name, layers)
        _number_(layers)
        for each, values in lists.items():
            setattr(config, each, values)


def keep_layers_(model: nn.Module, kept: Sequence[int]) -> None:
    """Keep only these layers, and update the model's definition so that it can be saved and loaded.

    Args:
        kept: indices from 0, ascending.

    Raises:
        ModelError: an index is out of range, there is none, or the model can't be built with fewer layers.
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
            f"{type(model).__name__} was not built by modelpress, so it can't be rebuilt with fewer layers; "
            "load it with model.file and model.builder"
        )
    path = structure_of(model).layers
    assert path is not None
    name, changed = _shallower(definition, path, total, kept)
    holder, last = _place(model)
    shorter = nn.ModuleList([layers[index] for index in kept]).train(layers.training)
    _number_(shorter)
    setattr(holder, last, shorter)
    # A file's model may be a Hugging Face one too, whose configuration has another name for the number.
    config: Any = getattr(model, "config", None)
    word = name if definition.kind == "hf" else "num_hidden_layers"
    for each, values in _lists_of(config, total).items():
        setattr(config, each, [values[index] for index in kept])
    if getattr(config, word, None) == total:
        setattr(config, word, len(kept))
    attach_definition_(model, changed)


def _number_(layers: nn.ModuleList) -> None:
    """Renumber the layers; transformers finds their keys and values by that number."""
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number  # type: ignore[assignment]


def _layers(model: nn.Module) -> nn.ModuleList:
    path = structure_of(model).layers
    found = None if path is None else model.get_submodule(path)
    if not isinstance(found, nn.ModuleList):
        raise ModelError(
            f"{lacking(model, 'layers in an nn.ModuleList', 'layers')}, so their number can't be changed",
            see="how-to/own-modules",
        )
    return found


def _place(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the layers, and their name in it."""
    path = structure_of(model).layers
    assert path is not None
    holder, _, name = path.rpartition(".")
    return model.get_submodule(holder), name


def shallower(definition: Definition, name: str, kept: Sequence[int]) -> Iterator[Definition]:
    """Yield definitions with fewer layers; the first one that can be built is the right one.

    They differ in which lists are cut: all with one entry per layer, or only those with "layer" in their
    name; for a file's builder, whose lists may be anything, finally none.

    Args:
        name: the argument that is the number of layers.
        kept: indices of the layers to keep.
    """
    values = _values(definition)
    lists = _lists_in(values, values[name])
    named = {each: found for each, found in lists.items() if "layer" in each}
    tried: list[list[str]] = []
    for chosen in [named, lists] if definition.kind == "hf" else [lists, named, {}]:
        if list(chosen) not in tried:
            tried.append(list(chosen))
            cut = {each: [found[index] for index in kept] for each, found in chosen.items()}
            yield definition.changed({name: len(kept), **cut})


def _lists_of(config: Any, total: int) -> dict[str, Any]:
    """Lists in a Hugging Face configuration that have one entry per layer and "layer" in their name."""
    if not hasattr(config, "to_dict"):
        return {}
    return {name: found for name, found in _lists_in(config.to_dict(), total).items() if "layer" in name}


def _lists_in(values: Mapping[str, Any], total: int) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, list | tuple) and len(value) == total and "token" not in name
    }


def _shallower(definition: Definition, path: str, total: int, kept: Sequence[int]) -> tuple[str, Definition]:
    """The argument that is the number of layers, and the definition with the new number."""
    numbers = (name for name, value in _whole_numbers(definition).items() if value == total)
    for name in numbers:
        for changed in shallower(definition, name, kept):
            try:
                found = changed.build().get_submodule(path)
            except (ModelError, AttributeError):
                continue
            if isinstance(found, nn.ModuleList) and len(found) == len(kept):
                return name, changed
    raise ModelError(
        f"none of the model's arguments is its number of layers ({total}), so it can't be rebuilt with "
        f"{len(kept)}"
    )


def _values(definition: Definition) -> dict[str, Any]:
    """All arguments of a definition, including defaults."""
    values = dict(definition.args)
    if definition.kind == "file":
        parameters = inspect.signature(definition.load_builder()).parameters
        values = {name: each.default for name, each in parameters.items()} | values
    return values


def _whole_numbers(definition: Definition) -> dict[str, int]:
    """Arguments that are integers; those with "layer" in their name come first."""
    numbers = {name: value for name, value in _values(definition).items() if type(value) is int}
    return dict(sorted(numbers.items(), key=lambda each: "layer" not in each[0]))
